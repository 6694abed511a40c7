"""The base of neighbour scorers, which compare with the nearest normal embeddings."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metrad.errors import InputError
from metrad.scorers.base import ARRAYS, Scorer
from metrad.scorers.search.distances import Metric, prepared
from metrad.scorers.search.indexes import IndexSettings, Kind, build, search, search_others
from metrad.scorers.search.screening import Screen, pays, screen
from metrad.scorers.search.stored import read_index, write_index

INDEX = "index.faiss"


class NeighbourScorer(Scorer):
    """A scorer with an index of the normal embeddings of all classes.

    Args:
        k: number of neighbours.
        metric: ``cosine``, 1 - cos of the angle between embeddings, or ``l2``, their Euclidean distance, not squared.

    Attributes:
        compares_normals: whether fitting also compares each normal embedding with its k nearest others.
    """

    has_neighbours: ClassVar[bool] = True
    compares_normals: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = (ARRAYS, INDEX)

    def __init__(self, *, k: int, metric: Metric) -> None:
        if k < 1:
            raise InputError(f"scorer.k must be at least 1, got {k}")
        self.k = k
        self.metric = metric

    def check_size(self, normal_images: int) -> None:
        """Raise if there are too few normal images for k neighbours.

        Raises:
            InputError: k is larger than the number of images, or equal to it if normal images are compared with each
                other.
        """
        super().check_size(normal_images)
        if self.k > normal_images:
            raise InputError(
                f"scorer.k={self.k} is larger than the index of {normal_images} normal images; lower scorer.k"
            )
        if self.compares_normals and self.k == normal_images:
            raise InputError(
                f"scorer.k={self.k} must be smaller than the {normal_images} normal images, as each is compared with k "
                "others; lower scorer.k"
            )

    @property
    def index_kind(self) -> Kind:
        """Kind of the index."""
        return "flat"

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        del classes  # one index holds all classes; the nearest embedding is in the nearest class
        self.index_ = self._build(normal)
        self._forget_screen()

    def _build(self, normal: np.ndarray) -> Any:
        return build(IndexSettings(), normal, self.metric)

    def _nearest(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and positions (N, k) of the nearest normal embeddings, nearest first."""
        queries = prepared(embeddings, self.metric)
        return search(self.index_, queries, self.k, self.metric, self._screen(len(queries)))

    def _nearest_others(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and positions (N, k) of the nearest other normal embeddings of each normal embedding."""
        size = self.index_.ntotal
        return search_others(self.index_, np.arange(size), self.k, self.metric, self._screen(size))

    def _screen(self, queries: int) -> Screen | None:
        """Return the screen of the index; None until a search of enough ``queries`` first pays for building it."""
        if not hasattr(self, "screen_"):
            if not pays(self.index_, queries):
                return None
            self.screen_ = screen(self.index_)
        return self.screen_

    def _forget_screen(self) -> None:
        vars(self).pop("screen_", None)

    def _neighbours(self, embeddings: np.ndarray) -> np.ndarray:
        queries = prepared(embeddings, self.metric)
        _, positions = search(self.index_, queries, 1, self.metric, self._screen(len(queries)))
        first: np.ndarray = positions[:, 0]
        return first

    def nearest(self, embeddings: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and positions (N, count) of the nearest normal embeddings of (N, D), nearest first.

        Raises:
            NotFittedError: ``fit`` or ``load`` has not been called.
            InputError: as for ``score``, or ``count`` is below 1 or above the number of normal embeddings.
        """
        queries = prepared(self._checked(embeddings, self.fitted_width), self.metric)
        if not 1 <= count <= self.index_.ntotal:
            raise InputError(f"count must be from 1 to the {self.index_.ntotal} normal images, got {count}")
        return search(self.index_, queries, count, self.metric, self._screen(len(queries)))

    def _shaping(self) -> dict[str, Any]:
        return {"metric": self.metric}

    def _state(self) -> dict[str, Any]:
        return {}  # the index is the whole state

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        """Do nothing: the index, read separately, is the whole state."""

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        write_index(self.index_, folder / INDEX)

    def _read(self, folder: Path, *, mmap: bool) -> None:
        self.index_ = read_index(folder / INDEX, self.index_kind, self.width_, self.metric, mmap=mmap)
        super()._read(folder, mmap=mmap)
        self._forget_screen()
        self.check_size(self.index_.ntotal)
