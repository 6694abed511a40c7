"""The number of false alarms that is to be expected of a batch of good parts."""

import numpy as np
import pytest

from metrad.evaluation.conformal import confident_threshold, conformal_threshold
from metrad.evaluation.foreseen import most_false_alarms


@pytest.mark.parametrize(("size", "rate", "count"), [(40, 0.05, 100), (200, 0.1, 30), (99, 0.01, 1000)])
def test_the_number_is_exceeded_as_rarely_as_promised_and_not_much_rarer(size, rate, count):
    generator, trials = np.random.default_rng(0), 3000
    calibration, parts = generator.standard_normal((trials, size)), generator.standard_normal((trials, count))
    thresholds = np.array([conformal_threshold(scores, rate) for scores in calibration])
    most = most_false_alarms(calibration[0], thresholds[0], count, 0.95)  # depends on ranks alone
    exceeded = ((parts > thresholds[:, None]).sum(1) > most).mean()
    assert 0.01 < exceeded < 0.062  # at most 5 %, and 3 standard errors


def test_a_confident_threshold_foresees_at_most_its_share_of_many_parts():
    calibration = np.random.default_rng(0).standard_normal(400)
    threshold = confident_threshold(calibration, 0.05, 0.95)
    count = 100_000
    assert most_false_alarms(calibration, threshold, count, 0.95) <= 0.0505 * count


def test_ties_do_not_raise_the_number():
    calibration = np.repeat(np.arange(20.0), 5)
    threshold = conformal_threshold(calibration, 0.1)
    tied = most_false_alarms(calibration, threshold, 200, 0.95)
    apart = np.arange(100.0)
    assert tied <= most_false_alarms(apart, conformal_threshold(apart, 0.1), 200, 0.95)
