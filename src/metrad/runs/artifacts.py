"""The saved detector and embeddings of a run: no pickle, and a checksum for each file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from omegaconf import DictConfig

from metrad.data.decoding import Kept
from metrad.data.prepared import ImageRecord
from metrad.data.torchvision_sources import open_source
from metrad.detector import bundle
from metrad.detector.bundle import Blueprint, Bundle
from metrad.detector.core import Detector
from metrad.errors import InputError, first_line
from metrad.evaluation.embeddings import EMBEDDED_ROLES, Embedded
from metrad.files import (
    checksums,
    follow_umask,
    read_arrays,
    read_rows,
    remove,
    replacing,
    require_inside,
    require_unchanged,
    sealed,
    sha256,
    unsealed,
    write_rows,
)
from metrad.runs.config import stored
from metrad.runs.config.build import factory, plain
from metrad.runs.directory import Run
from metrad.scorers.base import RECORD as SCORER

CHECKSUMS = "checksums.json"
ARRAYS = "embeddings.safetensors"
IMAGES = "images.csv"
MOST_IMAGES = 10**9
_COLUMNS = {"role": str, "image": str, "class_name": str, "position": int}


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
    require_inside(run.path, run.model)
    record = run.model / bundle.RECORD
    if run.has(record):
        run.read(record)
        opened = bundle.unseal(run.model)
    else:
        opened = _converted(run)
    require_unchanged(run.split, str(opened.about.get("split")))
    return Detector.of(opened, allow)


def convert(path: str | Path, folder: str | Path) -> None:
    """Write the detector of a run from an earlier version into the new folder ``folder``, from which it can score.

    The record of how the images were resized, which it lacks, is made from the run's configuration and its images'
    source. Which images it was fitted on is not recorded.

    Raises:
        InputError: the run has not finished, or its files have changed.
    """
    run = Run.finished(path)
    detector = load_detector(run)
    if detector.kept is None:
        detector.kept = _kept(run, detector)
    detector.save(folder)


def _kept(run: Run, detector: Detector) -> Kept:
    """Return how the images of an earlier run were kept."""
    cfg = stored.inert(run.load_config())
    cfg.merge_with({"allow_targets": []})
    source = open_source(factory(cfg, "dataset.source"))
    limit = cfg.dataset.get("max_megapixels", Kept.max_megapixels)
    root = None if source.root is None else str(source.root.absolute())
    if source.pixels is not None:
        height, width, channels = source.pixels[0].shape
        return Kept(height, width, channels, as_arrays=True, max_megapixels=limit, root=root)
    size = source.size or detector.backend.embedder.size
    return Kept(size, size, max_megapixels=limit, root=root)


def _converted(run: Run) -> Bundle:
    """Return the ``model`` folder of a run from before version 0.2 as a bundle.

    Its ``checksums.json`` lacks the settings of the parts, so they are taken from the run's configuration.
    """
    path = run.model / CHECKSUMS
    record = unsealed(path)
    files, scorer = checksums(record, path), run.model / SCORER
    for name in (run.embedder.name, run.head.name, run.calibration.name, SCORER):
        if name not in files:
            raise InputError(f"{path} lacks {name}; it was written by another version of metrad")
    files |= checksums(unsealed(scorer), scorer)  # the scorer's record lists its index
    bundle.require_files(run.model, files)
    cfg, split = stored.inert(run.load_config()), run.saved_split()
    size = len(split["head_classes"])
    return Bundle(
        folder=run.model,
        blueprint=Blueprint(plain(cfg.backbone), _embedder_settings(run, cfg), plain(cfg.head), record.get("scorer")),
        precision=_precision(run),
        head_size=max(size, 3) if cfg.trainer.get("max_epochs") == 0 else size,
        files=files,
        about={"split": record.get("split")},
    )


def _embedder_settings(run: Run, cfg: DictConfig) -> dict[str, Any]:
    try:
        with safetensors.safe_open(run.embedder, "np") as file:
            noted = (file.metadata() or {}).get("image_size")
        size = cfg.image_size if noted is None else int(noted)
    except Exception as error:  # safetensors' own errors share no base
        raise InputError(f"{run.embedder} cannot be read ({first_line(error)})") from error
    return {
        "image_size": size,
        "channels_last": cfg.channels_last,
        "whiten": cfg.get("whiten", False),
        "test_time_flip": cfg.get("test_time_flip", False),
    }


def _precision(run: Run) -> str:
    """Return the precision of a run's embeddings; older runs, which do not record it, used float32."""
    noted = run.read_json(run.environment) if run.has(run.environment) else {}
    found = noted.get("precision") if isinstance(noted, dict) and "speed" in noted else "32-true"
    if found not in bundle.PRECISIONS:
        raise InputError(f"{run.environment}: precision is {str(found)[:40]}, which metrad does not know")
    return str(found)


def save_embeddings(run: Run, embedded: Embedded, embedder: str) -> None:
    """Write the embeddings and the list of their images into the run's ``embeddings`` folder, all or nothing.

    ``embedder`` is the SHA-256 of the embedder's weights. An existing folder, which holds fewer roles, is replaced.
    """
    rows = [{"role": role, **record._asdict()} for role, records in embedded.records.items() for record in records]
    with replacing(run.embeddings) as partial:
        partial.mkdir()
        arrays = {role: np.ascontiguousarray(array) for role, array in embedded.arrays.items()}
        safetensors.numpy.save_file(arrays, partial / ARRAYS)
        follow_umask(partial / ARRAYS)
        write_rows(partial / IMAGES, rows)
        _seal(partial, [ARRAYS, IMAGES], embedder=embedder)
        remove(run.embeddings)


def load_embeddings(run: Run, embedder: str) -> Embedded:
    """Return the saved embeddings of a run; ``embedder`` is the SHA-256 that they must have been saved with.

    Raises:
        InputError: the files are missing, have changed or are from another embedder.
    """
    again = f"remove {run.embeddings} to compute it again from the images"
    try:
        require_inside(run.path, run.embeddings)
        path = run.embeddings / CHECKSUMS
        record = unsealed(path)
        if not checksums(record, path).keys() >= {ARRAYS, IMAGES}:
            raise InputError(f"{path} lacks {ARRAYS} or {IMAGES}")
        bundle.require_files(run.embeddings, record["files"])
        arrays, rows = read_arrays(run.embeddings / ARRAYS), read_rows(run.embeddings / IMAGES, _COLUMNS)
    except InputError as error:
        raise InputError(f"{error}; or {again}") from error
    if record.get("embedder") != embedder:
        raise InputError(f"{run.embeddings} is not of this run's model; {again}")
    records: dict[str, list[ImageRecord]] = {role: [] for role in (*EMBEDDED_ROLES, *arrays)}
    for row in rows:
        records.setdefault(row["role"], []).append(ImageRecord(row["image"], row["class_name"], row["position"]))
    fault = _fault(arrays, records, run.saved_split()) or _misplaced(records)
    if fault:
        raise InputError(f"{run.embeddings}: {fault}; {again}")
    return Embedded(arrays, records)


def _fault(arrays: dict[str, np.ndarray], records: dict[str, list[ImageRecord]], split: dict[str, Any]) -> str | None:
    """Return in what embeddings differ from the images of the split that they should be of; None if in nothing."""
    for role, listed in records.items():
        array = arrays.get(role, np.empty(0))
        if array.ndim != 2 or array.dtype != np.float32 or array.shape[1] != arrays[EMBEDDED_ROLES[0]].shape[-1]:
            return f"the embeddings of {role} images must be (N, D) float32, got {array.dtype} of shape {array.shape}"
        if len(array) != len(listed) or [record.image for record in listed] != split["images"].get(role):
            return f"{IMAGES} does not list the {role} images of the run's split, one for each embedding"
        kind = role.removeprefix("test_").replace("calibration", "normal")
        strangers = {record.class_name for record in listed} - {*split["classes"][kind]}
        if strangers:
            return f"{IMAGES} lists {role} images of {min(strangers)!r}, which is no {kind} class of the run's split"
    return None


def _misplaced(records: dict[str, list[ImageRecord]]) -> str | None:
    """Return what is wrong with the positions of the images, which must all differ; None if nothing is."""
    places = [record.position for listed in records.values() for record in listed]
    wrong = next((place for place in places if not 0 <= place < MOST_IMAGES), None)
    if wrong is not None:
        return f"{IMAGES} lists an image at position {str(wrong)[:40]}"
    return None if len({*places}) == len(places) else f"{IMAGES} lists two images at one position"


def _seal(folder: Path, names: list[str], **others: Any) -> None:
    digests = {name: sha256(folder / name) for name in names}
    (folder / CHECKSUMS).write_text(sealed({"files": digests, **others}), encoding="utf-8")
