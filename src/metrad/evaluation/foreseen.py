"""Foreseen false alarms: how many of so many good parts a calibrated threshold will flag."""

import numpy as np

from metrad.evaluation.conformal import alarms


def most_false_alarms(calibration: np.ndarray, threshold: float, count: int, probability: float) -> int:
    """Return the number of alarms among ``count`` good parts that is exceeded with at most 1 - ``probability``.

    The probability is over calibration sets and good parts together. A threshold with a of the n calibration scores
    above it has a false-alarm rate that is at most Beta(a + 1, n - a) distributed, so the number of alarms is at most
    beta-binomial. Ties in the scores only lower it.

    Args:
        calibration: one independent score for each calibration part, (n,).
        threshold: one of ``calibration``; a score above it is an alarm.
        count: number of good parts.
        probability: the probability, in (0, 1).

    Source:
        Vovk 2012, arXiv 1209.2673, for the distribution of the rate given the calibration set.
    """
    from scipy import stats  # takes half a second to import, which a refused command does not need

    above = int(alarms(calibration, threshold).sum())
    return int(stats.betabinom.ppf(probability, count, above + 1, len(calibration) - above))
