"""The distance to the nearest normal images, by a FAISS index."""

from pathlib import Path
from typing import Literal, Self

import faiss
import numpy as np

from metrad.errors import InputError
from metrad.scorers.base import Scorer


class KNN(Scorer):
    """Distance to the k nearest normal embeddings, exact.

    ``cosine`` is 1 - cos of the angle between embeddings; ``l2`` is the Euclidean distance of the embeddings as they
    come. FAISS itself gives inner products and squared distances; neither leaves this class.

    Args:
        k: how many neighbours; at most the number of normal images.
        metric: ``cosine`` or ``l2``.
        reduce: what becomes of the k distances: their ``mean``, ``max`` (the k-th) or ``min`` (the first).
    """

    def __init__(
        self,
        *,
        k: int = 1,
        metric: Literal["cosine", "l2"] = "cosine",
        reduce: Literal["mean", "max", "min"] = "mean",
    ) -> None:
        if k < 1:
            raise InputError(f"scorer.k must be at least 1, got {k}")
        self.k = k
        self.metric = metric
        self.reduce = reduce

    def check_size(self, normal_images: int) -> None:
        """Raise if an index of so many images cannot give k neighbours.

        Raises:
            InputError: k is larger.
        """
        super().check_size(normal_images)
        if self.k > normal_images:
            raise InputError(
                f"scorer.k={self.k} is larger than the index of {normal_images} normal images; lower scorer.k"
            )

    def save(self, folder: Path) -> None:
        """Write the index as ``index.faiss``."""
        faiss.write_index(self.index_, str(folder / "index.faiss"))

    def load(self, folder: Path) -> Self:
        """Read ``index.faiss``.

        Raises:
            InputError: it is missing or broken, or smaller than k.
        """
        path = folder / "index.faiss"
        try:
            self.index_ = faiss.read_index(str(path))
        except RuntimeError as error:
            raise InputError(f"{path} cannot be read as a FAISS index") from error
        self.check_size(self.index_.ntotal)
        self.width_ = self.index_.d
        return self

    def _fit(self, normal: np.ndarray) -> None:
        width = normal.shape[1]
        self.index_ = faiss.IndexFlatIP(width) if self.metric == "cosine" else faiss.IndexFlatL2(width)
        self.index_.add(self._prepared(normal))

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        found, _ = self.index_.search(self._prepared(embeddings), self.k)
        distances = 1 - found if self.metric == "cosine" else np.sqrt(found)
        scores: np.ndarray = getattr(distances, self.reduce)(axis=1)
        return scores

    def _neighbours(self, embeddings: np.ndarray) -> np.ndarray:
        _, nearest = self.index_.search(self._prepared(embeddings), 1)
        positions: np.ndarray = nearest[:, 0]
        return positions

    def _prepared(self, embeddings: np.ndarray) -> np.ndarray:
        if self.metric == "l2":
            return embeddings
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        unit: np.ndarray = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit
