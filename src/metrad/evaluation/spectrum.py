"""How many directions vectors spread over: a function of their singular values."""

import numpy as np


def effective_rank(vectors: np.ndarray) -> float:
    """Return how many directions ``vectors`` (N, D) use, from 1 to min(N, D); 0 if all are zero.

    It is exp(-Σ p_k ln p_k) with p_k = σ_k / Σ σ_j of the singular values σ: their number if all are alike, and less
    the more a few of them outweigh the others. In float64.

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
    """Return the effective rank of ``embeddings`` (N, D) about their mean: how many directions they differ in.

    The mean is taken off first. Embeddings that come out of a ReLU share a large one, whose singular value would
    outweigh all others and tell how far they lie from the origin, not how they differ; and a distance between two
    embeddings does not know of it.
    """
    embeddings = np.asarray(embeddings, dtype=np.float64)
    return effective_rank(embeddings - embeddings.mean(axis=0))
