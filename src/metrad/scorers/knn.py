"""k-NN scorer: the distance to the nearest normal images, found by a FAISS index."""

from typing import Any

import numpy as np

from metrad.errors import InputError
from metrad.scorers.base import stored
from metrad.scorers.neighbours import NeighbourScorer
from metrad.scorers.search.distances import Metric, Reduce, reduced
from metrad.scorers.search.indexes import IndexSettings, Kind, build, recall


class KNN(NeighbourScorer):
    """Distance to the k nearest normal embeddings.

    s(x) = reduce over j = 1..k of d(x, n_j), with n_j the j-th nearest normal embedding.

    ``flat`` compares with every normal embedding and is exact. ``fp16`` and ``sq8`` do so with embeddings kept in half
    or a quarter of the memory. ``ivf`` and ``hnsw`` compare with a part of them. For every index but ``flat``, fitting
    measures the recall: the share of the true k nearest others of normal embeddings that the index finds.

    Source: Ramaswamy 2000 (SIGMOD) for the k-th distance, Angiulli & Pizzuti 2002 (PKDD) for the sum; FAISS, Douze
    2024, arXiv 2401.08281.

    Args:
        k: number of neighbours; at most the number of normal images.
        metric: ``cosine`` or ``l2``.
        reduce: reduction of the k distances: their ``mean``, ``max`` (the k-th), ``min`` (the first) or ``sum``.
        index: ``flat``, ``ivf``, ``hnsw``, ``sq8`` or ``fp16``.
        nlist: number of lists of ``ivf``; None for a choice by the number of embeddings, see ``IndexSettings``.
        nprobe: number of lists that a search of ``ivf`` reads; None as above.
        M: number of links per vector in ``hnsw``; None as above.
        ef_search: number of candidates that a search of ``hnsw`` keeps; None as above.
        min_recall: smallest accepted recall, above 0 and at most 1; ignored for ``flat``.
    """

    def __init__(  # noqa: PLR0913 - each is a key of the YAML
        self,
        *,
        k: int = 1,
        metric: Metric = "cosine",
        reduce: Reduce = "mean",
        index: Kind = "flat",
        nlist: int | None = None,
        nprobe: int | None = None,
        M: int | None = None,
        ef_search: int | None = None,
        min_recall: float = 0.95,
    ) -> None:
        super().__init__(k=k, metric=metric)
        if not 0 < min_recall <= 1:
            raise InputError(f"scorer.min_recall must be above 0 and at most 1, got {min_recall}")
        self.reduce = reduce
        self.index = index
        self.min_recall = min_recall
        self.settings = IndexSettings(index, nlist, nprobe, M, ef_search)

    def check_size(self, normal_images: int) -> None:
        """Raise if there are too few normal images for k neighbours or for the settings of the index.

        Raises:
            InputError: k or nlist is larger than the number of images, or nprobe is larger than nlist.
        """
        super().check_size(normal_images)
        self.settings.chosen(normal_images, self.k)

    @property
    def index_kind(self) -> Kind:
        """Kind of the index."""
        return self.index

    def _build(self, normal: np.ndarray) -> Any:
        settings = self.settings.chosen(len(normal), self.k)
        index = build(settings, normal, self.metric)
        if self.index != "flat":
            self._accept(settings, recall(index, normal, self.k, self.metric))
        return index

    def _accept(self, settings: IndexSettings, found: float) -> None:
        if found < self.min_recall:
            raise InputError(
                f"scorer.index={self.index} finds {found:.3f} of the {self.k} nearest normal embeddings, less than "
                f"scorer.min_recall={self.min_recall}; {settings.advice()}"
            )
        self.recall_ = found
        for name, value in settings.given().items():
            setattr(self, f"{name}_", value)

    def _figures(self) -> dict[str, float]:
        names = ("recall", "nlist", "nprobe", "M", "ef_search")
        return {name: getattr(self, f"{name}_") for name in names if hasattr(self, f"{name}_")}

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        distances, _ = self._nearest(embeddings)
        return reduced(distances, self.reduce)

    def _shaping(self) -> dict[str, Any]:
        if self.index == "flat":
            return {"metric": self.metric, "index": self.index}
        wanted = {name: getattr(self.settings, name) for name in ("nlist", "nprobe", "M", "ef_search")}
        # The recall was measured with this k.
        return {"metric": self.metric, "index": self.index, "k": self.k, **wanted}

    def _state(self) -> dict[str, Any]:
        return dict(self._figures())

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        if self.index == "flat":
            return
        numbers = {name: int(stored(state, name, kind="i")) for name in state if name != "recall"}
        self._accept(IndexSettings(self.index, **numbers), float(stored(state, "recall")))
