"""Metrics of scores written out pair by pair and threshold by threshold, in float64, to compare the fast code with.

A high score means anomalous; scores is (N,) and anomalous (N,) is true for the anomalous samples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve


def auroc(scores: ArrayLike, anomalous: ArrayLike) -> float:
    """Share of (anomalous, normal) pairs in which the anomalous sample scores higher, a tie counting one half."""
    positives, negatives = _split(scores, anomalous)
    won = 0.0
    for positive in positives:
        for negative in negatives:
            if positive > negative:
                won += 1.0
            elif positive == negative:
                won += 0.5
    return won / (len(positives) * len(negatives))


def average_precision(scores: ArrayLike, anomalous: ArrayLike) -> float:
    """Sum over the distinct thresholds, from the highest down, of (R_n - R_(n-1)) P_n."""
    positives, negatives = _split(scores, anomalous)
    total, previous_recall = 0.0, 0.0
    for true_positives, false_positives in _counts(positives, negatives):
        recall = true_positives / len(positives)
        precision = true_positives / (true_positives + false_positives)
        total += (recall - previous_recall) * precision
        previous_recall = recall
    return total


def fpr_at_tpr(scores: ArrayLike, anomalous: ArrayLike, tpr: float = 0.95) -> float:
    """Smallest false-positive rate over the thresholds at which the true-positive rate is at least tpr, in [0, 1]."""
    positives, negatives = _split(scores, anomalous)
    return min(
        false_positives / len(negatives)
        for true_positives, false_positives in _counts(positives, negatives)
        if true_positives / len(positives) >= tpr
    )


def partial_auroc(scores: ArrayLike, anomalous: ArrayLike, max_fpr: float = 0.1) -> float:
    """Area under the ROC curve for false-positive rates in [0, max_fpr], standardised after McClish (1989).

    Trapezoids, the curve cut at max_fpr by linear interpolation; 0.5 is chance and 1 perfect. max_fpr is in (0, 1].
    """
    positives, negatives = _split(scores, anomalous)
    area, left, low = 0.0, 0.0, 0.0
    for true_positives, false_positives in _counts(positives, negatives):
        right, high = false_positives / len(negatives), true_positives / len(positives)
        if left < max_fpr < right:
            high = low + (high - low) * (max_fpr - left) / (right - left)
            right = max_fpr
        area += (right - left) * (low + high) / 2
        left, low = right, high
        if left >= max_fpr:
            # Further points at this very rate add no width; those beyond it are not asked for.
            break
    smallest, largest = max_fpr**2 / 2, max_fpr
    return 0.5 * (1 + (area - smallest) / (largest - smallest))


class Twin(NamedTuple):
    """A metric computed twice more: by hand from (scores, anomalous), by a library from (anomalous, scores)."""

    by_hand: Callable[[ArrayLike, ArrayLike], float]
    library: Callable[[ArrayLike, ArrayLike], float]


def _fpr_at_95_tpr(anomalous: ArrayLike, scores: ArrayLike) -> float:
    false_alarms, recall, _ = roc_curve(anomalous, scores, drop_intermediate=False)
    return float(min(false_alarms[recall >= 0.95]))


def average_precision_normal(scores: ArrayLike, anomalous: ArrayLike) -> float:
    """average_precision with the roles exchanged: a low score means normal, which is what is to be found."""
    return average_precision(-np.asarray(scores, dtype=np.float64), ~np.asarray(anomalous, dtype=bool))


TWINS = {
    "auroc": Twin(auroc, roc_auc_score),
    "average_precision": Twin(average_precision, average_precision_score),
    "fpr_at_95_tpr": Twin(fpr_at_tpr, _fpr_at_95_tpr),
    "partial_auroc": Twin(partial_auroc, lambda anomalous, scores: roc_auc_score(anomalous, scores, max_fpr=0.1)),
    "average_precision_normal": Twin(
        average_precision_normal,
        lambda anomalous, scores: average_precision_score(~np.asarray(anomalous, dtype=bool), -np.asarray(scores)),
    ),
}


def _split(scores: ArrayLike, anomalous: ArrayLike) -> tuple[list[float], list[float]]:
    """Scores of the anomalous and of the normal samples; a ValueError where either is empty or a score is NaN."""
    values = np.asarray(scores, dtype=np.float64).tolist()
    labels = np.asarray(anomalous).tolist()
    if any(math.isnan(value) for value in values):
        raise ValueError("scores contain NaN")
    positives = [value for value, label in zip(values, labels, strict=True) if label]
    negatives = [value for value, label in zip(values, labels, strict=True) if not label]
    if not positives or not negatives:
        raise ValueError("both anomalous and normal samples are needed")
    return positives, negatives


def _counts(positives: list[float], negatives: list[float]) -> list[tuple[int, int]]:
    """True and false positives of 'score >= t' for each distinct score t, from the highest t down."""
    return [
        (sum(value >= threshold for value in positives), sum(value >= threshold for value in negatives))
        for threshold in sorted({*positives, *negatives}, reverse=True)
    ]
