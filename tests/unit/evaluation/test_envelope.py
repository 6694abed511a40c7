"""The figures of an operating envelope: shares by image and by group, intervals, and the step that doubles them."""

import numpy as np
import pytest

from metrad.data.changes import Change, exposed
from metrad.evaluation.conformal import Calibration, conformal_threshold
from metrad.evaluation.envelope import envelope, false_alarm_share
from metrad.evaluation.intervals import exact_interval, grouped_interval, share_interval

LIGHT = Change("brighter", "EV", (1.0, 2.0, 3.0), exposed)


def found(shifts, count=99, rate=0.05, groups=None, **more):
    """The envelope of scores 0 to ``count`` - 1 that rise by each of ``shifts``."""
    scores = np.arange(count, dtype=float)
    threshold = {"false_alarm_rate": rate, "threshold": conformal_threshold(scores, rate, groups), **more}
    columns = np.stack([scores + shift for shift in shifts], axis=1)
    return envelope(columns, [LIGHT], Calibration(scores, groups), groups=groups, thresholds=[threshold], level=0.95)


def test_shares_are_those_above_the_threshold_with_exact_intervals():
    content = found([0, 3, 100])
    (change,) = content["changes"]
    assert [step["false_alarm_rates"] for step in change["steps"]] == [[4 / 99], [7 / 99], [1.0]]
    assert [step["strength"] for step in change["steps"]] == [1.0, 2.0, 3.0]
    for step, alarms in zip(change["steps"], (4, 7, 99), strict=True):
        np.testing.assert_allclose(step["intervals"][0], exact_interval(alarms, 99), atol=1e-9)
    assert content["images"] == 99
    assert "groups" not in content


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (39, 0.05), (99, 0.01), (99, 0.05), (20, 0.1)])
def test_unchanged_images_are_above_by_construction_whatever_their_scores(count, rate):
    (threshold,) = found([0, 0, 0], count, rate)["thresholds"]
    assert threshold["unchanged"] == (int((count + 1) * rate + 1e-9) - 1) / count


def test_the_first_step_at_twice_the_rate_is_named():
    # 10 of 100 images are exactly twice 5 %
    assert found([0, 6, 7], 100)["changes"][0]["doubled_at"] == [2.0]
    assert found([0, 5, 5], 100)["changes"][0]["doubled_at"] == [None]
    assert found([6, 0, 9], 100)["changes"][0]["doubled_at"] == [1.0]


def test_a_group_counts_by_the_share_of_its_images_or_by_any_with_a_confidence():
    scores, groups = np.array([1.0, 3.0, 0.0, 0.0, 0.0, 5.0]), np.array([4, 4, 9, 9, 9, 2])
    assert false_alarm_share(scores, 2.0, groups, any_image=False) == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert false_alarm_share(scores, 2.0, groups, any_image=True) == pytest.approx(2 / 3)
    assert false_alarm_share(scores, 2.0, None, any_image=True) == pytest.approx(2 / 6)


def test_with_groups_the_intervals_count_groups():
    groups = np.arange(99) // 3
    content = found([0, 3, 100], groups=groups)
    assert content["groups"] == 33
    (change,) = content["changes"]
    share = change["steps"][1]["false_alarm_rates"][0]
    assert change["steps"][1]["intervals"][0] == list(share_interval(share, 33))
    assert "confidence" in found([0, 3, 100], groups=groups, confidence=0.95)["thresholds"][0]


def test_the_interval_of_a_share_is_that_of_whole_numbers_and_of_groups():
    np.testing.assert_allclose(share_interval(3 / 20, 20), exact_interval(3, 20), atol=1e-9)
    above = np.arange(30) < 4
    assert share_interval(4 / 30, 10) == grouped_interval(above, np.arange(30) // 3)
    for share, trials in ((-0.1, 3), (1.1, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="share must lie"):
            share_interval(share, trials)
