"""What the scorers share that compare with the nearest normal embeddings."""

from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np

from metrad.errors import InputError
from metrad.scorers.base import ARRAYS, Scorer
from metrad.scorers.search.distances import Metric, prepared
from metrad.scorers.search.indexes import IndexSettings, build, search, search_others
from metrad.scorers.search.screening import Screen, pays, screen

INDEX = "index.faiss"


class NeighbourScorer(Scorer):
    """A scorer with an index of the normal embeddings, whatever their class.

    Args:
        k: how many neighbours.
        metric: ``cosine``, 1 - cos of the angle between embeddings, or ``l2``, the Euclidean distance of the embeddings
            as they come. FAISS itself gives inner products and squared distances; neither reaches a score.

    Attributes:
        compares_normals: whether each normal embedding needs k others, and not just a test image k in all.
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
        """Raise if an index of so many images cannot give k neighbours.

        Raises:
            InputError: k is larger, or as large where normal images are compared with each other.
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

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        del classes  # one index holds them all, and the nearest embedding is of the nearest class
        self.index_ = self._build(normal)
        self._forget_screen()

    def _build(self, normal: np.ndarray) -> Any:
        return build(IndexSettings(), normal, self.metric)

    def _nearest(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and positions (N, k) of the nearest normal embeddings, nearest first."""
        queries = prepared(embeddings, self.metric)
        return search(self.index_, queries, self.k, self.metric, self._screen(len(queries)))

    def _nearest_others(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and positions (N, k) of the nearest others of each normal embedding."""
        size = self.index_.ntotal
        return search_others(self.index_, np.arange(size), self.k, self.metric, self._screen(size))

    def _screen(self, queries: int) -> Screen | None:
        """Return the screen of the index, made when it first pays for so many queries."""
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

    def _shaping(self) -> dict[str, Any]:
        return {"metric": self.metric}

    def _state(self) -> dict[str, Any]:
        return {}  # all there is lies in the index

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back nothing, as the index is read by itself."""

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        write_index(self.index_, folder / INDEX)

    def _read(self, folder: Path, *, mmap: bool) -> None:
        super()._read(folder, mmap=mmap)
        self.index_ = read_index(folder / INDEX, mmap=mmap)
        self._forget_screen()
        self.check_size(self.index_.ntotal)


def write_index(index: Any, path: Path) -> None:
    """Write an index to ``path``, aside first: this very file may be where a memory-mapped index reads from."""
    partial = path.with_name(f".{path.name}.partial")
    faiss.write_index(index, str(partial))
    partial.replace(path)


def read_index(path: Path, *, mmap: bool) -> Any:
    """Return the index that ``write_index`` wrote, its vectors left on disk with ``mmap``.

    Raises:
        InputError: it is none.
    """
    try:
        # Only this flag leaves the codes of a flat index on disk; IO_FLAG_MMAP reads them all the same.
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as a FAISS index") from error
