"""Figures of merit of anomaly scores, on raw scores of any range (higher is more anomalous).

All of them depend on the order of the scores only, so they are taken of the ranks. scikit-learn computes them in
float64. torchmetrics would squeeze scores outside [0, 1] through a sigmoid, which merges large ones into ties, and its
float32 puts a rate of exactly 0.95 below 0.95.
"""

import numpy as np

FIGURES = ("auroc", "average_precision", "fpr_at_95_tpr", "partial_auroc")
MAX_FALSE_POSITIVE_RATE = 0.1
MIN_TRUE_POSITIVE_RATE = 0.95


def summary(scores: np.ndarray, anomalous: np.ndarray) -> dict[str, float]:
    """Return every figure of this module for ``scores`` (N,) and the truth ``anomalous`` (N,) of booleans.

    ``partial_auroc`` is the area up to a false-positive rate of 0.1, scaled so that chance is 0.5 and perfect is 1
    (McClish 1989), as in scikit-learn.

    Raises:
        ValueError: the lengths differ, a score is not finite, or only one of the two kinds is present.
    """
    from sklearn import metrics as sklearn_metrics

    ranks, target = ranked(scores, anomalous)
    false_positive_rate, true_positive_rate = roc_curve(scores, anomalous)
    enough = true_positive_rate >= MIN_TRUE_POSITIVE_RATE
    return {
        "auroc": float(sklearn_metrics.roc_auc_score(target, ranks)),
        "average_precision": float(sklearn_metrics.average_precision_score(target, ranks)),
        "fpr_at_95_tpr": float(false_positive_rate[enough][0]),
        "partial_auroc": float(sklearn_metrics.roc_auc_score(target, ranks, max_fpr=MAX_FALSE_POSITIVE_RATE)),
    }


def roc_curve(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false-positive and true-positive rates, both rising from 0 to 1, one point a distinct score."""
    from sklearn import metrics as sklearn_metrics

    ranks, target = ranked(scores, anomalous)
    false_positive_rate, true_positive_rate, _ = sklearn_metrics.roc_curve(target, ranks, drop_intermediate=False)
    return false_positive_rate, true_positive_rate


def ranked(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores as dense ranks from 0 and the truth as booleans, each (N,).

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
    return np.unique(scores, return_inverse=True)[1], anomalous
