"""A detector: what turns images into anomaly scores and verdicts."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import safetensors.numpy

from metrad.detector import bundle
from metrad.detector.bundle import Blueprint, Bundle
from metrad.errors import InputError
from metrad.scorers import HeadScorer, Scorer

if TYPE_CHECKING:  # a detector is opened and read without torch
    from metrad.models.embedder import Embedder
    from metrad.models.heads import Head


class Backend(Protocol):
    """What gives embeddings."""

    @property
    def embedder(self) -> "Embedder":
        """The embedder, in evaluation mode."""

    @property
    def head(self) -> "Head":
        """The head that the embedder was trained with, in evaluation mode."""


class Detector:
    """An embedder, a fitted scorer, the calibration scores, and the names of the normal images.

    Args:
        blueprint: what the parts are built from.
        backend: gives embedder and head.
        make_scorer: gives the fitted scorer; called once, when it is first asked for.
        calibration_scores: scores of the calibration images, (M,), in rising order.
        normal_images: names of the normal images, in the order of the scorer's index.
        precision: in which embeddings are computed, as Lightning names it.
        loaded_from: the bundle it was loaded from; None if it was just trained.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        backend: Backend,
        make_scorer: Callable[[], Scorer],
        *,
        calibration_scores: np.ndarray,
        normal_images: list[str],
        precision: str = "32-true",
        loaded_from: Bundle | None = None,
    ) -> None:
        self.blueprint = blueprint
        self.backend = backend
        self.calibration_scores = calibration_scores
        self.normal_images = normal_images
        self.precision = precision
        self.loaded_from = loaded_from
        self._make_scorer = make_scorer

    @cached_property
    def scorer(self) -> Scorer:
        """The fitted scorer.

        Raises:
            InputError: its files do not fit its settings, or the run is so old that it does not name its scorer.
        """
        return self._make_scorer()

    @property
    def digest(self) -> str:
        """The SHA-256 of the embedder's weights; empty for a detector that was not loaded."""
        return self.loaded_from.files[bundle.EMBEDDER] if self.loaded_from else ""

    @classmethod
    def load(cls, folder: str | Path, *, allow: Sequence[str] = ()) -> Self:
        """Open the detector in ``folder``, after every file of it is found unchanged.

        Args:
            folder: what ``save`` wrote, such as ``RUN/model``.
            allow: prefixes of packages whose classes may be built beside metrad's own.

        Raises:
            InputError: a file is missing or has changed.
        """
        return cls.of(bundle.unseal(Path(folder)), allow)

    @classmethod
    def of(cls, opened: Bundle, allow: Sequence[str] = ()) -> Self:
        """Return the detector of a bundle that was opened; ``allow`` is as for ``load``."""
        from metrad.detector.torch_backend import TorchBackend

        backend = TorchBackend(opened, allow)
        calibration = safetensors.numpy.load_file(opened.folder / bundle.CALIBRATION)["scores"]
        return cls(
            opened.blueprint,
            backend,
            lambda: _load_scorer(opened, backend, allow),
            calibration_scores=calibration,
            normal_images=opened.normal_images,
            precision=opened.precision,
            loaded_from=opened,
        )

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write the detector into the empty folder ``folder``, with ``about`` in its record."""
        from metrad.detector.torch_backend import save_weights

        save_weights(folder, self.backend.embedder, self.backend.head)
        self.scorer.save(folder)
        safetensors.numpy.save_file({"scores": self.calibration_scores}, folder / bundle.CALIBRATION)
        (folder / bundle.NORMAL).write_text(json.dumps(self.normal_images, ensure_ascii=False), encoding="utf-8")
        size = self.backend.head.num_classes
        bundle.seal(folder, self.blueprint, precision=self.precision, head_size=size, about=about or {})


def _load_scorer(opened: Bundle, backend: Backend, allow: Sequence[str]) -> Scorer:
    """Return the scorer of a bundle with its fitted state, and with the head if it asks the head."""
    settings = opened.blueprint.scorer
    if settings is None:
        raise InputError(f"{opened.folder} does not say with which settings its scorer was fitted; fit one anew")
    scorer = bundle.build_part("scorer", settings, allow)
    if not isinstance(scorer, Scorer):
        raise InputError(f"{settings['_target_']} makes a {type(scorer).__name__}, not a scorer")
    scorer.load(opened.folder, verify=False)
    if isinstance(scorer, HeadScorer):
        scorer.attach(backend.head, scorer.fitted_classes)
    return scorer
