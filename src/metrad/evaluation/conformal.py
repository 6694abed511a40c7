"""Thresholds and p-values with a guaranteed false-alarm rate, from calibration scores alone (split conformal).

Images of one group, such as several photographs of one part, are not independent. All functions therefore take the
group number of each calibration image, and count groups instead of images. Without groups, each image is a group of
its own.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from metrad.errors import InputError

DEFAULT_RATES = (0.01, 0.05)  # false-alarm rates
EXACT_COUNT = 10_000  # largest count of groups that is computed in fractions


@dataclass(frozen=True)
class Calibration:
    """The scores that thresholds and p-values are computed from.

    Attributes:
        scores: scores of the calibration images, (M,).
        groups: group number of each image, (M,) integers; None if each image is a group of its own.
    """

    scores: np.ndarray
    groups: np.ndarray | None = None

    def in_order(self) -> "Calibration":
        """Return the same with the scores in ascending order."""
        order = np.argsort(self.scores, kind="stable")
        return Calibration(self.scores[order], None if self.groups is None else self.groups[order])


def conformal_threshold(
    calibration_scores: np.ndarray, false_alarm_rate: float, groups: np.ndarray | None = None
) -> float:
    """Return the split-conformal threshold above which a score is an alarm, from the calibration scores (n,) alone.

    It is the smallest calibration score whose higher scores have a p-value of at most α, the ``false_alarm_rate``.
    Without groups it is the ceil((n + 1) (1 - α))-th smallest calibration score. A random normal image of a new group
    that is exchangeable with the calibration groups scores above the threshold with a probability of at most α. This
    needs no assumption about the distribution and allows ties. It holds on average over calibration sets, not for each
    set; ``confident_threshold`` holds for most sets.

    Args:
        calibration_scores: scores of the calibration images, (n,).
        false_alarm_rate: the rate α.
        groups: group number of each calibration image, (n,) integers; None if each image is a group of its own.

    Raises:
        InputError: α is outside (0, 1), or too small for the number of calibration groups.
        ValueError: the scores are not a vector of finite numbers, or ``groups`` has another length.

    Source:
        Papadopoulos et al. 2002, ECML; Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World; Lei et
        al. 2018, arXiv 1604.04173; Bates et al. 2023, arXiv 2104.08279 (outliers); for groups Lee, Barber and Willett
        2023, arXiv 2306.06342, and Dunn, Wasserman and Ramdas 2022, arXiv 1809.07441.
    """
    tail = _Tail.of(calibration_scores, groups)
    require_calibration(tail.groups, false_alarm_rate, "images" if groups is None else "groups")
    most = math.floor(_exact_rate(false_alarm_rate) * tail.whole)
    # mass above each distinct score, with the group to come; falls as the score rises
    allowed = np.flatnonzero(tail.unit + np.append(tail.mass[1:], 0) <= most)
    return float(tail.scores[allowed[0]])


def confident_threshold(
    calibration_scores: np.ndarray, false_alarm_rate: float, confidence: float, groups: np.ndarray | None = None
) -> float:
    """Return a threshold whose false-alarm rate is at most α with a probability of at least ``confidence``.

    The probability is over calibration sets. The threshold is an order statistic of the largest score of each group,
    the upper end of a one-sided tolerance interval. So it bounds the share of new groups with any alarm, whatever their
    number of images. The rate of single images is then at most α too. One image a group would give a lower threshold,
    but it would depend on which image is drawn, and it would say nothing about a part with several photographs.

    Args:
        calibration_scores: scores of the calibration images, (n,).
        false_alarm_rate: the rate α.
        confidence: the probability, in (0, 1).
        groups: group number of each calibration image, (n,) integers; None if each image is a group of its own.

    Raises:
        InputError: α or ``confidence`` is outside (0, 1), or there are too few groups.
        ValueError: as for ``conformal_threshold``.

    Source:
        Wilks 1941, Annals of Mathematical Statistics 12(1); Vovk 2012, arXiv 1209.2673.
    """
    from scipy import stats  # takes half a second to import, which ``metrad plan`` does not need

    largest = np.sort(largest_by_group(calibration_scores, groups))
    needed = calibration_groups_needed(false_alarm_rate, confidence)
    if len(largest) < needed:
        raise InputError(
            f"a false-alarm rate of {false_alarm_rate} with confidence {confidence} needs at least {needed} "
            f"calibration groups, got {len(largest)}; raise dataset.sizes.calibration or lower the confidence"
        )
    below = int(stats.binom.ppf(confidence, len(largest), 1 - false_alarm_rate))
    return float(largest[min(below, len(largest) - 1)])


def largest_by_group(scores: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return the largest of ``scores`` (n,) in each group, (G,), in the order of the group numbers ``groups`` (n,)."""
    scores = _finite_vector(scores, "scores")
    if groups is None:
        return scores
    numbers = _group_numbers(groups, len(scores))
    largest = np.full(int(numbers.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(largest, numbers, scores)
    return largest


def alarms(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return whether each of ``scores`` (N,) is above ``threshold``, as booleans (N,).

    The comparison is in float64. In float32 the threshold could be rounded, and the alarms would then differ from those
    that the numbers in ``scores.csv`` give.
    """
    return np.asarray(scores, dtype=np.float64) > threshold


def usable_rates(wanted: Sequence[float] | None, calibration_groups: int) -> list[float]:
    """Return the false-alarm rates to compute thresholds for with ``calibration_groups`` groups of images.

    ``wanted`` are the requested rates. None takes those of ``DEFAULT_RATES`` that there are enough groups for.

    Raises:
        InputError: a requested rate needs more groups.
    """
    if wanted is None:
        return [rate for rate in DEFAULT_RATES if calibration_groups_needed(rate) <= calibration_groups]
    for rate in wanted:
        require_calibration(calibration_groups, rate)
    return list(wanted)


def calibration_groups_needed(false_alarm_rate: float, confidence: float | None = None) -> int:
    """Return the smallest number of calibration groups for which a threshold can keep the rate.

    The threshold is ``conformal_threshold``, or ``confident_threshold`` if ``confidence`` is given. It takes 19 groups
    for 5 % and 99 for 1 %; with confidence 0.95 it takes 59 and 299.

    Raises:
        InputError: the rate or the confidence is outside (0, 1).
    """
    exact = _exact_rate(false_alarm_rate)
    if confidence is None:
        return math.ceil(1 / exact) - 1
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, ends excluded, got {confidence}")
    estimate = math.ceil(math.log1p(-confidence) / math.log1p(-float(exact)))
    if estimate > EXACT_COUNT:
        return estimate
    # for round rates and confidences, such as 0.5 and 0.75, the logarithms' ratio is whole but for rounding
    missed = 1 - _simple(confidence)
    return next(count for count in itertools.count(max(1, estimate - 1)) if (1 - exact) ** count <= missed)


def require_calibration(groups: int, false_alarm_rate: float, counted: str = "images") -> None:
    """Raise ``InputError`` if ``groups`` calibration groups are too few for the rate, or the rate is outside (0, 1).

    ``counted`` is the word for what is counted: ``images`` if each is a group of its own, else ``groups``.
    """
    needed = calibration_groups_needed(false_alarm_rate)
    if groups < needed:
        raise InputError(
            f"a false-alarm rate of {false_alarm_rate} needs at least {needed} calibration {counted}, got {groups}; "
            "raise dataset.sizes.calibration or evaluation.false_alarm_rates"
        )


def conformal_p_values(
    calibration_scores: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return the conformal p-value (N,) of each of ``scores`` (N,).

    The p-value is (1 + sum over the G calibration groups of the share of the group's scores >= the score) / (G + 1),
    without groups (1 + number of calibration scores >= the score) / (n + 1). It is at most α exactly when the score is
    above ``conformal_threshold`` of α, ties included.

    Args:
        calibration_scores: scores of the calibration images, (n,).
        scores: the scores (N,).
        groups: group number of each calibration image, (n,) integers; None if each image is a group of its own.

    Raises:
        InputError: there are no calibration scores.
        ValueError: a score is not finite, or the lengths differ.

    Source:
        Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World; Bates et al. 2023, arXiv 2104.08279; for
        groups Lee, Barber and Willett 2023, arXiv 2306.06342.
    """
    tail = _Tail.of(calibration_scores, groups)
    if not tail.groups:
        raise InputError("p-values need at least 1 calibration image, got 0; raise dataset.sizes.calibration")
    place = np.searchsorted(tail.scores, _finite_vector(scores, "scores"), side="left")
    mass = tail.unit + np.append(tail.mass, 0)[place]
    return np.asarray(mass / tail.whole, dtype=np.float64)


@dataclass(frozen=True)
class _Tail:
    """The calibration scores with their mass, in whole numbers, so that a p-value equals α exactly where it should.

    Attributes:
        scores: the distinct scores, (D,), rising.
        mass: mass of the scores at or above each, (D,) integers; an image of a group of k has ``unit`` / k.
        unit: mass of a group, divisible by the size of every group.
        groups: number of groups G.
    """

    scores: np.ndarray
    mass: np.ndarray
    unit: int
    groups: int

    @property
    def whole(self) -> int:
        """The mass of all groups and of the one to come."""
        return (self.groups + 1) * self.unit

    @classmethod
    def of(cls, calibration_scores: np.ndarray, groups: np.ndarray | None) -> "_Tail":
        scores = _finite_vector(calibration_scores, "calibration_scores")
        distinct, place = np.unique(scores, return_inverse=True)
        numbers = np.arange(len(scores)) if groups is None else _group_numbers(groups, len(scores))
        sizes = np.bincount(numbers)
        unit = math.lcm(*np.unique(sizes).tolist())
        # Python's integers are as long as needed: the least common multiple of many sizes exceeds 64 bits
        kind = np.int64 if (len(sizes) + 1) * unit < 2**53 else object
        mass = np.zeros(len(distinct), dtype=kind)
        np.add.at(mass, place, (unit // sizes.astype(kind))[numbers])
        return cls(distinct, np.cumsum(mass[::-1])[::-1], unit, len(sizes))


def _group_numbers(groups: np.ndarray, count: int) -> np.ndarray:
    """Return the group of each image as a number from 0, (count,)."""
    groups = np.asarray(groups)
    if groups.shape != (count,):
        raise ValueError(f"groups must have one entry a score, ({count},), got {groups.shape}")
    return np.unique(groups, return_inverse=True)[1]


def _exact_rate(false_alarm_rate: float) -> Fraction:
    if not 0 < false_alarm_rate < 1:
        raise InputError(
            f"evaluation.false_alarm_rates must lie between 0 and 1, ends excluded, got {false_alarm_rate}"
        )
    return _simple(false_alarm_rate)


def _simple(value: float) -> Fraction:
    """Return the fraction that the user meant: 1/20 for 0.05, and 1/3 for 0.3333333333333333.

    At most one fraction with a denominator of up to ten million rounds to a given float.
    """
    simple = Fraction(float(value)).limit_denominator(10**7)
    return simple if float(simple) == value else Fraction(repr(float(value)))


def _finite_vector(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"{name} must be a vector of finite numbers, got shape {values.shape}")
    return values
