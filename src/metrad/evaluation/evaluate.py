"""The evaluation of a scorer: it is fitted, scores the test images, and its metrics are computed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrad.data.prepared import ImageRecord
from metrad.errors import InputError
from metrad.evaluation.conformal import (
    alarms,
    conformal_p_values,
    conformal_threshold,
    usable_rates,
)
from metrad.evaluation.embeddings import Embedded
from metrad.evaluation.intervals import bootstrap_intervals, delong_interval, exact_interval
from metrad.evaluation.metrics import by_class, summary
from metrad.models.heads import Head
from metrad.scorers import KNN, HeadScorer, Scorer


@dataclass(frozen=True)
class Settings:
    """Settings of the thresholds and intervals of an evaluation.

    Attributes:
        false_alarm_rates: false-alarm rates to compute thresholds for. None takes 0.01 and 0.05, each if there are
            enough calibration images for it.
        level: confidence level of all intervals.
        resamples: number of bootstrap resamples.
    """

    false_alarm_rates: Sequence[float] | None = None
    level: float = 0.95
    resamples: int = 2000

    def rates(self, calibration_images: int) -> list[float]:
        """Return the false-alarm rates to compute thresholds for.

        Raises:
            InputError: a rate needs more than ``calibration_images`` images.
        """
        return usable_rates(self.false_alarm_rates, calibration_images)


@dataclass(frozen=True)
class Evaluation:
    """The scores of the test images, and the metrics computed from the scores.

    Attributes:
        records: records of the test images, normal images first.
        anomalous: whether each test image is anomalous, (N,) booleans.
        scores: anomaly scores (N,); higher is more anomalous.
        p_values: conformal p-values (N,); None without calibration images.
        nearest: position, among the normal images, of the nearest one to each test image, (N,).
        calibration_scores: scores of the calibration images, (M,).
        metrics: entries of ``metrics.json``: metrics, those of each anomalous class if there are several, intervals,
            thresholds and numbers of the fitted scorer.
        seconds: seconds of each phase.
    """

    records: list[ImageRecord]
    anomalous: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray | None
    nearest: np.ndarray
    calibration_scores: np.ndarray
    metrics: dict[str, Any]
    seconds: dict[str, float]


def evaluate(
    scorer: Scorer, embedded: Embedded, settings: Settings, *, calibration: np.ndarray | None = None
) -> Evaluation:
    """Measure how well ``scorer`` separates anomalous from normal test images.

    Thresholds come from the calibration images alone.

    Args:
        scorer: fitted here on the normal embeddings, unless ``calibration`` is given.
        embedded: embeddings of all roles.
        settings: settings of thresholds and intervals.
        calibration: scores of the calibration images (M,) by ``scorer``, which is then fitted already.

    Raises:
        InputError: the scorer cannot be used with these embeddings, or a false-alarm rate needs more calibration
            images.
    """
    arrays, start = embedded.arrays, time.perf_counter()
    rates = settings.rates(len(arrays["calibration"]))
    if calibration is None:
        scorer.fit(arrays["normal"], embedded.normal_classes, reference=embedded.reference)
    fitted = time.perf_counter()
    if calibration is None:
        calibration = scorer.score(arrays["calibration"])
    test, anomalous = embedded.test, embedded.anomalous
    scores = scorer.score(test)
    scored = time.perf_counter()
    thresholds = [threshold_metrics(calibration, scores, anomalous, rate, settings.level) for rate in rates]
    records = [*embedded.records["test_normal"], *embedded.records["test_anomalous"]]
    per_class = by_class(scores, anomalous, [record.class_name for record in records])
    metrics: dict[str, Any] = {
        **summary(scores, anomalous),
        **({"per_class": per_class} if per_class else {}),
        "intervals": intervals(scores, anomalous, settings),
        "thresholds": thresholds,
        "scorer": {"name": type(scorer).__name__, **scorer.fitted_figures()},
    }
    measured = time.perf_counter()
    nearby = scorer if scorer.has_neighbours else KNN().fit(arrays["normal"])
    return Evaluation(
        records=records,
        anomalous=anomalous,
        scores=scores,
        p_values=conformal_p_values(calibration, scores) if len(calibration) else None,
        nearest=nearby.neighbours(test),
        calibration_scores=calibration,
        metrics=metrics,
        seconds={"fit": fitted - start, "score": scored - fitted, "measure": measured - scored},
    )


def intervals(scores: np.ndarray, anomalous: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Return the intervals of every metric by stratified bootstrap, and of the AUROC by DeLong's method."""
    bootstrap = bootstrap_intervals(scores, anomalous, level=settings.level, resamples=settings.resamples)
    return {
        "level": settings.level,
        "auroc_delong": list(delong_interval(scores, anomalous, settings.level)),
        "bootstrap": {name: list(ends) for name, ends in bootstrap.items()},
    }


def threshold_metrics(
    calibration: np.ndarray, scores: np.ndarray, anomalous: np.ndarray, rate: float, level: float
) -> dict[str, Any]:
    """Return the threshold for a false-alarm rate, and its rates on the test images with exact intervals."""
    threshold = conformal_threshold(calibration, rate)
    above = alarms(scores, threshold)
    false_alarms, detections = above[~anomalous], above[anomalous]
    return {
        "false_alarm_rate": rate,
        "threshold": threshold,
        "test_false_alarm_rate": float(false_alarms.mean()),
        "test_false_alarm_interval": list(exact_interval(int(false_alarms.sum()), len(false_alarms), level)),
        "test_detection_rate": float(detections.mean()),
        "test_detection_interval": list(exact_interval(int(detections.sum()), len(detections), level)),
    }


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
