"""Metric heads whose margin or logits depend on the state of training or on the length of the embedding, in float64.

Written out one sample and one class at a time like those of heads.py, with the same shapes: x (N, D) embeddings,
y (N,) class indices in [0, C), W (C, D) class weights. Every head returns the loss and the (N, C) logits, the margin
applied to the true class, and after them the state it leaves for the next batch.
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tests.reference.models.heads import arcface_true_logit, cosines, cross_entropy, norm


def lengths(x: ArrayLike, lower: float, upper: float) -> list[float]:
    """Length of each embedding, clipped to [lower, upper]."""
    return [clip(norm(row), lower, upper) for row in np.asarray(x, dtype=np.float64).tolist()]


def clip(value: float, lower: float, upper: float) -> float:
    """The number of [lower, upper] nearest to the value."""
    return min(upper, max(lower, value))


def curricularface(
    x: ArrayLike, y: Sequence[int], W: ArrayLike, scale: float, margin: float, t_before: float
) -> tuple[float, np.ndarray, float]:
    """CurricularFace (arXiv 2004.00288): loss, logits, the new t.

    First t = 0.01 mean_i cos(theta_{i,y_i}) + 0.99 t_before, as in the authors' code. The true class gets ArcFace's
    logit, continued past theta_y = pi - m. Another class j is hard where cos(theta_j) > cos(theta_y + m), the latter
    not continued: hard ones get s cos(theta_j) (t + cos(theta_j)), the others s cos(theta_j).
    """
    rows = cosines(x, W).tolist()
    t_after = 0.01 * statistics.fmean(row[label] for row, label in zip(rows, y, strict=True)) + 0.99 * t_before
    logits = np.zeros((len(rows), len(rows[0])))
    for i, (row, label) in enumerate(zip(rows, y, strict=True)):
        with_margin = math.cos(math.acos(row[label]) + margin)
        for j, value in enumerate(row):
            if j == label:
                logits[i, j] = arcface_true_logit(value, scale, margin)
            elif value > with_margin:
                logits[i, j] = scale * value * (t_after + value)
            else:
                logits[i, j] = scale * value
    return cross_entropy(logits, y), logits, t_after


def adaface(
    x: ArrayLike,
    y: Sequence[int],
    W: ArrayLike,
    scale: float,
    margin: float,
    *,
    h: float,
    mean_before: float,
    std_before: float,
    t_alpha: float = 0.01,
) -> tuple[float, np.ndarray, float, float]:
    """AdaFace (arXiv 2204.00964): loss, logits, the new running mean and the new running deviation of the lengths.

    With lengths clipped to [0.001, 100], running statistic = t_alpha * batch + (1 - t_alpha) * before, the deviation
    with N - 1 in its denominator, and q = clip(h (length - mean) / (std + 0.001), -1, 1), the logit of the true class
    is s (cos(clip(theta_y - m q, 0, pi)) - (m + m q)), and s cos(theta_j) elsewhere.

    Raises:
        statistics.StatisticsError: for a batch of one, whose deviation is undefined.
    """
    sizes = lengths(x, 0.001, 100.0)
    mean_after = t_alpha * statistics.fmean(sizes) + (1 - t_alpha) * mean_before
    std_after = t_alpha * statistics.stdev(sizes) + (1 - t_alpha) * std_before
    logits = cosines(x, W)
    for i, row in enumerate(logits.tolist()):
        quality = clip((sizes[i] - mean_after) / (std_after + 1e-3) * h, -1.0, 1.0)
        g_angle = -margin * quality
        g_add = margin + margin * quality
        for j, value in enumerate(row):
            if j == y[i]:
                logits[i, j] = scale * (math.cos(clip(math.acos(value) + g_angle, 0.0, math.pi)) - g_add)
            else:
                logits[i, j] = scale * value
    return cross_entropy(logits, y), logits, mean_after, std_after


def magface(
    x: ArrayLike,
    y: Sequence[int],
    W: ArrayLike,
    scale: float,
    *,
    lower_norm: float,
    upper_norm: float,
    lower_margin: float,
    upper_margin: float,
    weight: float,
) -> tuple[float, np.ndarray]:
    """MagFace (arXiv 2103.06627): ArcFace with a margin that grows with the length a of the embedding, and a pull on a.

    With a clipped to [l_a, u_a], the margin is m(a) = (u_m - l_m) / (u_a - l_a) (a - l_a) + l_m, continued past
    theta_y = pi - m(a) as in ArcFace. The loss is the cross-entropy plus weight * mean_i(1/a_i + a_i/u_a^2).
    """
    sizes = lengths(x, lower_norm, upper_norm)
    logits = cosines(x, W)
    for i, row in enumerate(logits.tolist()):
        margin = (upper_margin - lower_margin) / (upper_norm - lower_norm) * (sizes[i] - lower_norm) + lower_margin
        for j, value in enumerate(row):
            logits[i, j] = arcface_true_logit(value, scale, margin) if j == y[i] else scale * value
    pull = statistics.fmean(1 / size + size / upper_norm**2 for size in sizes)
    return cross_entropy(logits, y) + weight * pull, logits
