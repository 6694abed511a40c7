"""Distances between embeddings in float64, because FAISS computes in float32."""

from typing import Literal

import numpy as np

Metric = Literal["cosine", "l2"]
Reduce = Literal["mean", "max", "min", "sum"]


def unit(vectors: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Return the vectors (N, D) scaled to length 1; vectors of length zero stay zero."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64, casting="unsafe"))
    lengths = np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    result = np.empty(vectors.shape, dtype)
    np.divide(vectors, lengths, out=result, casting="same_kind")
    return result


def prepared(vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the vectors (N, D) as an index takes them: scaled to length 1 for ``cosine``, unchanged for ``l2``."""
    return unit(vectors) if metric == "cosine" else vectors


def distances(queries: np.ndarray, vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the distance of each of the queries (N, D) to its own vectors (N, k, D), as (N, k) float64.

    ``cosine`` is 1 - cos of the angle, or 1 if a vector has length zero. ``l2`` is Euclidean, not squared. Copies have
    distance 0 exactly.
    """
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        difference = vectors - queries[:, None]
        euclidean: np.ndarray = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))
        return euclidean
    inner = np.matmul(vectors, queries[:, :, None])[:, :, 0]
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=2)
    cosine = np.divide(inner, lengths, out=np.zeros_like(inner), where=lengths > 0)
    apart = 1 - np.clip(cosine, -1, 1)
    # Smaller values are rounding errors of the sum over D; float32 embeddings cannot form such small angles.
    return np.where(apart < 1e-14, 0.0, apart)


def reduced(values: np.ndarray, reduce: Reduce) -> np.ndarray:
    """Return the ``mean``, ``max``, ``min`` or ``sum`` of each row of values (N, k), as (N,)."""
    result: np.ndarray = getattr(values, reduce)(axis=1)
    return result
