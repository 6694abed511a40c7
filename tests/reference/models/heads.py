"""Metric heads written out one sample and one class at a time, in float64, to compare the fast heads with.

Shapes throughout: x (N, D) embeddings, y (N,) class indices in [0, C), W (C, D) class weights, b (C,) biases.
Every head returns the mean cross-entropy of the batch and the (N, C) logits, the margin applied to the true class.
"""

import math
import statistics
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


def class_cosines(x: ArrayLike, W: ArrayLike, K: int) -> np.ndarray:
    """Cosine of each class, the largest of those of its K sub-centres, of shape (N, C).

    W is (C*K, D): the sub-centres of class c are its rows c*K to c*K + K - 1.
    """
    return np.array([[max(centres) for centres in row] for row in centre_cosines(x, W, K)])


def centre_cosines(x: ArrayLike, W: ArrayLike, K: int) -> list[list[list[float]]]:
    """Cosines of embedding i to the sub-centres of class c, as [i][c][k], with W (C*K, D) in order of class.

    Raises:
        ValueError: if the rows of W do not divide into groups of K.
    """
    every = cosines(x, W).tolist()
    if K < 1 or len(every[0]) % K:
        raise ValueError(f"{len(every[0])} sub-centres are not {K} for each class")
    return [[row[first : first + K] for first in range(0, len(row), K)] for row in every]


def subcenter_arcface(
    x: ArrayLike, y: Sequence[int], W: ArrayLike, K: int, scale: float, margin: float
) -> tuple[float, np.ndarray]:
    """Sub-center ArcFace (Deng 2020, ECCV): ArcFace on the largest of the K cosines of each class, W being (C*K, D)."""
    logits = [
        [arcface_true_logit(value, scale, margin) if j == label else scale * value for j, value in enumerate(row)]
        for row, label in zip(class_cosines(x, W, K).tolist(), y, strict=True)
    ]
    return cross_entropy(np.array(logits), y), np.array(logits)


def normface(x: ArrayLike, y: Sequence[int], W: ArrayLike, scale: float) -> tuple[float, np.ndarray]:
    """NormFace (arXiv 1704.06369): logits s cos(theta_j), no margin and no bias."""
    logits = np.array([[scale * value for value in row] for row in cosines(x, W).tolist()])
    return cross_entropy(logits, y), logits


def sphereface_psi(theta: float, m: int) -> float:
    """SphereFace's psi(theta) = (-1)^k cos(m theta) - 2k for theta in [k pi/m, (k + 1) pi/m], k from 0 to m - 1.

    Raises:
        ValueError: unless m is a whole number of at least 1.
    """
    if m < 1 or m != int(m):
        raise ValueError(f"the margin of SphereFace is a whole number of at least 1, got {m}")
    for k in range(int(m)):
        if theta <= (k + 1) * math.pi / m:
            break
    return (-1) ** k * math.cos(m * theta) - 2 * k


def sphereface(x: ArrayLike, y: Sequence[int], W: ArrayLike, m: int) -> tuple[float, np.ndarray]:
    """SphereFace (arXiv 1704.08063): |x| psi(theta_y), |x| cos(theta_j) elsewhere; only W normalised, no annealing."""
    logits = cosines(x, W)
    for i, row in enumerate(_lists(x)):
        for j, value in enumerate(logits[i].tolist()):
            logits[i, j] = norm(row) * (sphereface_psi(math.acos(value), m) if j == y[i] else value)
    return cross_entropy(logits, y), logits


def cosface(x: ArrayLike, y: Sequence[int], W: ArrayLike, scale: float, margin: float) -> tuple[float, np.ndarray]:
    """CosFace (arXiv 1801.09414): s (cos(theta_y) - m) for the true class, s cos(theta_j) elsewhere."""
    logits = [
        [scale * (value - margin) if j == label else scale * value for j, value in enumerate(row)]
        for row, label in zip(cosines(x, W).tolist(), y, strict=True)
    ]
    return cross_entropy(np.array(logits), y), np.array(logits)


def adacos_dynamic(
    x: ArrayLike, y: Sequence[int], W: ArrayLike, scale_before: float
) -> tuple[float, np.ndarray, float]:
    """AdaCos with its adaptive scale (arXiv 1905.00292): loss, logits s cos(theta_j) at the new scale, the new scale.

    B_avg = (1/N) sum_i sum_{j != y_i} exp(s_before cos theta_ij), theta_med = median over i of theta_{i,y_i}, and
    s = ln(B_avg) / cos(min(pi/4, theta_med)). Few classes that all lie far from x give B_avg < 1, hence s < 0.
    """
    rows = cosines(x, W).tolist()
    others = [
        math.exp(scale_before * value)
        for row, label in zip(rows, y, strict=True)
        for j, value in enumerate(row)
        if j != label
    ]
    b_avg = math.fsum(others) / len(rows)
    theta_med = statistics.median(math.acos(row[label]) for row, label in zip(rows, y, strict=True))
    scale = math.log(b_avg) / math.cos(min(math.pi / 4, theta_med))
    logits = np.array([[scale * value for value in row] for row in rows])
    return cross_entropy(logits, y), logits, scale


def subcluster_adacos_scale(classes: int, K: int) -> float:
    """Fixed scale sqrt(2) ln(C K - 1) of sub-cluster AdaCos, also where its adaptive scale starts.

    Raises:
        ValueError: for fewer than three centres in all, where the scale is zero or undefined.
    """
    if classes * K < 3:
        raise ValueError(f"sub-cluster AdaCos needs at least 3 centres, got {classes} classes of {K}")
    return math.sqrt(2.0) * math.log(classes * K - 1)


def subcluster_adacos(x: ArrayLike, y: Sequence[int], W: ArrayLike, K: int, scale: float) -> tuple[float, np.ndarray]:
    """Sub-cluster AdaCos (Wilkinghoff 2021, IJCNN) at a given scale, W being (C*K, D).

    A softmax over all C*K values s cos(theta) gives each centre a probability, and that of a class is the sum over its
    centres. The same comes of a softmax over the classes with the logits log(sum_k exp(s cos theta_ck)).
    """
    logits = np.array(
        [
            [math.log(math.fsum(math.exp(scale * value) for value in centres)) for centres in row]
            for row in centre_cosines(x, W, K)
        ]
    )
    return cross_entropy(logits, y), logits


def subcluster_adacos_adaptive(
    x: ArrayLike, y: Sequence[int], W: ArrayLike, K: int, scale_before: float
) -> tuple[float, np.ndarray, float]:
    """Sub-cluster AdaCos with its adaptive scale: loss, logits at the new scale, the new scale.

    f_max = max of s_before cos over the batch and all centres, B_avg = (1/N) sum_i sum over all C*K centres, those of
    the own class included as in the author's code, of exp(s_before cos - f_max), and
    s = (f_max + ln B_avg) / cos(min(pi/4, theta_med)).

    theta_med is the median over the batch of the angle to the nearest centre of the own class. This is a choice: the
    author's code adds up the angles to all K centres of the class, which for K > 1 nearly always exceeds pi/4.
    """
    rows = centre_cosines(x, W, K)
    f_max = max(scale_before * value for row in rows for centres in row for value in centres)
    terms = [math.exp(scale_before * value - f_max) for row in rows for centres in row for value in centres]
    b_avg = math.fsum(terms) / len(rows)
    nearest = [min(math.acos(value) for value in row[label]) for row, label in zip(rows, y, strict=True)]
    scale = (f_max + math.log(b_avg)) / math.cos(min(math.pi / 4, statistics.median(nearest)))
    return *subcluster_adacos(x, y, W, K, scale), scale
