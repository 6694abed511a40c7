"""The effective rank of vectors: the number of directions they spread over, from their singular values."""

import numpy as np


def effective_rank(vectors: np.ndarray) -> float:
    """Return the effective rank of ``vectors`` (N, D), from 1 to min(N, D); 0 if all vectors are zero.

    It is exp(-Σ p_k ln p_k) with p_k = σ_k / Σ σ_j, where σ are the singular values, computed in float64. It equals the
    number of singular values if these are equal, and falls as a few of them dominate.

    Source:
        Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality, EUSIPCO.
    """
    singular = np.linalg.svd(np.asarray(vectors, dtype=np.float64), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return 0.0
    p = singular[singular > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def spread_rank(embeddings: np.ndarray) -> float:
    """Return the effective rank of ``embeddings`` (N, D) after their mean is subtracted.

    Embeddings after a ReLU have a large mean. Its singular value would dominate all others, although distances between
    embeddings do not depend on the mean.
    """
    embeddings = np.asarray(embeddings, dtype=np.float64)
    return effective_rank(embeddings - embeddings.mean(axis=0))
