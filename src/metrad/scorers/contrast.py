"""Contrast scorer: the distance to normal images, minus a share of the distance to reference images."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from metrad.errors import InputError
from metrad.scorers.base import ARRAYS
from metrad.scorers.neighbours import INDEX, NeighbourScorer
from metrad.scorers.search.distances import Metric, Reduce, prepared, reduced
from metrad.scorers.search.indexes import IndexSettings, build, search
from metrad.scorers.search.stored import read_index, write_index

REFERENCE_INDEX = "reference.faiss"


class Contrast(NeighbourScorer):
    """Distance to the nearest normal embeddings, minus a share of the distance to the nearest reference embeddings.

    s(x) = r(x, normal) - weight * r(x, reference), with r(x, ·) = reduce over j = 1..k of the distance to the j-th
    nearest. Of two images at the same distance from the normal images, the one nearer to the reference images scores
    higher. An unusual normal image is far from the reference images too, which lowers its score. Scores can be below 0.

    Source: Ren 2021, arXiv 2106.09022, subtracts the distance to a Gaussian of all classes from that to a Gaussian of
    one class. Here both distances are those of ``KNN``. The default weight was chosen on stand-ins (docs/studies.md).

    Args:
        k: number of neighbours, both normal and reference.
        metric: ``cosine`` or ``l2``.
        reduce: reduction of the k distances: their ``mean``, ``max`` (the k-th), ``min`` (the first) or ``sum``.
        weight: weight of the distance to reference images, at least 0; with 0 the scores are those of ``KNN``.
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
        """Raise if there are too few reference images for k neighbours.

        Raises:
            InputError: there are no reference images, or fewer than k.
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
        self.reference_ = read_index(folder / REFERENCE_INDEX, "flat", self.width_, self.metric, mmap=mmap)
        self.check_reference(self.reference_.ntotal)
