"""FAISS indexes on disk, read strictly: only the kinds that metrad writes, and only what is consistent in itself.

FAISS checks little of a file: a wrong size would ask for any memory, and a wrong position in a graph or list would read
outside its arrays.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from metrad.errors import InputError
from metrad.files import opened
from metrad.scorers.search.distances import Metric
from metrad.scorers.search.indexes import METRICS, Kind

_MARKS = {"flat": (b"IxFI", b"IxF2"), "ivf": (b"IwFl",), "hnsw": (b"IHNf",), "sq8": (b"IxSQ",), "fp16": (b"IxSQ",)}
_QUANTIZERS = {"sq8": faiss.ScalarQuantizer.QT_8bit, "fp16": faiss.ScalarQuantizer.QT_fp16}

_FLAT_BYTES = 45  # of a flat index beside its vectors
_ARRAY = 1  # FAISS's mark of a direct map that is an array
_MOST_EFFORT = 2**24  # of an HNSW search, which allocates as many entries; a larger number is a fault


def write_index(index: Any, path: Path) -> None:
    """Write an index to ``path`` by way of a temporary file, because a memory-mapped index may be reading ``path``."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:  # where FAISS writes by itself, a file that a full disk cut short is no error
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
    partial.replace(path)


def read_index(path: Path, kind: Kind, width: int, metric: Metric, *, mmap: bool) -> Any:
    """Return the index that ``write_index`` wrote.

    Args:
        path: the file.
        kind: kind of the index.
        width: width of the embeddings.
        metric: ``cosine`` or ``l2``.
        mmap: leave the vectors on disk.

    Raises:
        InputError: the file is not a FAISS index, or not one of these settings.
    """
    with opened(path) as file:
        size, mark = os.fstat(file.fileno()).st_size, file.read(4)
    if mark not in _MARKS[kind]:
        raise InputError(f"{path} cannot be read as a FAISS index of kind {kind}; create it again")
    try:
        with _no_more_than(size):
            # Only this flag leaves the codes of a flat index on disk; IO_FLAG_MMAP still reads them.
            index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path} cannot be read as a FAISS index; create it again") from error
    if (
        (kind == "flat" and size != _FLAT_BYTES + 4 * index.d * index.ntotal)
        or index.d != width
        or index.metric_type != METRICS[metric]
        or index.ntotal < 1
        or not (index.is_trained and _consistent(index, kind))
    ):
        raise InputError(f"{path} holds no consistent index of kind {kind}, width {width} and metric {metric}")
    return index


@contextmanager
def _no_more_than(size: int) -> Iterator[None]:
    """Let FAISS allocate no vector of more than ``size`` bytes while it reads a file of this size."""
    before = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before)


def _consistent(index: Any, kind: Kind) -> bool:
    if kind == "flat":
        return isinstance(index, faiss.IndexFlat)
    if kind == "ivf":
        return isinstance(index, faiss.IndexIVFFlat) and _lists_agree(index)
    if kind == "hnsw":
        return isinstance(index, faiss.IndexHNSWFlat) and _graph_agrees(index)
    quantizer = index.sq
    trained = 2 * index.d if kind == "sq8" else 0
    code_size = index.d if kind == "sq8" else 2 * index.d
    return (
        isinstance(index, faiss.IndexScalarQuantizer)
        and (quantizer.qtype, quantizer.d, quantizer.code_size) == (_QUANTIZERS[kind], index.d, code_size)
        and index.code_size == code_size
        and faiss.vector_to_array(quantizer.trained).size == trained
    )


def _holds(inner: Any, index: Any, count: int) -> bool:
    """Return whether ``inner`` is a flat index of ``count`` vectors of the width and metric of ``index``."""
    flat = faiss.downcast_index(inner)
    alike = (flat.d, flat.metric_type, flat.ntotal) == (index.d, index.metric_type, count)
    return isinstance(flat, faiss.IndexFlat) and alike and flat.is_trained


def _lists_agree(index: Any) -> bool:
    """Return whether the lists of an inverted file hold each position once, where its direct map says."""
    lists = faiss.downcast_InvertedLists(index.invlists)
    same_size = index.nlist == lists.nlist and lists.code_size == index.code_size == 4 * index.d
    if not (isinstance(lists, faiss.ArrayInvertedLists) and same_size and _holds(index.quantizer, index, index.nlist)):
        return False
    sizes = np.array([lists.list_size(i) for i in range(index.nlist)], np.int64)
    where = faiss.vector_to_array(index.direct_map.array)
    if sizes.sum() != index.ntotal or where.size != index.ntotal or index.direct_map.type != _ARRAY:
        return False
    own, place = where >> 32, where & 0xFFFFFFFF
    if own.min() < 0 or own.max() >= index.nlist or (place >= sizes[own]).any():
        return False
    ids = [
        faiss.rev_swig_ptr(lists.get_ids(i), int(size)) if size else np.empty(0, np.int64)
        for i, size in enumerate(sizes)
    ]
    found = np.concatenate(ids)[np.concatenate([[0], np.cumsum(sizes)])[own] + place]
    return 1 <= index.nprobe <= index.nlist and np.array_equal(found, np.arange(index.ntotal))


def _graph_agrees(index: Any) -> bool:
    """Return whether an HNSW graph links only vectors that there are."""
    graph, count = index.hnsw, index.ntotal
    names = ("neighbors", "offsets", "levels", "cum_nneighbor_per_level")
    links, offsets, levels, widths = (faiss.vector_to_array(getattr(graph, name)).astype(np.int64) for name in names)
    if not _holds(index.storage, index, count) or levels.size != count or offsets.size != count + 1 or widths.size < 2:
        return False
    if links.size == 0 or links.min() < -1 or links.max() >= count or levels.min() < 1 or levels.max() >= widths.size:
        return False
    room = np.diff(offsets)
    rising = widths[0] == 0 and (np.diff(widths) >= 0).all() and offsets[0] == 0 and offsets[-1] == links.size
    if not rising or not np.array_equal(room, widths[levels]) or not 0 <= graph.entry_point < count:
        return False
    return (
        graph.max_level == levels[graph.entry_point] - 1
        and 1 <= graph.efSearch <= _MOST_EFFORT
        and _links_agree(links, offsets, levels, widths)
    )


def _links_agree(links: np.ndarray, offsets: np.ndarray, levels: np.ndarray, widths: np.ndarray) -> bool:
    """Return whether each vector's links on a level lead to vectors that are on this level too."""
    for level in range(int(levels.max())):
        there = np.flatnonzero(levels > level)
        first, last = offsets[there] + widths[level], offsets[there] + widths[level + 1]
        span = np.repeat(first - np.concatenate([[0], np.cumsum(last - first)[:-1]]), last - first)
        linked = links[span + np.arange(span.size)]
        if (levels[linked[linked >= 0]] <= level).any():
            return False
    return True
