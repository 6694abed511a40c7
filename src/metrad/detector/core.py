"""The detector: embedder, fitted scorer and calibration scores, loaded from one folder and saved in one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import safetensors.numpy

from metrad.data.decoding import DECODER_VERSION, Decoding
from metrad.detector import bundle
from metrad.detector.bundle import Blueprint, Bundle
from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration
from metrad.files import follow_umask, read_arrays
from metrad.scorers import HeadScorer, Scorer

if TYPE_CHECKING:  # importing this file must not import torch
    from metrad.models.embedder import Embedder
    from metrad.models.heads import Head


class Backend(Protocol):
    """Provider of a detector's embedder and head."""

    @property
    def embedder(self) -> "Embedder":
        """The embedder, in evaluation mode."""

    @property
    def head(self) -> "Head":
        """The head that the embedder was trained with, in evaluation mode."""


class Detector:
    """An embedder, a fitted scorer, the calibration scores, and the names of the normal images.

    Args:
        blueprint: settings of the parts.
        backend: provides the embedder and the head.
        make_scorer: returns the fitted scorer; called once, at the first use of ``scorer``.
        calibration: scores of the calibration images in ascending order, and their groups.
        normal_images: names of the normal images, in the order of the scorer's index.
        precision: precision of the embeddings, named as in Lightning.
        loaded_from: bundle that the detector was loaded from; None after training.

    Attributes:
        decoding: how the images were decoded, which images to come must share; older runs used version 1.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        backend: Backend,
        make_scorer: Callable[[], Scorer],
        *,
        calibration: Calibration,
        normal_images: list[str],
        precision: str = "32-true",
        loaded_from: Bundle | None = None,
    ) -> None:
        self.blueprint = blueprint
        self.backend = backend
        self.calibration = calibration
        self.normal_images = normal_images
        self.precision = precision
        self.decoding = Decoding(**loaded_from.about.get("decoding", {})) if loaded_from else Decoding(DECODER_VERSION)
        self.loaded_from = loaded_from
        self._make_scorer = make_scorer

    @cached_property
    def scorer(self) -> Scorer:
        """The fitted scorer.

        Raises:
            InputError: the scorer's files do not fit its settings, or an old run does not record the settings.
        """
        return self._make_scorer()

    @property
    def digest(self) -> str:
        """SHA-256 of the embedder's weights; empty if the detector was not loaded from a folder."""
        return self.loaded_from.files[bundle.EMBEDDER] if self.loaded_from else ""

    @classmethod
    def load(cls, folder: str | Path, *, allow: Sequence[str] = ()) -> Self:
        """Load the detector in ``folder`` after checking each file against its checksum.

        Args:
            folder: a folder written by ``save``, such as ``RUN/model``.
            allow: packages, such as ``mine``, whose classes may be built besides metrad's own.

        Raises:
            InputError: a file is missing or has changed.
        """
        return cls.of(bundle.unseal(Path(folder)), allow)

    @classmethod
    def of(cls, opened: Bundle, allow: Sequence[str] = ()) -> Self:
        """Return the detector of an opened bundle; ``allow`` is as for ``load``."""
        from metrad.detector.torch_backend import TorchBackend

        backend = TorchBackend(opened, allow)
        return cls(
            opened.blueprint,
            backend,
            lambda: _load_scorer(opened, backend, allow),
            calibration=_calibration(opened.folder / bundle.CALIBRATION),
            normal_images=opened.normal_images,
            precision=opened.precision,
            loaded_from=opened,
        )

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write the detector into the empty folder ``folder``, and the entries ``about`` into its record."""
        from metrad.detector.torch_backend import save_weights

        save_weights(folder, self.backend.embedder, self.backend.head)
        self.scorer.save(folder)
        calibration = {"scores": self.calibration.scores}
        if self.calibration.groups is not None:
            calibration["groups"] = np.asarray(self.calibration.groups, dtype=np.int64)
        safetensors.numpy.save_file(calibration, folder / bundle.CALIBRATION)
        follow_umask(folder / bundle.CALIBRATION)
        (folder / bundle.NORMAL).write_text(json.dumps(self.normal_images, ensure_ascii=False), encoding="utf-8")
        size, entries = self.backend.head.num_classes, {"decoding": asdict(self.decoding), **(about or {})}
        bundle.seal(folder, self.blueprint, precision=self.precision, head_size=size, about=entries)


def _calibration(path: Path) -> Calibration:
    arrays = read_arrays(path)
    scores, groups = arrays.get("scores", np.empty(0)), arrays.get("groups")
    if scores.ndim != 1 or scores.dtype.kind != "f" or not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
        raise InputError(f"{path} holds no finite scores in ascending order; create it again")
    if groups is not None and (groups.shape != scores.shape or groups.dtype.kind not in "iu"):
        raise InputError(f"{path} holds no group number for each score; create it again")
    return Calibration(scores, groups)


def _load_scorer(opened: Bundle, backend: Backend, allow: Sequence[str]) -> Scorer:
    """Return the fitted scorer of a bundle, with the head attached if it needs one."""
    settings = opened.blueprint.scorer
    if settings is None:
        raise InputError(f"{opened.folder} does not record the settings of its scorer; fit a new scorer")
    scorer: Scorer = bundle.build_part("scorer", settings, allow)
    scorer.load(opened.folder, verify=False)
    if isinstance(scorer, HeadScorer):
        scorer.attach(backend.head, scorer.fitted_classes)
    return scorer
