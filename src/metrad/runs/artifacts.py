"""The model and the embeddings of a run on disk: no pickle, each file with a checksum."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from omegaconf import OmegaConf
from torch import nn

from metrad.data.prepared import ImageRecord
from metrad.errors import InputError
from metrad.evaluation.embeddings import ROLES, Embedded
from metrad.files import replacing, require_unchanged, sealed, sha256, unsealed, write_rows
from metrad.models.embedder import Embedder
from metrad.runs.directory import Run
from metrad.scorers import Scorer


def save_model(run: Run, embedder: Embedder, head: nn.Module, scorer: Scorer, calibration_scores: np.ndarray) -> None:
    """Write weights, fitted scorer and calibration scores into the run's ``model`` folder, all or nothing."""
    with replacing(run.model) as partial:
        partial.mkdir()
        _save_weights(embedder, partial / run.embedder.name, image_size=str(embedder.size))
        _save_weights(head, partial / run.head.name)
        safetensors.numpy.save_file({"scores": np.sort(calibration_scores)}, partial / run.calibration.name)
        scorer.save(partial)
        files = [run.embedder.name, run.head.name, run.calibration.name, "scorer.json"]
        settings = OmegaConf.to_container(run.load_config().scorer, resolve=True)
        _seal(partial, files, split=sha256(run.split), scorer=settings)


def load_split(run: Run) -> dict[str, Any]:
    """Return what ``split.json`` holds.

    Raises:
        InputError: it is missing or has changed since the run was trained.
    """
    require_unchanged(run.split, unsealed(run.model / "checksums.json")["split"])
    return run.saved_split()


def load_weights(run: Run, path: Path, module: nn.Module) -> None:
    """Read into ``module`` the weights at ``path``, one of the files of the run's model.

    Raises:
        InputError: they are missing, changed or of another module.
    """
    require_unchanged(path, _digest(run.model, path.name))
    try:
        module.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:  # safetensors and torch errors share no base
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]})") from error


def input_size(run: Run) -> int | None:
    """Return the height and width that the run's backbone saw; None for a run from before this was noted.

    Raises:
        InputError: the embedder's file is missing or has changed.
    """
    require_unchanged(run.embedder, _digest(run.model, run.embedder.name))
    with safetensors.safe_open(run.embedder, "pt") as file:
        noted = (file.metadata() or {}).get("image_size")
    return None if noted is None else int(noted)


def fitted_with(run: Run) -> dict[str, Any] | None:
    """Return the settings of the scorer that was fitted when the run was trained, and gave its calibration scores.

    The run's configuration may have been edited since. None for a run from before this was noted.

    Raises:
        InputError: the checksums of its model are missing or have changed.
    """
    settings: dict[str, Any] | None = unsealed(run.model / "checksums.json").get("scorer")
    return settings


def load_scorer(run: Run, scorer: Scorer) -> np.ndarray:
    """Read into ``scorer`` the state fitted when the run was trained, and return its calibration scores, rising.

    Raises:
        InputError: it is missing, changed, of other settings or of another run.
    """
    for path in (run.model / "scorer.json", run.calibration):
        require_unchanged(path, _digest(run.model, path.name))
    scorer.load(run.model)
    scores: np.ndarray = safetensors.numpy.load_file(run.calibration)["scores"]
    return scores


def save_embeddings(run: Run, embedded: Embedded) -> None:
    """Write embeddings and what the images are into the run's ``embeddings`` folder, all or nothing.

    What lies there already, of fewer roles, is replaced.
    """
    rows = [{"role": role, **record._asdict()} for role, records in embedded.records.items() for record in records]
    with replacing(run.embeddings) as partial:
        partial.mkdir()
        arrays = {role: np.ascontiguousarray(array) for role, array in embedded.arrays.items()}
        safetensors.numpy.save_file(arrays, partial / "embeddings.safetensors")
        write_rows(partial / "images.csv", rows)
        _seal(partial, ["embeddings.safetensors", "images.csv"], embedder=_digest(run.model, run.embedder.name))
        if run.embeddings.exists():
            shutil.rmtree(run.embeddings)


def load_embeddings(run: Run) -> Embedded:
    """Return what ``save_embeddings`` wrote.

    Raises:
        InputError: it is missing, changed or of another run.
    """
    try:
        record = unsealed(run.embeddings / "checksums.json")
        for name in ("embeddings.safetensors", "images.csv"):
            require_unchanged(run.embeddings / name, record["files"][name])
    except InputError as error:
        raise InputError(f"{error}; or remove {run.embeddings}, and it is made anew from the images") from error
    if record["embedder"] != _digest(run.model, run.embedder.name):
        raise InputError(f"{run.embeddings} is not of this run's model; remove it, and it is made anew from the images")
    records: dict[str, list[ImageRecord]] = {role: [] for role in ROLES}
    with (run.embeddings / "images.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            records.setdefault(row["role"], []).append(
                ImageRecord(row["image"], row["class_name"], int(row["position"]))
            )
    return Embedded(safetensors.numpy.load_file(run.embeddings / "embeddings.safetensors"), records)


def _save_weights(module: nn.Module, path: Path, **about: str) -> None:
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    safetensors.torch.save_file(weights, path, metadata=about)


def _seal(folder: Path, names: list[str], **others: Any) -> None:
    digests = {name: sha256(folder / name) for name in names}
    (folder / "checksums.json").write_text(sealed({"files": digests, **others}), encoding="utf-8")


def _digest(folder: Path, name: str) -> str:
    """Return the checksum that ``folder`` keeps of its file ``name``."""
    path = folder / "checksums.json"
    files = unsealed(path)["files"]
    if name not in files:
        raise InputError(f"{path} knows no {name}; it was written by another version of metrad")
    return str(files[name])
