"""What every scorer shares: the contract and its checks."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy as np

from metrad.errors import InputError, MetradError


class NotFittedError(MetradError, RuntimeError):
    """A scorer was used before ``fit``."""


class Scorer(ABC):
    """Anomaly scores from the embeddings of normal images; higher is more anomalous, always.

    Fitted values end in ``_``. Embeddings are (N, D) float arrays.
    """

    width_: int

    def fit(self, normal: np.ndarray) -> Self:
        """Learn what normal looks like from the normal embeddings (N, D).

        Raises:
            InputError: no embeddings, values that are not finite, or a setting that does not suit them.
        """
        normal = self._checked(normal, None)
        self.check_size(len(normal))
        self._fit(normal)
        self.width_ = normal.shape[1]
        return self

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Return a score for each of the embeddings (N, D), as (N,) float32.

        Raises:
            NotFittedError: ``fit`` or ``load`` has not been called.
            InputError: another width than fitted, or values that are not finite.
        """
        return self._score(self._checked(embeddings, self.fitted_width))

    def neighbours(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the positions (N,) of the nearest normal embedding of each of the embeddings (N, D)."""
        return self._neighbours(self._checked(embeddings, self.fitted_width))

    def check_size(self, normal_images: int) -> None:
        """Raise ``InputError`` if so many normal images are too few to fit; told before training begins."""
        if normal_images < 1:
            raise InputError(f"scorer {type(self).__name__}: no normal images to fit")

    @property
    def fitted_width(self) -> int:
        """Width of the embeddings the scorer was fitted on.

        Raises:
            NotFittedError: it was not.
        """
        if not hasattr(self, "width_"):
            raise NotFittedError(f"scorer {type(self).__name__} is not fitted; call fit or load first")
        return self.width_

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the fitted state into ``folder``, without pickle."""

    @abstractmethod
    def load(self, folder: Path) -> Self:
        """Read the state that ``save`` wrote."""

    @abstractmethod
    def _fit(self, normal: np.ndarray) -> None: ...

    @abstractmethod
    def _score(self, embeddings: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _neighbours(self, embeddings: np.ndarray) -> np.ndarray: ...

    def _checked(self, embeddings: np.ndarray, width: int | None) -> np.ndarray:
        """Return the embeddings as C-ordered float32, which is what FAISS reads."""
        embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
        if embeddings.ndim != 2 or (width is not None and embeddings.shape[1] != width):
            wanted = "any width" if width is None else f"width {width}"
            raise InputError(
                f"scorer {type(self).__name__}: embeddings must be (N, D) of {wanted}, got shape {embeddings.shape}"
            )
        bad = ~np.isfinite(embeddings).all(axis=1)
        if bad.any():
            raise InputError(
                f"scorer {type(self).__name__}: {bad.sum()} of {len(embeddings)} embeddings hold NaN or infinite "
                f"values, the first at row {bad.argmax()}; the model has diverged"
            )
        return embeddings
