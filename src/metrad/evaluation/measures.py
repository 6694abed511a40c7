"""What is measured on scores alone: the intervals of metrics, thresholds, and the rates of alarms. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrad.evaluation.conformal import (
    DEFAULT_RATES,
    Calibration,
    alarms,
    calibration_groups_needed,
    confident_threshold,
    conformal_threshold,
    largest_by_group,
    usable_rates,
)
from metrad.evaluation.intervals import bootstrap_intervals, delong_interval, exact_interval, grouped_interval


@dataclass(frozen=True)
class Settings:
    """Settings of the thresholds and intervals of an evaluation.

    Attributes:
        false_alarm_rates: false-alarm rates to compute thresholds for. None takes 0.01 and 0.05, each if there are
            enough calibration images for it.
        level: confidence level of all intervals.
        resamples: number of bootstrap resamples.
        confidence: probability with which a confident threshold keeps its rate; None for no such thresholds.
    """

    false_alarm_rates: Sequence[float] | None = None
    level: float = 0.95
    resamples: int = 2000
    confidence: float | None = 0.95

    @property
    def wanted(self) -> Sequence[float]:
        """The false-alarm rates that are asked for."""
        return DEFAULT_RATES if self.false_alarm_rates is None else self.false_alarm_rates

    @property
    def calibration_steps(self) -> tuple[int, ...]:
        """Numbers of calibration groups, rising, each of which permits one more threshold.

        They are what each false-alarm rate takes on average and, if they are wanted, with confidence.
        """
        kinds = (None,) if self.confidence is None else (None, self.confidence)
        return tuple(sorted({calibration_groups_needed(rate, kind) for rate in self.wanted for kind in kinds}))

    def rates(self, calibration_groups: int) -> list[float]:
        """Return the false-alarm rates to compute thresholds for.

        Raises:
            InputError: a rate needs more than ``calibration_groups`` groups of images.
        """
        return usable_rates(self.false_alarm_rates, calibration_groups)


def thresholds(
    calibration: Calibration, rates: Sequence[float], confidence: float | None
) -> tuple[dict[float, float], dict[float, float]]:
    """Return by false-alarm rate the threshold that keeps it on average, and the one that keeps it with ``confidence``.

    The second is there for the rates that there are enough groups for.
    """
    scores, groups = calibration.scores, calibration.groups
    average = {rate: conformal_threshold(scores, rate, groups) for rate in rates}
    if confidence is None:
        return average, {}
    count = len(largest_by_group(scores, groups))
    enough = [rate for rate in rates if calibration_groups_needed(rate, confidence) <= count]
    return average, {rate: confident_threshold(scores, rate, confidence, groups) for rate in enough}


def intervals(
    scores: np.ndarray, anomalous: np.ndarray, settings: Settings, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the intervals of every metric by stratified bootstrap, and of the AUROC by DeLong's method.

    Without anomalous images there are none.
    """
    level, resamples = settings.level, settings.resamples
    if not anomalous.any():
        return {"level": level, "auroc_delong": None, "bootstrap": {}}
    bootstrap = bootstrap_intervals(scores, anomalous, level=level, resamples=resamples, groups=groups)
    return {
        "level": settings.level,
        "auroc_delong": list(delong_interval(scores, anomalous, level, groups)),
        "bootstrap": {name: list(ends) for name, ends in bootstrap.items()},
    }


def threshold_metrics(
    rate: float,
    threshold: float,
    *,
    scores: np.ndarray,
    anomalous: np.ndarray,
    level: float,
    groups: np.ndarray | None = None,
    kinds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return a threshold, the false-alarm rate that it promises, and its rates on the test images with their intervals.

    Without anomalous images, the detection rate and its interval are None.

    Args:
        rate: the false-alarm rate that the threshold promises.
        threshold: the threshold, above which a score is an alarm.
        scores: scores of the test images, (N,).
        anomalous: whether each is anomalous, (N,) booleans.
        level: confidence level of the intervals.
        groups: group number of each test image, (N,); the intervals then count groups.
        kinds: kind of anomaly of each test image, (N,); see ``alarm_rates``.
    """
    above = alarms(scores, threshold)
    return {"false_alarm_rate": rate, "threshold": threshold, **alarm_rates(above, anomalous, level, groups, kinds)}


def alarm_rates(
    above: np.ndarray,
    anomalous: np.ndarray,
    level: float,
    groups: np.ndarray | None = None,
    kinds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the rates of alarms among normal and among anomalous test images, with their intervals.

    Args:
        above: whether each image is an alarm, (N,) booleans.
        anomalous: whether each is anomalous, (N,) booleans.
        level: confidence level of the intervals.
        groups: group number of each image, (N,); the intervals then count groups.
        kinds: kind of anomaly of each image, (N,), of which those of normal images do not count; None for one kind.

    Returns:
        the entries of ``metrics.json``; the rates of normal or anomalous images are None if there are none. With
        several kinds of anomalies, ``by_kind`` has ``images``, ``rate`` and ``interval`` of the detection of each, and
        ``worst_kind`` names one of them, as ``worst_kind`` of this module says.
    """
    found: dict[str, Any] = {}
    for name, members in (("false_alarm", ~anomalous), ("detection", anomalous)):
        share, interval = _share(above, members, level, groups) if members.any() else (None, None)
        found |= {f"test_{name}_rate": share, f"test_{name}_interval": interval}
    names = np.array([""] * len(anomalous) if kinds is None else kinds, dtype=object)
    members_of = {name: anomalous & (names == name) for name in dict.fromkeys(names[anomalous])}
    if len(members_of) < 2:
        return found
    by_kind = {}
    for name, members in members_of.items():
        share, interval = _share(above, members, level, groups)
        by_kind[name] = {"images": int(members.sum()), "rate": share, "interval": interval}
    return {**found, "by_kind": by_kind, "worst_kind": worst_kind(by_kind)}


def worst_kind(by_kind: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the kind of anomaly that is detected least; of several with that rate, the one that is known least.

    It is the one whose interval reaches lowest, and the first of several such. ``by_kind`` is an entry of
    ``alarm_rates``.
    """
    return min(by_kind, key=lambda name: (by_kind[name]["rate"], by_kind[name]["interval"][0]))


def _share(
    above: np.ndarray, members: np.ndarray, level: float, groups: np.ndarray | None
) -> tuple[float, list[float]]:
    """Return the share of alarms among the images ``members`` (N,), of which there are some, and its interval."""
    own = above[members]
    ends = (
        exact_interval(int(own.sum()), len(own), level)
        if groups is None
        else grouped_interval(own, groups[members], level)
    )
    return float(own.mean()), list(ends)
