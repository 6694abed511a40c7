"""Scores written out pair by pair, in float64, to compare the fast code with. A high score means anomalous."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def cosine_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """1 - cos(angle between a and b), in [0, 2]; a zero vector is a ZeroDivisionError."""
    inner = math.fsum(p * q for p, q in zip(a, b, strict=True))
    length_a = math.sqrt(math.fsum(p * p for p in a))
    length_b = math.sqrt(math.fsum(q * q for q in b))
    return 1.0 - min(1.0, max(-1.0, inner / (length_a * length_b)))


def l2_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Euclidean distance (not squared) between the vectors as they come."""
    return math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def knn_scores(
    normal: ArrayLike, queries: ArrayLike, k: int, metric: str, reduce: str
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each query to its k nearest normals, reduced to one score (k-NN as in arXiv 2002.10445).

    normal is (M, D), queries (N, D), metric "cosine" or "l2", reduce "mean", "max", "min" or "sum". Returns scores (N,)
    and the indices (N, k) of the neighbours, nearest first; of equally near normals the lower index comes first.

    Raises:
        KeyError: if metric or reduce is not one of those named above.
        ValueError: if k is not in [1, M].
    """
    distance = DISTANCES[metric]
    reduction = REDUCTIONS[reduce]
    bank = np.asarray(normal, dtype=np.float64).tolist()
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must lie in [1, {len(bank)}], got {k}")
    scores, neighbours = [], []
    for query in np.asarray(queries, dtype=np.float64).tolist():
        nearest = sorted((distance(query, vector), index) for index, vector in enumerate(bank))[:k]
        scores.append(reduction([value for value, _ in nearest]))
        neighbours.append([index for _, index in nearest])
    return np.array(scores, dtype=np.float64), np.array(neighbours, dtype=np.int64).reshape(len(scores), k)


def local_knn_scores(normal: ArrayLike, queries: ArrayLike, k: int, metric: str, reduce: str) -> np.ndarray:
    """Reduced distance of each query to its k nearest normals over the same of the k-th of them among the others.

    Arguments as for knn_scores. A divisor below a hundredth of the mean divisor counts as that hundredth; where all are
    zero, they count as 1.
    """
    scores, neighbours = knn_scores(normal, queries, k, metric, reduce)
    bank = np.asarray(normal, dtype=np.float64)
    own = [
        knn_scores(np.delete(bank, i, axis=0), bank[i : i + 1], k, metric, reduce)[0].item() for i in range(len(bank))
    ]
    floor = _mean(own) / 100 or 1.0
    return np.array([score / max(own[row[-1]], floor) for score, row in zip(scores, neighbours.tolist(), strict=True)])


def contrast_scores(
    normal: ArrayLike, reference: ArrayLike, queries: ArrayLike, k: int, metric: str, reduce: str, weight: float
) -> np.ndarray:
    """Reduced distance of each query to its k nearest normals, less weight times that to its k nearest references."""
    near, _ = knn_scores(normal, queries, k, metric, reduce)
    known, _ = knn_scores(reference, queries, k, metric, reduce)
    return np.array([a - weight * b for a, b in zip(near.tolist(), known.tolist(), strict=True)])


def centre_scores(normal: ArrayLike, classes: ArrayLike, queries: ArrayLike) -> np.ndarray:
    """Smallest cosine distance of each query to the mean of the unit vectors of a class.

    normal is (M, D), classes (M,) integers, queries (N, D).
    """
    members: dict[int, list[list[float]]] = {}
    for vector, number in zip(np.asarray(normal, dtype=np.float64).tolist(), np.asarray(classes).tolist(), strict=True):
        length = math.sqrt(math.fsum(value**2 for value in vector))
        members.setdefault(number, []).append([value / length for value in vector])
    centres = [[_mean(list(column)) for column in zip(*rows, strict=True)] for rows in members.values()]
    vectors = np.asarray(queries, dtype=np.float64).tolist()
    return np.array([min(cosine_distance(query, centre) for centre in centres) for query in vectors])


def head_scores(outputs: ArrayLike, normal_classes: Sequence[int], variant: str) -> np.ndarray:
    """Score of each row of a head's outputs (N, C), logits or, for variant "cosine", cosines.

    "probability" is the softmax mass of the classes that are not normal, "log_odds" its logarithmic odds.
    """
    scores = []
    for row in np.asarray(outputs, dtype=np.float64).tolist():
        if variant == "cosine":
            scores.append(1 - max(row[c] for c in normal_classes))
            continue
        weights = [math.exp(value - max(row)) for value in row]
        normal = math.fsum(weights[c] for c in normal_classes)
        other = math.fsum(weight for c, weight in enumerate(weights) if c not in normal_classes)
        scores.append(other / (normal + other) if variant == "probability" else math.log(other / normal))
    return np.array(scores)


def _mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(values) / len(values)


DISTANCES = {"cosine": cosine_distance, "l2": l2_distance}
REDUCTIONS = {"mean": _mean, "max": max, "min": min, "sum": math.fsum}
