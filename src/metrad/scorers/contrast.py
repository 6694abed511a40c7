"""The distance to the nearest normal images, held against that to the nearest reference images."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from metrad.errors import InputError
from metrad.scorers.base import ARRAYS
from metrad.scorers.neighbours import INDEX, NeighbourScorer, read_index, write_index
from metrad.scorers.search.distances import Metric, Reduce, prepared, reduced
from metrad.scorers.search.indexes import IndexSettings, build, search

REFERENCE_INDEX = "reference.faiss"


class Contrast(NeighbourScorer):
    """How far the nearest normal embeddings are, less a share of how far the nearest reference embeddings are.

    s(x) = r(x, normal) - weight * r(x, reference), with r(x, ·) = reduce over j = 1..k of the distance to the j-th
    nearest. Of two images that are as far from all that is normal, the one that looks like something else that is known
    is the more anomalous; and an unusual normal image, which looks like nothing else either, is less so. Scores may be
    below 0.

    Source: Ren 2021, arXiv 2106.09022, takes the distance to a Gaussian of all classes off that to a class; here both
    distances are those of ``KNN``. The default weight was chosen on stand-ins for anomalies (docs/studies.md).

    Args:
        k: how many neighbours, of either kind.
        metric: ``cosine`` or ``l2``.
        reduce: what becomes of the k distances: their ``mean``, ``max`` (the k-th), ``min`` (the first) or ``sum``.
        weight: of the distance to reference images, at least 0; 0 leaves that of ``KNN``.
    """

    needs_reference: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = (ARRAYS, INDEX, REFERENCE_INDEX)

    def __init__(self, *, k: int = 20, metric: Metric = "cosine", reduce: Reduce = "mean", weight: float = 0.5) -> None:
        super().__init__(k=k, metric=metric)
        if not 0 <= weight < float("inf"):
            raise InputError(f"scorer.weight must be at least 0 and finite, got {weight}")
        self.reduce = reduce
        self.weight = weight

    def check_reference(self, reference_images: int) -> None:
        """Raise if so many reference images cannot give k neighbours.

        Raises:
            InputError: there are none, or k is larger.
        """
        super().check_reference(reference_images)
        if self.k > reference_images:
            raise InputError(
                f"scorer.k={self.k} is larger than the number of reference images, {reference_images}; lower scorer.k"
            )

    def _fit_reference(self, reference: np.ndarray) -> None:
        self.reference_ = build(IndexSettings(), reference, self.metric)

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        normal, _ = self._nearest(embeddings)
        reference, _ = search(self.reference_, prepared(embeddings, self.metric), self.k, self.metric)
        scores: np.ndarray = reduced(normal, self.reduce) - self.weight * reduced(reference, self.reduce)
        return scores

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        write_index(self.reference_, folder / REFERENCE_INDEX)

    def _read(self, folder: Path, *, mmap: bool) -> None:
        super()._read(folder, mmap=mmap)
        self.reference_ = read_index(folder / REFERENCE_INDEX, mmap=mmap)
        self.check_reference(self.reference_.ntotal)
