"""Figures of merit of anomaly scores, on raw scores of any range (higher is more anomalous).

All of them depend on the order of the scores only. torchmetrics squeezes scores outside [0, 1] through a sigmoid,
which merges large scores into ties, so it is given dense ranks in [0, 1] instead.
"""

import numpy as np
import torch
from sklearn.metrics import roc_curve as sklearn_roc_curve
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

MAX_FALSE_POSITIVE_RATE = 0.1
MIN_TRUE_POSITIVE_RATE = 0.95


def summary(scores: np.ndarray, anomalous: np.ndarray) -> dict[str, float]:
    """Return every figure of this module for ``scores`` (N,) and the truth ``anomalous`` (N,) of booleans.

    ``partial_auroc`` is the area up to a false-positive rate of 0.1, scaled so that chance is 0.5 and perfect is 1
    (McClish 1989), as in scikit-learn.

    Raises:
        ValueError: the lengths differ, a score is not finite, or only one of the two kinds is present.
    """
    ranks, target = ranked(scores, anomalous)
    false_positive_rate, true_positive_rate = roc_curve(scores, anomalous)
    enough = true_positive_rate >= MIN_TRUE_POSITIVE_RATE
    figures = {
        "auroc": float(binary_auroc(ranks, target)),
        "average_precision": float(binary_average_precision(ranks, target)),
        "fpr_at_95_tpr": float(false_positive_rate[enough][0]),
        "partial_auroc": float(binary_auroc(ranks, target, max_fpr=MAX_FALSE_POSITIVE_RATE)),
    }
    # torchmetrics adds up in float32, where a perfect area can come out as 1.0000001.
    return {name: min(max(value, 0.0), 1.0) for name, value in figures.items()}


def roc_curve(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false-positive and true-positive rates, both rising from 0 to 1, one point a distinct score."""
    ranks, target = ranked(scores, anomalous)
    # Not torchmetrics: in its float32 a rate of exactly 0.95 falls short of 0.95.
    false_positive_rate, true_positive_rate, _ = sklearn_roc_curve(target, ranks, drop_intermediate=False)
    return false_positive_rate, true_positive_rate


def ranked(scores: np.ndarray, anomalous: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the scores as dense ranks in [0, 1] and the truth as 0 and 1, each (N,).

    Raises:
        ValueError: they are no vectors of one length, a score is not finite, or only one of the two kinds is present.
    """
    scores, anomalous = np.asarray(scores), np.asarray(anomalous, dtype=bool)
    if scores.shape != anomalous.shape or scores.ndim != 1:
        raise ValueError(f"scores and anomalous must be vectors of one length, got {scores.shape}, {anomalous.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
    if anomalous.all() or not anomalous.any():
        raise ValueError("both normal and anomalous images are needed to measure how well they are told apart")
    distinct, ranks = np.unique(scores, return_inverse=True)
    return torch.from_numpy(ranks / max(len(distinct) - 1, 1)), torch.from_numpy(anomalous.astype(np.int64))
