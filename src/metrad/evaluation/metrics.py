"""Metrics of anomaly scores, on raw scores of any range (higher is more anomalous).

``METRICS`` is the only list of metrics: ``metrics.json``, the bootstrap, comparisons, tables, ``--metric`` and reports
read it. All metrics depend on the order of the scores only, so they are computed from ranks, in float64. torchmetrics
is not used: it applies a sigmoid to scores outside [0, 1], which merges large scores into ties, and its float32 puts a
rate of exactly 0.95 below 0.95.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MAX_FALSE_POSITIVE_RATE = 0.1
MIN_TRUE_POSITIVE_RATE = 0.95
ROUNDING = 1e-9  # by which a metric may exceed 1
FALSE_ALARMS, DETECTED = "false_alarms_at_", "detected_at_"  # with a rate, columns of the rates of alarms
Place = Literal["summary", "evaluations", "study"]


@dataclass(frozen=True)
class RocCurves:
    """ROC curves of R samples with D distinct scores, each array (R, D), the highest score first.

    Attributes:
        false_alarms: share of the normal images with this score or a higher one.
        new_false_alarms: share of the normal images with this score.
        recall: share of the anomalous images with this score or a higher one.
        new_recall: share of the anomalous images with this score.
        precision: share of anomalous images among the images with this score or a higher one; 0 without any.
    """

    false_alarms: np.ndarray
    new_false_alarms: np.ndarray
    recall: np.ndarray
    new_recall: np.ndarray
    precision: np.ndarray

    @classmethod
    def from_counts(cls, normal: np.ndarray, anomalous: np.ndarray) -> "RocCurves":
        """Return the curves of samples from the numbers of images at each distinct score.

        ``normal`` and ``anomalous`` are counts (R, D), the highest score first. A score without images does not change
        a metric.
        """
        false_positives, true_positives = normal.cumsum(axis=1), anomalous.cumsum(axis=1)
        recall, new_recall = (counts / true_positives[:, -1:] for counts in (true_positives, anomalous))
        false_alarms, new_false_alarms = (counts / false_positives[:, -1:] for counts in (false_positives, normal))
        # Above the highest drawn score there are no images: precision is then 0/1, with weight 0 in every metric.
        precision = true_positives / np.maximum(true_positives + false_positives, 1)
        return cls(false_alarms, new_false_alarms, recall, new_recall, precision)

    @classmethod
    def from_ranks(cls, ranks: np.ndarray, anomalous: np.ndarray) -> "RocCurves":
        """Return the curve of one sample (R = 1), from the dense ``ranks`` (N,) of its scores and the truth (N,)."""
        kinds, levels = (ranks[~anomalous], ranks[anomalous]), int(ranks.max()) + 1
        normal, positive = (np.bincount(kind, minlength=levels)[None, ::-1].astype(np.float64) for kind in kinds)
        return cls.from_counts(normal, positive)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: its computation, and its texts in files, tables, help and reports.

    Attributes:
        name: key in ``metrics.json``, column in tables and value of ``--metric``.
        title: heading of its column in a report.
        description: phrase that says what the metric measures.
        since: first version of metrad whose ``metrics.json`` has the metric; runs of older versions may lack it.
        from_curves: computes the values (R,) of R samples; the bootstrap passes thousands of samples at once.
        from_ranks: computes the value of one sample, from the dense ranks (N,) of its scores and the truth (N,) of
            booleans. It serves a metric that a library computes with other rounding. None to use ``from_curves``.
        higher_is_better: False if smaller values are better.
        darkest: value at the dark end of a colour scale, whose light end is 1.
        covers: coverage of its 95 % bootstrap interval in simulations; empty if it was not simulated.
        shown_in: places that show the metric beside the full tables: the last line that a run logs (``summary``), the
            table of several evaluations (``evaluations``), and ``study.csv`` (``study``).
    """

    name: str
    title: str
    description: str
    since: str
    from_curves: Callable[[RocCurves], np.ndarray]
    from_ranks: Callable[[np.ndarray, np.ndarray], float] | None = None
    higher_is_better: bool = True
    darkest: float = 0.0
    covers: str = ""
    shown_in: tuple[Place, ...] = ()

    @property
    def phrase(self) -> str:
        """The title within a sentence: "average precision", but "FPR at 95 % TPR"."""
        return self.title if self.title[:2].isupper() else f"{self.title[0].lower()}{self.title[1:]}"

    def of_sample(self, ranks: np.ndarray, anomalous: np.ndarray) -> float:
        """Return the value of one sample, from the dense ``ranks`` (N,) of its scores and the truth (N,), booleans."""
        if self.from_ranks is not None:
            return min(float(self.from_ranks(ranks, anomalous)), 1.0)  # a library's sum can be 1.0000000000000002
        return float(self.of_samples(RocCurves.from_ranks(ranks, anomalous))[0])

    def of_samples(self, curves: RocCurves) -> np.ndarray:
        """Return the values (R,), in [0, 1], of R samples."""
        return self.from_curves(curves).clip(0, 1)  # sums of rounded shares can be 1.0000000000000002


def is_value(value: Any) -> bool:
    """Return whether ``value`` can be a metric: a number from 0 to 1, or above it by rounding as in older runs."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 + ROUNDING


def _auroc(curves: RocCurves) -> np.ndarray:
    area: np.ndarray = (curves.new_false_alarms * (curves.recall - curves.new_recall / 2)).sum(axis=1)
    return area


def _auroc_of_ranks(ranks: np.ndarray, anomalous: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(anomalous, ranks))


def _average_precision(curves: RocCurves) -> np.ndarray:
    mean: np.ndarray = (curves.new_recall * curves.precision).sum(axis=1)
    return mean


def _average_precision_of_ranks(ranks: np.ndarray, anomalous: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(anomalous, ranks))


def _average_precision_normal(curves: RocCurves) -> np.ndarray:
    """Return the average precision with normal images as the positive class and low scores as their sign."""
    normal, anomalous = (_up_to(shares) for shares in (curves.new_false_alarms, curves.new_recall))
    base = curves.precision[:, -1:]  # share of anomalous images among all
    called = normal * (1 - base) + anomalous * base
    precision = normal * (1 - base) / np.where(called > 0, called, 1)
    mean: np.ndarray = (curves.new_false_alarms * precision).sum(axis=1)
    return mean


def _up_to(shares: np.ndarray) -> np.ndarray:
    """Return the share of the images with each score or a lower one, from the shares with each score, (R, D)."""
    return shares[:, ::-1].cumsum(axis=1)[:, ::-1]


def _average_precision_normal_of_ranks(ranks: np.ndarray, anomalous: np.ndarray) -> float:
    return _average_precision_of_ranks(-ranks, ~anomalous)


def _fpr_at_95_tpr(curves: RocCurves) -> np.ndarray:
    first = (curves.recall >= MIN_TRUE_POSITIVE_RATE).argmax(axis=1)
    return np.take_along_axis(curves.false_alarms, first[:, None], axis=1)[:, 0]


def _partial_auroc(curves: RocCurves) -> np.ndarray:
    """Return the area up to a false-positive rate of 0.1, scaled so that chance is 0.5 and perfect is 1.

    Source:
        McClish 1989, Medical Decision Making 9(3).
    """
    width, rise = curves.new_false_alarms, curves.new_recall
    within = np.clip(MAX_FALSE_POSITIVE_RATE - (curves.false_alarms - width), 0, width)
    share = within / np.where(width > 0, width, 1)
    area: np.ndarray = (within * (curves.recall - rise + rise * share / 2)).sum(axis=1)
    smallest, largest = MAX_FALSE_POSITIVE_RATE**2 / 2, MAX_FALSE_POSITIVE_RATE
    return 0.5 * (1 + (area - smallest) / (largest - smallest))


def _partial_auroc_of_ranks(ranks: np.ndarray, anomalous: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(anomalous, ranks, max_fpr=MAX_FALSE_POSITIVE_RATE))


# Over 1,500 simulated draws of binormal scores, AUROC 0.8 to 0.97.
COVERS = "92.5 to 95.4 % of simulations with 100 to 200 images a kind"
METRICS = (
    Metric(
        name="auroc",
        title="AUROC",
        description="area under the ROC curve",
        since="0.1",
        from_curves=_auroc,
        from_ranks=_auroc_of_ranks,
        darkest=0.5,
        covers=COVERS,
        shown_in=("summary", "evaluations", "study"),
    ),
    Metric(
        name="average_precision",
        title="Average precision",
        description="mean precision over the anomalous images, each as the threshold",
        since="0.1",
        from_curves=_average_precision,
        from_ranks=_average_precision_of_ranks,
        covers=COVERS,
        shown_in=("summary", "study"),
    ),
    Metric(
        name="fpr_at_95_tpr",
        title="FPR at 95 % TPR",
        description="share of normal images called anomalous by the highest threshold that finds at least 95 % of the "
        "anomalous ones, which are the positive class (where normal is the positive class, as in much work on "
        "out-of-distribution detection, the figure of this name is another)",
        since="0.1",
        from_curves=_fpr_at_95_tpr,
        higher_is_better=False,
        covers=f"{COVERS}; 89 % with 300 normal and 60 anomalous images, of which 5 % are three",
        shown_in=("summary", "evaluations"),
    ),
    Metric(
        name="partial_auroc",
        title="Partial AUROC (FPR up to 0.1)",
        description="area under the ROC curve up to 10 % false alarms, scaled to 0.5 for chance and 1 for perfect",
        since="0.1",
        from_curves=_partial_auroc,
        from_ranks=_partial_auroc_of_ranks,
        darkest=0.5,
        covers=COVERS,
    ),
    Metric(
        name="average_precision_normal",
        title="Average precision of normal images",
        description="mean precision over the normal images, each as the threshold up to which images are called normal",
        since="0.2",
        from_curves=_average_precision_normal,
        from_ranks=_average_precision_normal_of_ranks,
    ),
)


def by_name() -> dict[str, Metric]:
    """Return every metric by its name, in the order of ``METRICS``."""
    return {metric.name: metric for metric in METRICS}


def shown_in(place: Place) -> list[Metric]:
    """Return the metrics that ``place`` shows, in the order of ``METRICS``."""
    return [metric for metric in METRICS if place in metric.shown_in]


def summary(scores: np.ndarray, anomalous: np.ndarray) -> dict[str, float]:
    """Return every metric by name, from ``scores`` (N,) and the truth ``anomalous`` (N,) of booleans.

    Raises:
        ValueError: the lengths differ, a score is not finite, or only one of the two kinds is present.
    """
    ranks, target = ranked(scores, anomalous)
    return {metric.name: metric.of_sample(ranks, target) for metric in METRICS}


def unmeasured() -> dict[str, None]:
    """Return None for every metric by name: what a run has that tests on no anomalous images."""
    return dict.fromkeys(by_name())


def by_class(scores: np.ndarray, anomalous: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the metrics of each anomalous class against all normal images; empty for a single anomalous class.

    Args:
        scores: the scores (N,).
        anomalous: the truth (N,), booleans.
        classes: the name of the class of each image, (N,).

    Returns:
        by class, in the order of the images: ``images``, their number, and every metric by name.

    Raises:
        ValueError: as in ``summary``.
    """
    target, names = np.asarray(anomalous, dtype=bool), np.asarray(classes, dtype=object)
    members = {name: names == name for name in dict.fromkeys(names[target])}
    if len(members) < 2:
        return {}
    kept = {name: ~target | (target & own) for name, own in members.items()}
    return {
        name: {"images": int((target & members[name]).sum()), **summary(scores[keep], target[keep])}
        for name, keep in kept.items()
    }


def roc_curve(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false-positive and true-positive rates, both rising from 0 to 1, with a point for each distinct score."""
    from sklearn import metrics as sklearn_metrics

    ranks, target = ranked(scores, anomalous)
    false_positive_rate, true_positive_rate, _ = sklearn_metrics.roc_curve(target, ranks, drop_intermediate=False)
    return false_positive_rate, true_positive_rate


def ranked(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores as dense ranks from 0 and the truth as booleans, each (N,).

    Raises:
        ValueError: the arguments are not vectors of one length, a score is not finite, or one kind is absent.
    """
    scores, anomalous = np.asarray(scores), np.asarray(anomalous, dtype=bool)
    if scores.shape != anomalous.shape or scores.ndim != 1:
        raise ValueError(f"scores and anomalous must be vectors of one length, got {scores.shape}, {anomalous.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
    if anomalous.all() or not anomalous.any():
        raise ValueError("metrics need both normal and anomalous images; the truth has only one of the two kinds")
    return np.unique(scores, return_inverse=True)[1], anomalous
