"""Thresholds that no float32 score equals: alarms are those of the scores as ``scores.csv`` prints them."""

import numpy as np
import pytest

from metrad.evaluation.conformal import alarms, conformal_p_values, conformal_threshold
from metrad.evaluation.measures import threshold_metrics

STARTS = [0.1, 0.3, 1.0, 1e-30, 5e7, -0.7]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_threshold_between_two_adjacent_scores_parts_them(start, share):
    """Rounded to float32, the threshold is one of the two scores, and for some share the upper one."""
    low = np.float32(start)
    high = np.nextafter(low, np.float32(np.inf))
    threshold = float(low) + share * (float(high) - float(low))
    scores = np.array([low, high], dtype=np.float32)
    assert float(low) < threshold < float(high)
    assert alarms(scores, threshold).tolist() == [False, True]
    assert alarms(scores, threshold).tolist() == [value > threshold for value in scores.tolist()]


@pytest.mark.parametrize("start", STARTS)
def test_the_rates_of_a_threshold_are_those_of_the_scores_as_printed(start):
    low = np.float32(start)
    high = np.nextafter(low, np.float32(np.inf))
    threshold = float(low) + 0.99 * (float(high) - float(low))
    scores, anomalous = np.array([low, high, low, high], dtype=np.float32), np.array([False, False, True, True])
    kept = conformal_threshold(np.full(19, threshold), 0.05)
    found = threshold_metrics(0.05, kept, scores=scores, anomalous=anomalous, level=0.95)
    assert (found["threshold"], found["test_false_alarm_rate"], found["test_detection_rate"]) == (threshold, 0.5, 0.5)
    assert (conformal_p_values(np.full(19, threshold), scores) <= 0.05).tolist() == [False, True, False, True]


def test_a_score_that_equals_the_threshold_is_no_alarm():
    scores = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    assert alarms(scores, float(scores[1])).tolist() == [False, False, True]
