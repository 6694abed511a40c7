"""The saved detector and embeddings of a run: no pickle, and a checksum for each file."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from omegaconf import DictConfig

from metrad.data.prepared import ImageRecord
from metrad.detector import bundle
from metrad.detector.bundle import Blueprint, Bundle
from metrad.detector.core import Detector
from metrad.errors import InputError
from metrad.evaluation.embeddings import EMBEDDED_ROLES, Embedded
from metrad.files import read_json, replacing, require_unchanged, sealed, sha256, unsealed, write_rows
from metrad.runs.config import stored
from metrad.runs.config.build import plain
from metrad.runs.directory import Run
from metrad.scorers.base import RECORD as SCORER

CHECKSUMS = "checksums.json"


def save_detector(run: Run, detector: Detector) -> str:
    """Write the detector into the run's ``model`` folder, all or nothing; return the SHA-256 of its embedder."""
    with replacing(run.model) as partial:
        partial.mkdir()
        detector.save(partial, {"split": sha256(run.split)})
    return sha256(run.embedder)


def load_detector(run: Run, allow: Sequence[str] = ()) -> Detector:
    """Load the run's detector after checking its files and ``split.json`` against their checksums.

    Args:
        run: the run.
        allow: packages, such as ``mine``, whose classes may be built besides metrad's own.

    Raises:
        InputError: a file is missing or has changed.
    """
    opened = bundle.unseal(run.model) if (run.model / bundle.RECORD).exists() else _converted(run)
    require_unchanged(run.split, opened.about["split"])
    return Detector.of(opened, allow)


def _converted(run: Run) -> Bundle:
    """Return the ``model`` folder of a run from before version 0.2 as a bundle.

    Its ``checksums.json`` lacks the settings of the parts, so they are taken from the run's configuration.
    """
    record = unsealed(run.model / CHECKSUMS)
    for name in (run.embedder.name, run.head.name, run.calibration.name, SCORER):
        if name not in record["files"]:
            raise InputError(f"{run.model / CHECKSUMS} lacks {name}; it was written by another version of metrad")
    files = {**record["files"], **unsealed(run.model / SCORER)["files"]}  # the scorer's record lists its index
    for name, digest in files.items():
        require_unchanged(run.model / name, digest)
    cfg, split = stored.inert(run.load_config()), run.saved_split()
    size = len(split["head_classes"])
    return Bundle(
        folder=run.model,
        blueprint=Blueprint(plain(cfg.backbone), _embedder_settings(run, cfg), plain(cfg.head), record.get("scorer")),
        precision=_precision(run),
        head_size=max(size, 3) if cfg.trainer.get("max_epochs") == 0 else size,
        files=files,
        about={"split": record["split"]},
    )


def _embedder_settings(run: Run, cfg: DictConfig) -> dict[str, Any]:
    with safetensors.safe_open(run.embedder, "np") as file:
        noted = (file.metadata() or {}).get("image_size")
    return {
        "image_size": cfg.image_size if noted is None else int(noted),
        "channels_last": cfg.channels_last,
        "whiten": cfg.get("whiten", False),
        "test_time_flip": cfg.get("test_time_flip", False),
    }


def _precision(run: Run) -> str:
    """Return the precision of a run's embeddings; older runs, which do not record it, used float32."""
    noted = read_json(run.environment) if run.environment.is_file() else {}
    return str(noted["precision"]) if isinstance(noted, dict) and "speed" in noted else "32-true"


def save_embeddings(run: Run, embedded: Embedded, embedder: str) -> None:
    """Write the embeddings and the list of their images into the run's ``embeddings`` folder, all or nothing.

    ``embedder`` is the SHA-256 of the embedder's weights. An existing folder, which holds fewer roles, is replaced.
    """
    rows = [{"role": role, **record._asdict()} for role, records in embedded.records.items() for record in records]
    with replacing(run.embeddings) as partial:
        partial.mkdir()
        arrays = {role: np.ascontiguousarray(array) for role, array in embedded.arrays.items()}
        safetensors.numpy.save_file(arrays, partial / "embeddings.safetensors")
        write_rows(partial / "images.csv", rows)
        _seal(partial, ["embeddings.safetensors", "images.csv"], embedder=embedder)
        if run.embeddings.exists():
            shutil.rmtree(run.embeddings)


def load_embeddings(run: Run, embedder: str) -> Embedded:
    """Return the saved embeddings of a run; ``embedder`` is the SHA-256 that they must have been saved with.

    Raises:
        InputError: the files are missing, have changed or are from another embedder.
    """
    try:
        record = unsealed(run.embeddings / CHECKSUMS)
        for name in ("embeddings.safetensors", "images.csv"):
            require_unchanged(run.embeddings / name, record["files"][name])
    except InputError as error:
        raise InputError(f"{error}; or remove {run.embeddings} to compute it again from the images") from error
    if record["embedder"] != embedder:
        raise InputError(f"{run.embeddings} is not of this run's model; remove it to compute it again from the images")
    records: dict[str, list[ImageRecord]] = {role: [] for role in EMBEDDED_ROLES}
    with (run.embeddings / "images.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            records.setdefault(row["role"], []).append(
                ImageRecord(row["image"], row["class_name"], int(row["position"]))
            )
    return Embedded(safetensors.numpy.load_file(run.embeddings / "embeddings.safetensors"), records)


def _seal(folder: Path, names: list[str], **others: Any) -> None:
    digests = {name: sha256(folder / name) for name in names}
    (folder / CHECKSUMS).write_text(sealed({"files": digests, **others}), encoding="utf-8")
