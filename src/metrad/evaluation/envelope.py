"""The operating envelope: false alarms of a run's thresholds on its calibration images under changes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metrad.data.changes import Change
from metrad.evaluation.conformal import Calibration, alarms, largest_by_group
from metrad.evaluation.intervals import share_interval

_KEPT = ("false_alarm_rate", "confidence", "threshold")
TIMES = 2  # a step doubles the false alarms if its share reaches this multiple of the promised rate


def false_alarm_share(scores: np.ndarray, threshold: float, groups: np.ndarray | None, *, any_image: bool) -> float:
    """Return the share of good parts that are false alarms.

    It counts as the thresholds do. Without groups, it is the share of images. A threshold that keeps its rate on
    average is about a random image of a random group, so each group counts by the share of its images. A threshold with
    a confidence is about groups with any alarm, so each group counts by its largest score.

    Args:
        scores: scores of the images, (N,).
        threshold: the threshold, above which a score is an alarm.
        groups: group number of each image, (N,); None if each image is a group of its own.
        any_image: whether a group is an alarm as soon as one of its images is.
    """
    if groups is None:
        return float(alarms(scores, threshold).mean())
    numbers = np.unique(groups, return_inverse=True)[1]
    if any_image:
        return float(alarms(largest_by_group(scores, numbers), threshold).mean())
    sizes = np.bincount(numbers)
    return float((np.bincount(numbers, alarms(scores, threshold)) / sizes).mean())


def envelope(
    scores: np.ndarray,
    changes: Sequence[Change],
    calibration: Calibration,
    *,
    groups: np.ndarray | None,
    thresholds: Sequence[Mapping[str, Any]],
    level: float,
) -> dict[str, Any]:
    """Return the false alarms at each step of each change, with their intervals, and the step at which they double.

    The unchanged calibration images are no measurement: the thresholds are scores of these images, so their number of
    false alarms follows from the rate and the number of images alone.

    Args:
        scores: scores of the calibration images after each step of each change, (N, steps).
        changes: the changes, whose steps are the columns of ``scores``.
        calibration: the scores of the unchanged calibration images.
        groups: group number of each image, (N,), in the order of ``scores``; None if each image is a group of its own.
        thresholds: entries ``false_alarm_rate``, ``threshold`` and, if it has one, ``confidence`` of each threshold.
        level: confidence level of the intervals.
    """
    trials = len(scores) if groups is None else len(np.unique(groups))

    def shares(found: np.ndarray, numbers: np.ndarray | None) -> list[float]:
        return [
            false_alarm_share(found, each["threshold"], numbers, any_image="confidence" in each) for each in thresholds
        ]

    columns, kinds = iter(scores.T), []
    for change in changes:
        measured = [shares(next(columns), groups) for _ in change.strengths]
        steps = [
            {
                "strength": strength,
                "false_alarm_rates": found,
                "intervals": [list(share_interval(share, trials, level)) for share in found],
            }
            for strength, found in zip(change.strengths, measured, strict=True)
        ]
        doubled = [
            _first_doubled(change.strengths, [step[i] for step in measured], each["false_alarm_rate"])
            for i, each in enumerate(thresholds)
        ]
        kinds.append({"change": change.name, "unit": change.unit, "doubled_at": doubled, "steps": steps})
    unchanged = shares(calibration.scores, calibration.groups)
    return {
        "images": len(scores),
        **({} if groups is None else {"groups": trials}),
        "level": level,
        "thresholds": [
            {**{name: each[name] for name in _KEPT if name in each}, "unchanged": share}
            for each, share in zip(thresholds, unchanged, strict=True)
        ],
        "changes": kinds,
    }


def _first_doubled(strengths: Sequence[float], shares: Sequence[float], rate: float) -> float | None:
    """Return the first strength whose share of false alarms is at least twice the ``rate``; None if none is."""
    # a share is a quotient of whole numbers, which may round to just below twice the rate
    reached = (strength for strength, share in zip(strengths, shares, strict=True) if share >= TIMES * rate - 1e-12)
    return next(reached, None)
