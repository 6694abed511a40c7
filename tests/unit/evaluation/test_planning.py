"""The plan: parts that a rate takes, and rates that parts allow, against scipy's distributions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metrad.errors import InputError
from metrad.evaluation.conformal import calibration_groups_needed
from metrad.evaluation.intervals import exact_interval
from metrad.evaluation.planning import needed, plan, shares, smallest_rate

quick = settings(deadline=None, database=None, derandomize=True, max_examples=60)
rates = st.integers(2, 900).map(lambda thousandths: thousandths / 1000)
confidences = st.sampled_from([0.5, 0.75, 0.8, 0.9, 0.95, 0.99, 0.999])


def coverage(calibration, rate):
    """Probability that the largest of the calibration scores keeps the rate: its rate is Beta(1, n)."""
    return stats.beta.cdf(rate, 1, calibration)


@quick
@given(rates, confidences)
def test_the_parts_for_a_confidence_are_the_fewest_by_the_beta_distribution(rate, confidence):
    count = calibration_groups_needed(rate, confidence)
    assert coverage(count, rate) >= confidence - 1e-12
    assert count == 1 or coverage(count - 1, rate) < confidence


@quick
@given(rates)
def test_the_parts_for_a_mean_are_the_fewest_by_the_beta_distribution(rate):
    count = calibration_groups_needed(rate)
    assert stats.beta.mean(1, count) <= rate + 1e-12
    assert count == 1 or stats.beta.mean(1, count - 1) > rate


@pytest.mark.parametrize(
    ("rate", "confidence", "count"), [(0.5, 0.75, 2), (0.1, 0.19, 2), (0.5, 0.9375, 4), (0.2, 0.36, 2)]
)
def test_round_rates_take_no_part_too_many(rate, confidence, count):
    """The ratio of the logarithms is whole, and rounding could raise it."""
    assert calibration_groups_needed(rate, confidence) == count


@quick
@given(st.integers(1, 5000), confidences)
def test_the_smallest_rate_with_confidence_is_the_upper_end_of_clopper_and_pearson(parts, confidence):
    rate = smallest_rate(parts, confidence)
    assert rate == pytest.approx(exact_interval(0, parts, 2 * confidence - 1)[1] if confidence > 0.5 else rate)
    assert coverage(parts, rate) == pytest.approx(confidence)
    assert calibration_groups_needed(rate * (1 + 1e-9), confidence) <= parts


@quick
@given(st.integers(1, 5000))
def test_the_smallest_rate_on_average_takes_just_these_parts(parts):
    assert calibration_groups_needed(smallest_rate(parts)) == parts


@quick
@given(st.integers(10, 10_000), st.lists(st.integers(1, 600), max_size=4))
def test_parts_are_shared_out_without_remainder(parts, steps):
    share = shares(parts, steps)
    assert min(share.calibration, share.test, share.index) >= 1
    assert share.calibration + share.test + share.index == parts
    assert share.index >= share.calibration // 2


@quick
@given(rates, confidences)
def test_the_parts_of_a_plan_are_the_fewest_that_leave_enough_for_its_calibration(rate, confidence):
    for one in (needed(rate), needed(rate, confidence)):
        step = calibration_groups_needed(rate, one.confidence)
        assert one.calibration >= step
        assert one.parts == 10 or shares(one.parts - 1, [step]).calibration < step


def test_a_plan_names_both_kinds_of_thresholds():
    said = plan([0.01], 0.95, None)
    assert [line.split() for line in said.splitlines()[2:4]] == [
        ["1", "%", "on", "average", "99", "37", "50", "186"],
        ["1", "%", "with", "confidence", "0.95", "299", "112", "150", "561"],
    ]
    assert "can be promised" not in said


def test_a_plan_for_so_many_parts_says_which_rates_they_allow():
    said = plan([0.01, 0.05], 0.95, 300)
    assert "300 good parts: 99 for calibration, 60 for testing, 141 for the index" in said
    assert "on average             1 %" in said
    assert "with confidence 0.95   2.99 %" in said
    assert "1 % on average: can be promised" in said
    assert "1 % with confidence 0.95: cannot be promised; 561 parts can" in said
    assert "5 % with confidence 0.95: can be promised" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0.0], 0.95, None), r"--rate must lie between 0 and 1, ends excluded, such as 0\.05, got 0"),
        (([5.0], 0.95, None), r"--rate must lie between 0 and 1, .* got 5"),
        (([float("nan")], 0.95, None), r"--rate must lie between 0 and 1, .* got nan"),
        (([0.05], 1.0, None), r"--confidence must lie between 0 and 1, .* got 1"),
        (([0.05], 0.95, 9), r"--parts must be at least 10, got 9"),
        (([0.05], 0.95, -5), r"--parts must be at least 10, got -5"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_its_option(arguments, words):
    with pytest.raises(InputError, match=words):
        plan(*arguments)
