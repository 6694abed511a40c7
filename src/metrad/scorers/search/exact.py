"""Exact neighbours in a flat index: what float32 cannot tell apart is compared in float64.

FAISS computes distances in float32 as |q|² + |x|² - 2 q·x. For vectors that lie close together and far from the
origin, few digits or none of the result are right.
"""

from typing import Any

import faiss
import numpy as np

from metrad.scorers.search.distances import Metric, distances
from metrad.scorers.search.screening import Screen, nearest

_BLOCK = 2**22  # numbers held in memory at a time
_SPARE = 8  # candidates beyond the k nearest; they settle almost every tie
# Largest rounding error, as a share of the squared lengths: 1.6 times the largest observed for widths to 4,096.
_DOUBT = {faiss.METRIC_INNER_PRODUCT: 2.0**-19, faiss.METRIC_L2: 2.0**-18}


def exact(index: Any, queries: np.ndarray, k: int, metric: Metric, screen: Screen | None = None) -> np.ndarray:
    """Return the positions (N, k) of the k nearest vectors of each of the queries (N, D) in the flat ``index``.

    The k positions are in no order. They are -1 where distances overflow float32. A ``screen`` of the index saves time
    and changes no result.
    """
    wanted = min(k + _SPARE, index.ntotal)
    near, found = index.search(queries, wanted) if screen is None else nearest(screen, index, queries, k, wanted)
    positions = found[:, :k].copy()
    if wanted == k:
        return positions
    border = _border(index, queries, near, k)
    less_is_nearer = -near if index.metric_type == faiss.METRIC_INNER_PRODUCT else near
    close = (less_is_nearer[:, k] <= border) & (positions >= 0).all(axis=1)
    open_end = close & (less_is_nearer[:, -1] <= border) & (wanted < index.ntotal)
    for rows in _slices(np.flatnonzero(close & ~open_end), wanted * index.d):
        apart = measured(index, queries[rows], found[rows], metric)
        order = np.argsort(apart, axis=1, kind="stable")[:, :k]
        positions[rows] = np.take_along_axis(found[rows], order, axis=1)
    for rows in _slices(np.flatnonzero(open_end), index.d):
        positions[rows] = _by_brute_force(index, queries[rows], k)
    return positions


def measured(index: Any, queries: np.ndarray, positions: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the float64 distances (N, k) of the queries (N, D) to the vectors at ``positions``; infinite for -1."""
    apart = np.empty(positions.shape, np.float64)
    for rows in _slices(np.arange(len(queries)), positions.shape[1] * index.d):
        block = np.maximum(positions[rows], 0)
        vectors = index.reconstruct_batch(block.ravel()).reshape(*block.shape, index.d)
        apart[rows] = distances(queries[rows], vectors, metric)
    apart[positions < 0] = np.inf
    return apart


def _border(index: Any, queries: np.ndarray, near: np.ndarray, k: int) -> np.ndarray:
    """Return the FAISS value (N,), lower for nearer, up to which a vector may in truth be nearer than the k-th."""
    kth = near[:, k - 1].astype(np.float64)
    doubt = _DOUBT[index.metric_type]
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:  # all vectors have length 1
        return doubt - kth
    border: np.ndarray = kth + doubt * (kth + np.einsum("nd,nd->n", queries, queries, dtype=np.float64))
    return border


def _by_brute_force(index: Any, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the positions (N, k) of the nearest vectors, from comparing all vectors in float64."""
    queries = queries.astype(np.float64)
    best, positions = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
    for own in _slices(np.arange(index.ntotal), max(index.d, len(queries))):
        block = index.reconstruct_n(int(own[0]), len(own)).astype(np.float64)
        inner, squares = queries @ block.T, np.einsum("nd,nd->n", block, block)
        if index.metric_type == faiss.METRIC_INNER_PRODUCT:
            apart = -inner / np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))
        else:
            apart = squares - 2 * inner
        apart = np.hstack([best, apart])
        numbers = np.hstack([positions, np.broadcast_to(own, inner.shape)])
        kept = np.argpartition(apart, k - 1, axis=1)[:, :k]
        best, positions = (np.take_along_axis(values, kept, axis=1) for values in (apart, numbers))
    return positions


def _slices(rows: np.ndarray, numbers: int) -> list[np.ndarray]:
    """Cut ``rows`` into pieces that fit in memory, for ``numbers`` held per row."""
    size = max(1, _BLOCK // numbers)
    return [rows[i : i + size] for i in range(0, len(rows), size)]
