"""Local scorers: distances relative to the distances between nearby normal images."""

from typing import Any, ClassVar

import numpy as np

from metrad.scorers.base import stored
from metrad.scorers.neighbours import NeighbourScorer
from metrad.scorers.search.distances import Metric, Reduce, reduced

_LEAST_SHARE = 0.01
_LOF_LEAST = 1e-10


class LocalKNN(NeighbourScorer):
    """Distance to the k nearest normal embeddings, divided by the same distance of the k-th of them.

    s(x) = r(x) / max(r(n_k), f), where r(x) = reduce over j = 1..k of d(x, n_j), and n_j is the j-th nearest normal
    embedding of x. A normal embedding is not its own neighbour. Scores are about 1 among normal embeddings,
    whatever their density. The floor f is a hundredth of the mean r of all normal embeddings; it serves embeddings with
    copies, whose r is 0. If that mean is 0 too, the divisor is 1.

    Source: Tax 2001, "One-class classification" (thesis, TU Delft), the nearest neighbour method; the same idea for
    embeddings is Wilkinghoff 2025, arXiv 2509.10951.

    Args:
        k: number of neighbours; smaller than the number of normal images.
        metric: ``cosine`` or ``l2``.
        reduce: reduction of the k distances: their ``mean``, ``max`` (the k-th), ``min`` (the first) or ``sum``.
    """

    compares_normals: ClassVar[bool] = True

    def __init__(self, *, k: int = 5, metric: Metric = "cosine", reduce: Reduce = "max") -> None:
        super().__init__(k=k, metric=metric)
        self.reduce = reduce

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        super()._fit(normal, classes)
        distances, _ = self._nearest_others()
        own = reduced(distances, self.reduce)
        self.own_ = np.maximum(own, _LEAST_SHARE * own.mean()) if own.any() else np.ones_like(own)

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        distances, positions = self._nearest(embeddings)
        scores: np.ndarray = reduced(distances, self.reduce) / self.own_[positions[:, -1]]
        return scores

    def _shaping(self) -> dict[str, Any]:
        return {"metric": self.metric, "k": self.k, "reduce": self.reduce}

    def _state(self) -> dict[str, Any]:
        return {"own": self.own_}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        self.own_ = stored(state, "own", self.index_.ntotal)


class LOF(NeighbourScorer):
    """Local outlier factor: the density around the normal neighbours, divided by the density around the embedding.

    s(x) = mean over j of lrd(n_j) / lrd(x), with the local reachability density
    lrd(x) = 1 / (mean over j of max(d_k(n_j), d(x, n_j)) + 1e-10). d_k is the distance of a normal embedding to its
    k-th nearest other. Scores are about 1 among normal embeddings. They equal
    ``-LocalOutlierFactor(novelty=True).score_samples`` of scikit-learn.

    Source: Breunig 2000 (SIGMOD).

    Args:
        k: number of neighbours; smaller than the number of normal images.
        metric: ``cosine`` or ``l2``.
    """

    compares_normals: ClassVar[bool] = True

    def __init__(self, *, k: int = 20, metric: Metric = "cosine") -> None:
        super().__init__(k=k, metric=metric)

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        super()._fit(normal, classes)
        distances, positions = self._nearest_others()
        self.reach_ = distances[:, -1]
        self.density_ = self._density(distances, positions)

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        distances, positions = self._nearest(embeddings)
        ratios: np.ndarray = self.density_[positions].mean(axis=1) / self._density(distances, positions)
        return ratios

    def _density(self, distances: np.ndarray, positions: np.ndarray) -> np.ndarray:
        reachability = np.maximum(self.reach_[positions], distances).mean(axis=1)
        density: np.ndarray = 1 / (reachability + _LOF_LEAST)
        return density

    def _shaping(self) -> dict[str, Any]:
        return {"metric": self.metric, "k": self.k}

    def _state(self) -> dict[str, Any]:
        return {"reach": self.reach_, "density": self.density_}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        size = self.index_.ntotal
        self.reach_, self.density_ = stored(state, "reach", size), stored(state, "density", size)
