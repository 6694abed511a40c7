"""Screening: exact nearest neighbours from lower bounds of the distances, in fewer dimensions.

Embeddings vary mostly in few directions. Let V be an orthonormal basis of r such directions, and x⊥ the part of x
outside their span. By the Cauchy-Schwarz inequality

    q·x     ≤ (Vᵀq)·(Vᵀx) + |q⊥| |x⊥|             and        |q − x|² ≥ |Vᵀq − Vᵀx|² + (|q⊥| − |x⊥|)²,

so the vectors (Vᵀx, |x⊥|) of r + 1 numbers bound every distance from below. A search among these vectors gives
candidates. If a query's k-th candidate is nearer than the bound of its last candidate, its true neighbours are among
the candidates. All other queries are searched in full.

Source: Seidl & Kriegel 1998 (SIGMOD), "Optimal multi-step k-nearest neighbor search".
"""

import math
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

_SHARE = 8  # the bounding vectors have an eighth of the dimensions
_OUTSIDE = 0.1  # share of the variance outside the basis above which the bounds are too loose
_SAMPLE = 2048  # vectors that the basis is computed from
_ROWS = 2**10  # vectors projected at a time, few enough for the cache
_LEAST_WIDTH, _LEAST_SIZE, _LEAST_QUERIES = 256, 4096, 512  # below these the full search is fast enough
_ROUNDING = 2.0**-24  # relative rounding error of one float32 operation


@dataclass(frozen=True)
class Screen:
    """Lower bounds of the distances to the vectors of a flat index.

    Attributes:
        basis: V, (D, r) float64.
        bounds: flat index of the (N, r + 1) bounding vectors, with the metric of the bounded index.
        longest: largest length of a vector.
    """

    basis: np.ndarray
    bounds: Any
    longest: float


def pays(index: Any, queries: int) -> bool:
    """Return whether a screen can save time for ``queries`` queries of ``index``."""
    flat = isinstance(index, faiss.IndexFlat)
    return flat and index.d >= _LEAST_WIDTH and index.ntotal >= _LEAST_SIZE and queries >= _LEAST_QUERIES


def screen(index: Any) -> Screen | None:
    """Return a screen for the vectors of a flat index, or None if too much of them lies outside the basis."""
    vectors = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    rows = np.random.default_rng(0).choice(len(vectors), min(len(vectors), _SAMPLE), replace=False)
    sample = vectors[np.sort(rows)].astype(np.float64)
    basis = _basis(sample, index.d // _SHARE - 1)
    sample -= sample.mean(axis=0)
    if not np.square(sample @ basis).sum() > (1 - _OUTSIDE) * np.square(sample).sum():
        return None
    bounds, longest = faiss.IndexFlat(basis.shape[1] + 1, index.metric_type), 0.0
    bounds.codes.resize(len(vectors) * bounds.code_size)  # allocated at once
    bounds.codes.resize(0)
    for i in range(0, len(vectors), _ROWS):
        block, lengths = _projected(vectors[i : i + _ROWS], basis)
        bounds.add(block)
        longest = max(longest, float(lengths.max()))
    return Screen(basis, bounds, longest)


def nearest(own: Screen, index: Any, queries: np.ndarray, k: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``index.search`` gives for the k nearest vectors of each of the queries (N, D) in the flat ``index``.

    Results after the k-th, up to ``wanted``, are the nearest of the measured candidates. Every other vector is farther
    than the k-th, also in exact arithmetic. A position is -1 where too few candidates were measured.
    """
    projected, lengths = _projected(queries, own.basis)
    bounds, candidates = own.bounds.search(projected, min(index.ntotal, max(math.isqrt(index.ntotal) + 4 * k, wanted)))
    if _inner(index):
        bounds, scale = -bounds, lengths * own.longest
    else:
        scale = (lengths + own.longest) ** 2
    # Rounding errors of the sums in a bound and a distance, for any order of summation, and of their operands.
    error = (index.d + own.bounds.d + 64) * (_ROUNDING * scale + np.finfo(np.float32).tiny)
    enough = _apart(index, queries, candidates[:, :k]).max(axis=1)
    candidates[~(bounds <= (enough + error)[:, None])] = -1
    apart = _apart(index, queries, candidates)
    order = np.argsort(apart, axis=1, kind="stable")[:, :wanted]
    near, found = (np.take_along_axis(values, order, axis=1) for values in (apart, candidates))
    unsure = ~(bounds[:, -1] > near[:, k - 1] + error)  # also where either is NaN
    near = -near if _inner(index) else near
    if unsure.any():
        near[unsure], found[unsure] = index.search(queries[unsure], wanted)
    return near, found


def _basis(sample: np.ndarray, size: int) -> np.ndarray:
    """Return an orthonormal basis (D, at most ``size``) of the mean and nearly the first principal axes of (N, D)."""
    mean = sample.mean(axis=0)
    centred = sample - mean
    axes = centred[: size - 1].T
    for _ in range(2):  # subspace iteration
        axes = _nearly_orthonormal(centred.T @ (centred @ axes))
    basis = np.column_stack([mean / max(np.linalg.norm(mean), np.finfo(np.float32).tiny), axes])
    return _nearly_orthonormal(_nearly_orthonormal(basis))  # the second pass leaves only rounding errors


def _nearly_orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Return a nearly orthonormal basis of the span of the columns (D, r), from fast matrix products only."""
    squares, axes = np.linalg.eigh(vectors.T @ vectors)
    kept = squares > 1e-10 * squares.max(initial=0)
    result: np.ndarray = vectors @ (axes[:, kept] / np.sqrt(squares[kept]))
    return result


def _projected(vectors: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (Vᵀx, |x⊥|) of the vectors (N, D) as (N, r + 1) float32, and their lengths (N,)."""
    result = np.empty((len(vectors), basis.shape[1] + 1), np.float32)
    squares = np.empty(len(vectors))
    with np.errstate(over="ignore"):  # an infinite bound proves nothing, so the query is searched in full
        for i in range(0, len(vectors), _ROWS):
            rows = slice(i, i + _ROWS)
            exact = vectors[rows].astype(np.float64)
            inside = result[rows, :-1] = exact @ basis
            squares[rows] = np.einsum("nd,nd->n", exact, exact)
            outside = squares[rows] - np.einsum("nd,nd->n", inside, inside)
            result[rows, -1] = np.sqrt(np.maximum(outside, 0))
    return result, np.sqrt(squares)


def _apart(index: Any, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return what FAISS measures from queries to their candidates (N, c), lower for nearer; infinite for -1."""
    result = np.full(candidates.shape, -np.inf if _inner(index) else np.inf, np.float32)
    candidates = np.ascontiguousarray(candidates)
    measure: Any = getattr(faiss, "fvec_inner_products_by_idx" if _inner(index) else "fvec_L2sqr_by_idx")
    pointers = (faiss.swig_ptr(array) for array in (result, queries))
    measure(*pointers, index.get_xb(), faiss.swig_ptr(candidates), index.d, *candidates.shape)
    return -result if _inner(index) else result


def _inner(index: Any) -> bool:
    return bool(index.metric_type == faiss.METRIC_INNER_PRODUCT)
