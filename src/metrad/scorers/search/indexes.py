"""FAISS indexes: their settings, building and searching them, and their recall."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import faiss
import numpy as np

from metrad.errors import InputError
from metrad.scorers.search.distances import Metric, distances, prepared
from metrad.scorers.search.exact import exact, measured
from metrad.scorers.search.screening import Screen

Kind = Literal["flat", "ivf", "hnsw", "sq8", "fp16"]

METRICS = {"cosine": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
_OWNERS = {"nlist": "ivf", "nprobe": "ivf", "M": "hnsw", "ef_search": "hnsw"}
_SAMPLE = 1000  # queries that measure recall
_ROWS = 2**15  # vectors prepared at a time, which avoids a second copy of all vectors
_TRAINING = 39  # training vectors per list
_SHARED = 32  # mean queries per list from which one product for all of them is faster


@dataclass(frozen=True)
class IndexSettings:
    """Kind of an index and its search effort. Values that are None are chosen from the number N of embeddings.

    Chosen values: nlist = 4·√N, with at least 39 embeddings per list; nprobe = √nlist / 4, at least 16; M = 32;
    ef_search = √N, at least 64 and at least twice k.

    Source: the FAISS wiki, "Guidelines to choose an index" (4·√N to 16·√N lists, M from 4 to 64). FAISS warns below 39
    embeddings per list. nprobe and ef_search are this project's choice.

    Raises:
        InputError: a number is below its range, or belongs to another kind of index.
    """

    kind: Kind = "flat"
    nlist: int | None = None
    nprobe: int | None = None
    M: int | None = None
    ef_search: int | None = None

    def __post_init__(self) -> None:
        """Check the settings that do not depend on the embeddings."""
        for name, value in self.given().items():
            if self.kind != _OWNERS[name]:
                raise InputError(
                    f"scorer.{name}={value} is only for scorer.index={_OWNERS[name]}, not {self.kind}; set it to null"
                )
            least = 2 if name == "M" else 1
            if value < least:
                raise InputError(f"scorer.{name} must be at least {least}, got {value}")
        if self.nlist is not None and self.nprobe is not None:
            self._check_probes()

    def given(self) -> dict[str, int]:
        """Return the numbers that are not None, by name."""
        numbers = {name: getattr(self, name) for name in _OWNERS}
        return {name: value for name, value in numbers.items() if value is not None}

    def chosen(self, size: int, k: int) -> Self:
        """Return these settings with every None of their kind replaced, for ``size`` embeddings and k neighbours.

        Raises:
            InputError: there are more lists than embeddings, or more probes than lists.
        """
        if self.kind == "hnsw":
            effort = self.ef_search or max(64, 2 * k, math.isqrt(size))
            return replace(self, M=self.M or 32, ef_search=effort)
        if self.kind != "ivf":
            return self
        nlist = self.nlist or max(1, min(round(4 * math.sqrt(size)), size // 39))
        if nlist > size:
            raise InputError(f"scorer.nlist={nlist} is larger than the {size} normal images; lower scorer.nlist")
        result = replace(self, nlist=nlist, nprobe=self.nprobe or min(nlist, max(16, math.ceil(math.sqrt(nlist) / 4))))
        result._check_probes()
        return result

    def advice(self) -> str:
        """Return the advice that raises the recall of this index, for an error message."""
        better = {
            "ivf": f"raise scorer.nprobe (now {self.nprobe} of {self.nlist} lists)",
            "hnsw": f"raise scorer.ef_search (now {self.ef_search}) or scorer.M (now {self.M})",
            "sq8": "choose scorer.index=fp16",
        }.get(self.kind)
        return f"{better} or choose scorer.index=flat" if better else "choose scorer.index=flat"

    def _check_probes(self) -> None:
        if self.nprobe is not None and self.nlist is not None and self.nprobe > self.nlist:
            raise InputError(f"scorer.nprobe={self.nprobe} is larger than scorer.nlist={self.nlist}; lower it")


def build(settings: IndexSettings, vectors: np.ndarray, metric: Metric) -> Any:
    """Return an index of the vectors (N, D) by ``settings``, in which no number of their kind is None.

    For ``cosine`` the vectors are scaled to length 1. The same vectors give the same index.
    """
    descriptions = {
        "flat": "Flat",
        "ivf": f"IVF{settings.nlist},Flat",
        "hnsw": f"HNSW{settings.M},Flat",
        "sq8": "SQ8",
        "fp16": "SQfp16",
    }
    index: Any = faiss.index_factory(vectors.shape[1], descriptions[settings.kind], METRICS[metric])
    if settings.kind == "ivf":
        index.cp.min_points_per_centroid = 1  # FAISS does not warn about an nlist that the user chose
        index.nprobe = settings.nprobe
    if settings.kind == "hnsw":
        index.hnsw.efSearch = settings.ef_search
    index.train(_training_set(settings, vectors, metric))
    if isinstance(index, faiss.IndexFlatCodes):
        # Allocated at once: growing step by step takes up to three times the memory.
        index.codes.resize(len(vectors) * index.code_size)
        index.codes.resize(0)
    if settings.kind == "ivf":
        _fill_lists(index, vectors, metric)
        return index
    with _one_thread() if settings.kind == "hnsw" else nullcontext():
        for block in _blocks(vectors, metric):
            index.add(block)
    return index


def _blocks(vectors: np.ndarray, metric: Metric) -> Iterator[np.ndarray]:
    for i in range(0, len(vectors), _ROWS):
        yield prepared(vectors[i : i + _ROWS], metric)


def _fill_lists(index: Any, vectors: np.ndarray, metric: Metric) -> None:
    """Add the vectors to an inverted file whose lists get their final size at once, which saves memory."""
    numbers = np.concatenate([index.quantizer.assign(block, 1)[:, 0] for block in _blocks(vectors, metric)])
    for i, size in enumerate(np.bincount(numbers, minlength=index.nlist).tolist()):
        index.invlists.resize(i, size)
        index.invlists.resize(i, 0)
    for block in _blocks(vectors, metric):
        own = numbers[index.ntotal : index.ntotal + len(block)]
        index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(own))
    index.make_direct_map()


def _training_set(settings: IndexSettings, vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the vectors that an index of ``settings`` is trained on before vectors are added."""
    if settings.kind == "sq8":  # learns the range of each dimension, which two vectors give as well as all
        ranges = [(block.min(axis=0), block.max(axis=0)) for block in _blocks(vectors, metric)]
        return np.stack([np.min([low for low, _ in ranges], axis=0), np.max([high for _, high in ranges], axis=0)])
    size = _TRAINING * settings.nlist if settings.nlist else 1
    if size < len(vectors):
        vectors = vectors[np.sort(np.random.default_rng(0).choice(len(vectors), size, replace=False))]
    return prepared(vectors, metric)


def search(
    index: Any, queries: np.ndarray, k: int, metric: Metric, screen: Screen | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and positions (N, k) of the k nearest vectors of each of the queries (N, D), nearest first.

    The index finds the positions; a flat index finds the true ones. Distances are computed again in float64, so that
    neither the rounding of FAISS nor the number of queries changes a score. If an approximate index finds fewer than k
    vectors for a query, all vectors are searched. A ``screen`` of a flat index saves time and changes no result.

    Raises:
        InputError: distances overflow float32.
    """
    if isinstance(index, faiss.IndexFlat):
        positions = exact(index, queries, k, metric, screen)
    elif isinstance(index, faiss.IndexIVFFlat) and len(queries) * index.nprobe >= _SHARED * index.nlist:
        positions = _list_by_list(index, queries, k)
    else:
        _, positions = index.search(queries, k)
    short = (positions < 0).any(axis=1)
    if short.any():
        positions[short] = _exhaustive(index, queries[short], k)
    if (positions < 0).any():
        raise InputError("the embeddings are too large to compare: their distances overflow float32")
    apart = measured(index, queries, positions, metric)
    order = np.argsort(apart, axis=1, kind="stable")
    return np.take_along_axis(apart, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _list_by_list(index: Any, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the positions (N, k) that ``index.search`` finds, -1 where it finds none.

    FAISS reads a list again for every query. Here each list is multiplied once with all queries that probe it. Each
    thread takes whole lists, because products this small gain nothing from several threads.
    """
    _, lists = index.quantizer.search(queries, index.nprobe)
    order = np.argsort(lists, axis=None, kind="stable")
    bounds = np.searchsorted(lists.ravel()[order], np.arange(index.nlist + 1))

    def look(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        size, rows = index.invlists.list_size(i), order[bounds[i] : bounds[i + 1]] // index.nprobe
        if not size or not len(rows):
            return None
        own = faiss.rev_swig_ptr(index.invlists.get_ids(i), size)
        codes = faiss.rev_swig_ptr(index.invlists.get_codes(i), size * index.code_size)
        vectors = codes.view(np.float32).reshape(size, index.d)
        near, found = faiss.knn(queries[rows], vectors, min(k, size), metric=index.metric_type)
        return rows, near, own[found]

    best = faiss.ResultHeap(len(queries), k, keep_max=index.metric_type == faiss.METRIC_INNER_PRODUCT)
    with ThreadPoolExecutor(faiss.omp_get_max_threads(), "list", faiss.omp_set_num_threads, (1,)) as pool:
        for result in filter(None, pool.map(look, range(index.nlist))):
            best.add_result_subset(*result)
    best.finalize()
    positions: np.ndarray = best.I
    return positions


def search_others(
    index: Any, own: np.ndarray, k: int, metric: Metric, screen: Screen | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and positions (N, k) of the k nearest other vectors of the vectors at positions ``own`` (N,)."""
    apart, positions = search(index, index.reconstruct_batch(own), k + 1, metric, screen)
    itself = positions == own[:, None]
    # If copies have displaced the vector itself, the last neighbour is one too many.
    itself[~itself.any(axis=1), -1] = True
    return apart[~itself].reshape(-1, k), positions[~itself].reshape(-1, k)


def recall(index: Any, vectors: np.ndarray, k: int, metric: Metric) -> float:
    """Return the share of the k nearest other vectors that ``index`` finds, over a seeded sample of its vectors (N, D).

    A vector as near as the true k-th counts as found, so ties do not lower the recall. With fewer than k other vectors,
    all of them are searched for.
    """
    k = min(k, len(vectors) - 1)
    if k < 1:
        return 1.0
    sample = np.random.default_rng(0).choice(len(vectors), min(len(vectors), _SAMPLE), replace=False)
    # The query is the original vector, not its compressed form in the index.
    queries = prepared(vectors[sample], metric)
    farthest = _distance_of_kth_other(vectors, sample, k, metric)
    _, found = search(index, queries, k + 1, metric)
    hits = 0
    for i, own in enumerate(sample):
        others = found[i][found[i] != own][:k]
        apart = distances(queries[i][None], prepared(vectors[others], metric)[None], metric)
        hits += int((apart <= farthest[i] * (1 + 1e-6)).sum())
    return hits / (len(sample) * k)


def _distance_of_kth_other(vectors: np.ndarray, own: np.ndarray, k: int, metric: Metric) -> np.ndarray:
    """Return the distance of each vector at positions ``own`` (N,) to its k-th nearest other vector, as (N,)."""
    queries = prepared(vectors[own], metric)
    nearest = np.full((len(own), k), np.inf)
    for i in range(0, len(vectors), _ROWS):
        block = build(IndexSettings(), vectors[i : i + _ROWS], metric)
        apart, positions = search(block, queries, min(k + 1, block.ntotal), metric)
        apart[positions + i == own[:, None]] = np.inf
        nearest = np.sort(np.hstack([nearest, apart]), axis=1)[:, :k]
    return nearest[:, -1]


def _exhaustive(index: Any, queries: np.ndarray, k: int) -> np.ndarray:
    if isinstance(index, faiss.IndexIVF):
        every: Any = faiss.SearchParametersIVF()
        every.nprobe = index.nlist
        _, positions = index.search(queries, k, params=every)
    elif isinstance(index, faiss.IndexHNSW):
        _, positions = faiss.downcast_index(index.storage).search(queries, k)
    else:
        _, positions = index.search(queries, k)
    found: np.ndarray = positions
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: several would race for the links of an HNSW graph, and no two builds would be equal."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
