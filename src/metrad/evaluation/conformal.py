"""Thresholds and p-values with a guaranteed false-alarm rate, from calibration scores alone (split conformal)."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from metrad.errors import InputError

DEFAULT_RATES = (0.01, 0.05)  # false-alarm rates


def conformal_threshold(calibration_scores: np.ndarray, false_alarm_rate: float) -> float:
    """Return the split-conformal threshold above which a score is an alarm, from the calibration scores (n,) alone.

    The threshold is the ceil((n + 1) (1 - α))-th smallest calibration score, α being ``false_alarm_rate``. A new normal
    image that is exchangeable with the calibration images scores above the threshold with a probability of at most α.
    This needs no assumption about the distribution and allows ties. It holds on average over calibration sets, not
    for each set.

    Raises:
        InputError: α is outside (0, 1), or too small for the number of calibration images.
        ValueError: the scores are not a vector of finite numbers.

    Source:
        Papadopoulos et al. 2002, ECML; Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World; Lei et
        al. 2018, arXiv 1604.04173; Bates et al. 2023, arXiv 2104.08279 (outliers).
    """
    calibration = np.sort(_finite_vector(calibration_scores, "calibration_scores"))
    require_calibration(len(calibration), false_alarm_rate)
    rank = math.ceil((len(calibration) + 1) * (1 - _exact_rate(false_alarm_rate)))
    return float(calibration[rank - 1])


def alarms(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return whether each of ``scores`` (N,) is above ``threshold``, as booleans (N,).

    The comparison is in float64. In float32 the threshold could be rounded, and the alarms would then differ from those
    that the numbers in ``scores.csv`` give.
    """
    return np.asarray(scores, dtype=np.float64) > threshold


def usable_rates(wanted: Sequence[float] | None, calibration_images: int) -> list[float]:
    """Return the false-alarm rates to compute thresholds for with ``calibration_images`` images.

    ``wanted`` are the requested rates. None takes those of ``DEFAULT_RATES`` that there are enough images for.

    Raises:
        InputError: a requested rate needs more images.
    """
    if wanted is None:
        return [rate for rate in DEFAULT_RATES if calibration_images_needed(rate) <= calibration_images]
    for rate in wanted:
        require_calibration(calibration_images, rate)
    return list(wanted)


def calibration_images_needed(false_alarm_rate: float) -> int:
    """Return the smallest number of calibration images for which ``conformal_threshold`` can keep the rate.

    Raises:
        InputError: the rate is outside (0, 1).
    """
    return math.ceil(1 / _exact_rate(false_alarm_rate)) - 1


def require_calibration(images: int, false_alarm_rate: float) -> None:
    """Raise ``InputError`` if ``images`` calibration images are too few for the rate, or the rate is outside (0, 1)."""
    needed = calibration_images_needed(false_alarm_rate)
    if images < needed:
        raise InputError(
            f"a false-alarm rate of {false_alarm_rate} needs at least {needed} calibration images, got {images}; "
            "raise dataset.sizes.calibration or evaluation.false_alarm_rates"
        )


def conformal_p_values(calibration_scores: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the conformal p-value (N,) of each of ``scores`` (N,).

    The p-value is (1 + number of calibration scores >= the score) / (n + 1). It is at most α exactly when the score is
    above ``conformal_threshold`` of α, ties included.

    Raises:
        InputError: there are no calibration scores.
        ValueError: either argument is not a vector of finite numbers.

    Source:
        Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World; Bates et al. 2023, arXiv 2104.08279.
    """
    calibration = np.sort(_finite_vector(calibration_scores, "calibration_scores"))
    n = len(calibration)
    if n == 0:
        raise InputError("p-values need at least 1 calibration image, got 0; raise dataset.sizes.calibration")
    at_least = n - np.searchsorted(calibration, _finite_vector(scores, "scores"), side="left")
    return np.asarray((1 + at_least) / (n + 1))


def _exact_rate(false_alarm_rate: float) -> Fraction:
    """Return the fraction that the user meant: 1/20 for 0.05, and 1/3 for 0.3333333333333333.

    At most one fraction with a denominator of up to ten million rounds to a given float.
    """
    if not 0 < false_alarm_rate < 1:
        raise InputError(
            f"evaluation.false_alarm_rates must lie between 0 and 1, ends excluded, got {false_alarm_rate}"
        )
    simple = Fraction(float(false_alarm_rate)).limit_denominator(10**7)
    return simple if float(simple) == false_alarm_rate else Fraction(repr(float(false_alarm_rate)))


def _finite_vector(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"{name} must be a vector of finite numbers, got shape {values.shape}")
    return values
