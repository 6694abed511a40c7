"""The evaluation of a scorer: it is fitted, scores the test images, and its metrics are computed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from metrad.data.prepared import ImageRecord
from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration, conformal_p_values
from metrad.evaluation.embeddings import Embedded
from metrad.evaluation.measures import Settings, intervals, threshold_metrics, thresholds
from metrad.evaluation.metrics import by_class, summary, unmeasured
from metrad.models.heads import Head
from metrad.scorers import KNN, HeadScorer, Scorer

Groups = Mapping[str, np.ndarray]  # group number of each image, (N,), by role


@dataclass(frozen=True)
class Evaluation:
    """The scores of the test images, and the metrics computed from the scores.

    Attributes:
        records: records of the test images, normal images first.
        anomalous: whether each test image is anomalous, (N,) booleans.
        scores: anomaly scores (N,); higher is more anomalous.
        p_values: conformal p-values (N,); None without calibration images.
        nearest: position, among the normal images, of the nearest one to each test image, (N,).
        calibration: scores of the calibration images, and their groups.
        metrics: entries of ``metrics.json``: metrics, those of each anomalous class if there are several, intervals,
            thresholds and numbers of the fitted scorer.
        seconds: seconds of each phase.
        groups: group number of each test image, (N,); None if each is a group of its own.
    """

    records: list[ImageRecord]
    anomalous: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray | None
    nearest: np.ndarray
    calibration: Calibration
    metrics: dict[str, Any]
    seconds: dict[str, float]
    groups: np.ndarray | None = None


def evaluate(
    scorer: Scorer,
    embedded: Embedded,
    settings: Settings,
    *,
    calibration: Calibration | None = None,
    groups: Groups | None = None,
) -> Evaluation:
    """Measure how well ``scorer`` separates anomalous from normal test images.

    Thresholds come from the calibration images alone. Without anomalous test images, only the false alarms can be
    measured: every metric, its interval and the detection rates are None.

    Args:
        scorer: fitted here on the normal embeddings, unless ``calibration`` is given.
        embedded: embeddings of all roles.
        settings: settings of thresholds and intervals.
        calibration: calibration of ``scorer``, which is then fitted already.
        groups: group number of each image by role; None if each image is a group of its own.

    Raises:
        InputError: the scorer cannot be used with these embeddings, or a false-alarm rate needs more calibration
            images.
    """
    arrays, start = embedded.arrays, time.perf_counter()
    numbers, tested = _numbers(groups, "calibration"), _numbers(groups, "test_normal", "test_anomalous")
    rates = settings.rates(len(arrays["calibration"] if numbers is None else np.unique(numbers)))
    if calibration is None:
        scorer.fit(arrays["normal"], embedded.normal_classes, reference=embedded.reference)
    fitted = time.perf_counter()
    if calibration is None:
        calibration = Calibration(scorer.score(arrays["calibration"]), numbers)
    test, anomalous = embedded.test, embedded.anomalous
    scores = scorer.score(test)
    scored = time.perf_counter()
    records = [*embedded.records["test_normal"], *embedded.records["test_anomalous"]]
    kinds = [record.class_name for record in records]
    judged = partial(
        threshold_metrics, scores=scores, anomalous=anomalous, level=settings.level, groups=tested, kinds=kinds
    )
    average, confident = thresholds(calibration, rates, settings.confidence)
    per_class = by_class(scores, anomalous, kinds)
    metrics: dict[str, Any] = {
        **(summary(scores, anomalous) if anomalous.any() else unmeasured()),
        **({"per_class": per_class} if per_class else {}),
        "intervals": intervals(scores, anomalous, settings, tested),
        "thresholds": [judged(rate, threshold) for rate, threshold in average.items()],
        "confident_thresholds": [
            {**judged(rate, threshold), "confidence": settings.confidence} for rate, threshold in confident.items()
        ],
        **({"groups": {role: len(np.unique(found)) for role, found in groups.items()}} if groups else {}),
        "scorer": {"name": type(scorer).__name__, **scorer.fitted_figures()},
    }
    known, grouped = calibration.scores, calibration.groups
    p_values = conformal_p_values(known, scores, grouped) if len(known) else None
    measured = time.perf_counter()
    nearby = scorer if scorer.has_neighbours else KNN().fit(arrays["normal"])
    return Evaluation(
        records=records,
        anomalous=anomalous,
        scores=scores,
        p_values=p_values,
        nearest=nearby.neighbours(test),
        calibration=calibration,
        metrics=metrics,
        seconds={"fit": fitted - start, "score": scored - fitted, "measure": measured - scored},
        groups=tested,
    )


def _numbers(groups: Groups | None, *roles: str) -> np.ndarray | None:
    """Return the group numbers of the images of ``roles``, one after another; None without groups."""
    return np.concatenate([np.asarray(groups[role], dtype=np.int64) for role in roles]) if groups else None


def attach_head(scorer: Scorer, head: Head, head_classes: list[str], normal: list[str]) -> None:
    """Give ``scorer`` the head and the numbers of the normal classes, if it is a ``HeadScorer``.

    Raises:
        InputError: the head was not trained on a normal class.
    """
    if not isinstance(scorer, HeadScorer):
        return
    missing = [name for name in normal if name not in head_classes]
    if missing:
        raise InputError(f"the head knows no class {missing[0]}; it knows {', '.join(head_classes)}")
    scorer.attach(head, [head_classes.index(name) for name in normal])
