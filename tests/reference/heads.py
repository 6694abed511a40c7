"""Metric heads written out one sample and one class at a time, in float64, to compare the fast heads with.

Shapes throughout: x (N, D) embeddings, y (N,) class indices in [0, C), W (C, D) class weights, b (C,) biases.
Every head returns the mean cross-entropy of the batch and the (N, C) logits, the margin applied to the true class.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Inner product of two vectors of equal length."""
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def norm(a: Sequence[float]) -> float:
    """Euclidean length of a vector."""
    return math.sqrt(dot(a, a))


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine of the angle between two vectors, kept in [-1, 1]; a zero vector is a ZeroDivisionError."""
    return min(1.0, max(-1.0, dot(a, b) / (norm(a) * norm(b))))


def linear_logits(x: ArrayLike, W: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Logits W_j.x_i + b_j, of shape (N, C)."""
    rows, weights, biases = _lists(x), _lists(W), _lists(b)
    return np.array([[dot(w, row) + bias for w, bias in zip(weights, biases, strict=True)] for row in rows])


def cosines(x: ArrayLike, W: ArrayLike) -> np.ndarray:
    """Cosines cos(theta_ij) between embedding i and class weight j, of shape (N, C)."""
    rows, weights = _lists(x), _lists(W)
    return np.array([[cosine(w, row) for w in weights] for row in rows])


def cross_entropy(logits: np.ndarray, y: Sequence[int]) -> float:
    """Mean over the batch of log(sum_j exp(z_ij)) - z_i,y_i, for logits z of shape (N, C).

    Raises:
        ValueError: if a label lies outside [0, C), or there is not one label per row.
    """
    losses = []
    for row, label in zip(logits.tolist(), y, strict=True):
        if not 0 <= label < len(row):
            raise ValueError(f"label {label} is not one of the {len(row)} classes")
        # Shifting by the largest logit changes nothing but keeps exp from overflowing.
        largest = max(row)
        log_sum_exp = largest + math.log(math.fsum(math.exp(z - largest) for z in row))
        losses.append(log_sum_exp - row[label])
    return math.fsum(losses) / len(losses)


def softmax(x: ArrayLike, y: Sequence[int], W: ArrayLike, b: ArrayLike) -> tuple[float, np.ndarray]:
    """Plain linear classifier: logits W_j.x + b_j."""
    logits = linear_logits(x, W, b)
    return cross_entropy(logits, y), logits


def l2_softmax(x: ArrayLike, y: Sequence[int], W: ArrayLike, b: ArrayLike, alpha: float) -> tuple[float, np.ndarray]:
    """L2-softmax (arXiv 1703.09507): logits W_j.(alpha x / |x|) + b_j, x normalised per sample, W as it is."""
    scaled = []
    for row in _lists(x):
        length = norm(row)
        scaled.append([alpha * value / length for value in row])
    logits = linear_logits(scaled, W, b)
    return cross_entropy(logits, y), logits


def arcface_true_logit(cos_theta: float, scale: float, margin: float) -> float:
    """ArcFace logit of the true class: s cos(theta + m), and s (cos(theta) - m sin(m)) where theta + m > pi.

    The second form is the continuation in the authors' code: it goes on falling with theta, after a small step down.
    """
    theta = math.acos(cos_theta)
    if theta + margin > math.pi:
        return scale * (cos_theta - margin * math.sin(margin))
    return scale * math.cos(theta + margin)


def arcface(x: ArrayLike, y: Sequence[int], W: ArrayLike, scale: float, margin: float) -> tuple[float, np.ndarray]:
    """ArcFace (arXiv 1801.07698): margin (radians) added to the angle of the true class, s cos(theta_j) elsewhere."""
    cos_theta = cosines(x, W)
    logits = np.zeros_like(cos_theta)
    for i, label in enumerate(y):
        for j in range(cos_theta.shape[1]):
            value = float(cos_theta[i, j])
            logits[i, j] = arcface_true_logit(value, scale, margin) if j == label else scale * value
    return cross_entropy(logits, y), logits


def adacos_scale(classes: int) -> float:
    """Fixed AdaCos scale sqrt(2) ln(C - 1) (arXiv 1905.00292).

    Raises:
        ValueError: for fewer than three classes, where the scale is zero or undefined.
    """
    if classes < 3:
        raise ValueError(f"AdaCos needs at least 3 classes, got {classes}")
    return math.sqrt(2.0) * math.log(classes - 1)


def adacos(x: ArrayLike, y: Sequence[int], W: ArrayLike) -> tuple[float, np.ndarray]:
    """AdaCos with its fixed scale and no margin (arXiv 1905.00292): logits sqrt(2) ln(C - 1) cos(theta_j)."""
    scale = adacos_scale(len(_lists(W)))
    logits = np.array([[scale * value for value in row] for row in cosines(x, W).tolist()])
    return cross_entropy(logits, y), logits


def _lists(values: ArrayLike) -> list:
    """Nested lists of Python floats."""
    return np.asarray(values, dtype=np.float64).tolist()
