"""Intervals and conformal thresholds against slow twins, scipy, scikit-learn and a published example."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from metrad.errors import InputError
from metrad.evaluation import intervals as intervals_module
from metrad.evaluation.conformal import calibration_groups_needed, conformal_p_values, conformal_threshold
from metrad.evaluation.intervals import bootstrap_intervals, delong_interval, delong_variance, exact_interval
from metrad.evaluation.metrics import RocCurves, by_name, summary
from tests.reference.evaluation import statistics as slow
from tests.reference.evaluation.metrics import TWINS

# Scores on a grid, so that ties are common.
grid = st.integers(-20, 20).map(lambda value: value / 4)
cases = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=grid),
        hnp.arrays(bool, n).filter(lambda truth: truth.any() and not truth.all()),
    )
)
calibrations = st.integers(1, 80).flatmap(lambda n: hnp.arrays(np.float64, n, elements=grid))
rates = st.integers(1, 999).map(lambda j: j / 1000) | st.integers(2, 80).map(lambda n: 1 / n)


def binormal(normal, anomalous, distance=1.5, seed=0, decimals=1):
    generator = np.random.default_rng(seed)
    scores = np.concatenate([generator.normal(size=normal), generator.normal(distance, size=anomalous)])
    mixed = generator.permutation(len(scores))
    return scores.round(decimals)[mixed], (np.arange(len(scores)) >= normal)[mixed]


def fewest_of_a_kind(truth):
    return min(int(truth.sum()), int((~truth).sum()))


# DeLong


@given(cases)
@settings(deadline=None, max_examples=60)
def test_delong_equals_its_twin(case):
    scores, truth = case
    assume(fewest_of_a_kind(truth) >= 2)
    assert delong_variance(scores, truth) == pytest.approx(slow.delong(scores, truth), abs=1e-12)


def test_delong_equals_its_twin_without_ties_and_with_other_numbers_of_a_kind():
    scores, truth = binormal(70, 30, decimals=15)
    assert delong_variance(scores, truth) == pytest.approx(slow.delong(scores, truth), rel=1e-12)


def test_delong_gives_the_figures_of_hanley_and_mcneil_1982_as_printed_by_stata():
    # 109 CT images in five ratings; Stata's manual, [R] roctab: 0.8932, 0.0307, 0.83295 to 0.95339 (plain normal).
    scores = np.repeat([1, 2, 3, 4, 5] * 2, [33, 6, 6, 11, 2, 3, 2, 2, 11, 33])
    truth = np.arange(109) >= 58
    auroc, variance = delong_variance(scores, truth)
    assert auroc == pytest.approx(0.8932, abs=5e-5)
    assert variance**0.5 == pytest.approx(0.0307, abs=5e-5)
    plain = stats.norm.interval(0.95, auroc, variance**0.5)
    assert plain == pytest.approx((0.83295, 0.95339), abs=5e-6)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_is_normal_on_the_logit_scale(level):
    scores, truth = binormal(70, 30)
    expected = slow.logit_interval(*slow.delong(scores, truth), level)
    assert delong_interval(scores, truth, level) == pytest.approx(expected, abs=1e-12)


@given(cases, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=80)
def test_the_delong_interval_lies_in_0_to_1_around_the_auroc_and_has_some_width(case, level):
    scores, truth = case
    low, high = delong_interval(scores, truth, level)
    assert 0 <= low < high <= 1
    assert low - 1e-12 <= TWINS["auroc"].by_hand(scores, truth) <= high + 1e-12


@given(cases)
@settings(deadline=None, max_examples=50)
def test_a_higher_level_gives_a_wider_delong_interval(case):
    low, high = delong_interval(*case, level=0.9)
    wider_low, wider_high = delong_interval(*case, level=0.99)
    assert wider_low <= low
    assert high <= wider_high
    assert wider_high - wider_low > high - low


@given(cases)
@settings(deadline=None, max_examples=50)
def test_turning_the_scores_round_turns_the_delong_interval_round(case):
    scores, truth = case
    low, high = delong_interval(scores, truth)
    assert delong_interval(-scores, truth) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("normal", "anomalous"), [(20, 20), (300, 10), (10, 300), (1, 1)])
def test_perfect_scores_get_the_exact_bound_of_as_many_disjoint_pairs(normal, anomalous):
    truth = np.arange(normal + anomalous) >= normal
    scores = np.arange(normal + anomalous)
    bound = 0.025 ** (1 / min(normal, anomalous))
    assert delong_interval(scores, truth) == pytest.approx((bound, 1), abs=1e-12)
    assert delong_interval(scores, truth)[1] == 1
    assert delong_interval(-scores, truth) == pytest.approx((0, 1 - bound), abs=1e-12)
    assert delong_interval(-scores, truth)[0] == 0


def test_scores_that_are_all_tied_get_an_interval_around_a_half():
    bound = 0.025 ** (1 / 10)
    interval = delong_interval(np.zeros(40), np.arange(40) >= 30)
    assert interval == pytest.approx((bound / 2, 1 - bound / 2), abs=1e-12)


def test_one_image_of_a_kind_gets_a_wide_interval():
    scores, truth = np.arange(101.0), np.arange(101) == 80
    assert delong_interval(scores, truth) == pytest.approx((0.025 * 0.8, 1 - 0.025 * 0.2), abs=1e-12)
    assert delong_interval(scores, ~truth) == pytest.approx((0.025 * 0.2, 1 - 0.025 * 0.8), abs=1e-12)


def test_the_variance_of_one_image_is_refused():
    with pytest.raises(ValueError, match="two images of each kind, got 3 normal and 1 anomalous"):
        delong_variance(np.arange(4), np.arange(4) == 3)


# Metrics and bootstrap


def of_counts(normal, anomalous):
    """Every metric of samples given by counts as ``RocCurves`` takes them."""
    curves = RocCurves.from_counts(normal, anomalous)
    return {name: metric.of_samples(curves) for name, metric in by_name().items()}


@given(cases)
@settings(deadline=None, max_examples=60)
def test_the_metrics_of_the_data_themselves_equal_the_twins_and_the_summary(case):
    scores, truth = case
    levels = np.unique(scores)[::-1]
    counts = [np.array([[(scores[kind] == level).sum() for level in levels]], float) for kind in (~truth, truth)]
    found = {name: value.item() for name, value in of_counts(*counts).items()}
    assert found == pytest.approx({name: twin.library(truth, scores) for name, twin in TWINS.items()}, abs=1e-12)
    assert found == pytest.approx({name: twin.by_hand(scores, truth) for name, twin in TWINS.items()}, abs=1e-12)
    assert found == pytest.approx(summary(scores, truth), abs=1e-12)


def test_19_of_20_anomalous_images_are_95_percent():
    normal = np.array([[0.0, 10.0, 0.0]])
    anomalous = np.array([[19.0, 0.0, 1.0]])
    assert of_counts(normal, anomalous)["fpr_at_95_tpr"] == 0


@pytest.mark.parametrize("images", [1, 11, 58, 91, 93])
def test_perfect_scores_have_perfect_metrics_and_nothing_beyond_1(images):
    anomalous = (np.arange(2 * images) < images)[None].astype(float)
    found = of_counts(1 - anomalous, anomalous)
    assert all(0 <= value.item() <= 1 for value in found.values())
    assert found == pytest.approx({name: float(metric.higher_is_better) for name, metric in by_name().items()})


def test_scores_that_are_drawn_no_time_change_no_metric():
    generator = np.random.default_rng(0)
    normal, anomalous = generator.integers(0, 3, size=(2, 5, 12)).astype(float)
    gaps = np.zeros((5, 1))
    padded = [np.hstack([gaps, counts[:, :6], gaps, gaps, counts[:, 6:], gaps]) for counts in (normal, anomalous)]
    found, same = of_counts(normal, anomalous), of_counts(*padded)
    for name in by_name():
        np.testing.assert_allclose(same[name], found[name], atol=1e-12)


def test_each_resample_keeps_the_number_of_images_and_draws_them_all_alike():
    places = np.array([0, 0, 0, 1, 4])
    counts = intervals_module._resampled_counts(np.random.default_rng(0), places, 20_000, 5)
    assert counts.shape == (20_000, 5)
    np.testing.assert_array_equal(counts.sum(axis=1), 5)
    # Five draws with shares 3/5, 1/5 and 1/5, the highest score first.
    np.testing.assert_allclose(counts.mean(axis=0), [1, 0, 0, 1, 3], atol=0.04)
    np.testing.assert_allclose(counts.var(axis=0), [0.8, 0, 0, 0.8, 1.2], atol=0.05)


@pytest.mark.parametrize("decimals", [pytest.param(0, marks=pytest.mark.long), 12])
def test_the_bootstrap_equals_its_twin_resample_for_resample(decimals):
    scores, truth = binormal(37, 21, decimals=decimals)
    intervals = bootstrap_intervals(scores, truth, level=0.9, resamples=200, seed=3)
    expected = slow.bootstrap(scores, truth, level=0.9, resamples=200, seed=3)
    assert list(intervals) == list(by_name())
    for name in by_name():
        assert intervals[name] == pytest.approx(expected[name], abs=1e-12)


# All are metrics of the same resamples.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name != "auroc")) for name in by_name()]
)
def test_the_bootstrap_agrees_with_scipy(name):
    scores, truth = binormal(150, 100, decimals=2)
    labels = np.arange(250) >= 150
    expected = stats.bootstrap(
        (scores[~truth], scores[truth]),
        lambda normal, anomalous: TWINS[name].library(labels, np.concatenate([normal, anomalous])),
        paired=False,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    interval = bootstrap_intervals(scores, truth, resamples=4000)[name]
    # A 2.5 % point of 1,000 resamples has a standard error of 0.085 standard deviations; this is four of them.
    assert interval == pytest.approx(tuple(expected.confidence_interval), abs=0.35 * expected.standard_error)


def test_the_bootstrap_interval_of_the_auroc_is_close_to_delongs():
    scores, truth = binormal(400, 400)
    assert bootstrap_intervals(scores, truth)["auroc"] == pytest.approx(delong_interval(scores, truth), abs=0.003)


@given(cases)
@settings(deadline=None, max_examples=50)
def test_bootstrap_intervals_lie_in_0_to_1_and_the_right_way_round(case):
    for low, high in bootstrap_intervals(*case, resamples=50).values():
        assert 0 <= low <= high <= 1


@pytest.mark.parametrize("name", by_name())
def test_bootstrap_intervals_widen_with_the_level_and_hold_the_figure(name):
    scores, truth = binormal(100, 100)
    narrow = bootstrap_intervals(scores, truth, level=0.5)[name]
    wide = bootstrap_intervals(scores, truth, level=0.99)[name]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert wide[0] < TWINS[name].library(truth, scores) < wide[1]


def test_the_bootstrap_follows_its_seed_and_not_the_size_of_its_blocks(monkeypatch):
    case = binormal(50, 40)
    intervals = bootstrap_intervals(*case, resamples=100)
    assert bootstrap_intervals(*case, resamples=100, seed=1) != intervals
    for block in (1, 2000):
        monkeypatch.setattr(intervals_module, "BLOCK", block)
        assert bootstrap_intervals(*case, resamples=100) == intervals


@given(cases)
@settings(deadline=None, max_examples=30)
def test_intervals_do_not_change_with_scale_or_shift_of_the_scores(case):
    scores, truth = case
    for interval in (delong_variance, delong_interval, lambda *one: bootstrap_intervals(*one, resamples=20)):
        if interval is delong_variance and fewest_of_a_kind(truth) < 2:
            continue
        assert interval(100 * scores, truth) == interval(scores, truth) == interval(scores + 1000, truth)


# Exact interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 10), (1, 1), (50, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_exact_interval_is_that_of_beta_quantiles(successes, trials, level):
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0
    high = stats.beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1
    assert exact_interval(successes, trials, level) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (4, 3), (-1, 3)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match=r"must (not )?be"):
        exact_interval(successes, trials)


# Conformal


@pytest.mark.parametrize("n", [1, 9, 19, 24, 99, 100, 199, 499, 999, 1000])
def test_the_rank_of_the_threshold_is_exact_for_every_thousandth(n):
    calibration = np.arange(1, n + 1)[::-1]
    for j in range(1, 1000):
        rank = -((n + 1) * (j - 1000) // 1000)
        if rank <= n:
            assert conformal_threshold(calibration, j / 1000) == rank
        else:
            assert calibration_groups_needed(j / 1000) > n


@pytest.mark.parametrize(("n", "alpha", "rank"), [(99, 0.01, 99), (19, 0.05, 19), (9, 0.1, 9), (39, 0.05, 38)])
def test_the_threshold_of_round_numbers_is_not_put_out_by_rounding(n, alpha, rank):
    assert conformal_threshold(np.arange(1, n + 1), alpha) == rank


@given(calibrations, st.integers(1, 999))
@settings(deadline=None, max_examples=100)
def test_the_threshold_equals_brute_force(calibration, j):
    assume(len(calibration) >= calibration_groups_needed(j / 1000))
    expected = slow.conformal_threshold(calibration, Fraction(j, 1000))
    assert conformal_threshold(calibration, j / 1000) == expected


def test_the_images_needed_are_the_fewest_that_do():
    for j in range(1, 1000):
        needed = calibration_groups_needed(j / 1000)
        assert (needed + 1) * Fraction(j, 1000) >= 1
        assert needed * Fraction(j, 1000) < 1
        assert conformal_threshold(np.arange(needed), j / 1000) == needed - 1


@pytest.mark.parametrize(("rate", "needed"), [(1 / 3, 2), (2 / 3, 1), (1 / 7, 6), (1e-7, 10**7 - 1), (3e-9, 333333333)])
def test_a_rate_is_the_fraction_it_was_meant_as(rate, needed):
    assert calibration_groups_needed(rate) == needed


def test_too_few_calibration_images_are_refused_with_the_number_needed():
    with pytest.raises(InputError) as refusal:
        conformal_threshold(np.arange(98), 0.01)
    assert str(refusal.value) == (
        "a false-alarm rate of 0.01 needs at least 99 calibration images, got 98; "
        "raise dataset.sizes.calibration or evaluation.false_alarm_rates"
    )
    with pytest.raises(InputError, match="at least 1 calibration images, got 0"):
        conformal_threshold(np.array([]), 0.5)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_false_alarm_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(InputError, match=r"evaluation\.false_alarm_rates"):
        conformal_threshold(np.arange(1000), rate)
    with pytest.raises(InputError, match=r"evaluation\.false_alarm_rates"):
        calibration_groups_needed(rate)


@given(calibrations, calibrations)
@settings(deadline=None, max_examples=100)
def test_p_values_equal_brute_force(calibration, scores):
    expected = [float(slow.conformal_p_value(calibration, score)) for score in scores]
    np.testing.assert_array_equal(conformal_p_values(calibration, scores), expected)


@given(calibrations, calibrations, rates)
@settings(deadline=None, max_examples=100)
def test_a_p_value_is_at_most_alpha_exactly_when_the_score_is_above_the_threshold(calibration, scores, alpha):
    assume(len(calibration) >= calibration_groups_needed(alpha))
    alarms = scores > conformal_threshold(calibration, alpha)
    np.testing.assert_array_equal(conformal_p_values(calibration, scores) <= alpha, alarms)


@given(calibrations, rates)
@settings(deadline=None, max_examples=100)
def test_too_few_calibration_images_mean_no_p_value_as_small_as_alpha(calibration, alpha):
    smallest = conformal_p_values(calibration, np.array([1e9])).item()
    assert (smallest <= alpha) == (len(calibration) >= calibration_groups_needed(alpha))


def test_p_values_without_calibration_images_are_refused():
    with pytest.raises(InputError, match="at least 1 calibration image"):
        conformal_p_values(np.array([]), np.array([1.0]))


@pytest.mark.parametrize("bad", [[1.0, np.nan], [1.0, np.inf], [[1.0, 2.0]]])
def test_scores_that_are_no_finite_vector_are_refused(bad):
    with pytest.raises(ValueError, match="calibration_scores must be a vector of finite numbers"):
        conformal_threshold(np.array(bad), 0.5)
    with pytest.raises(ValueError, match="calibration_scores must be a vector of finite numbers"):
        conformal_p_values(np.array(bad), np.array([1.0]))
    with pytest.raises(ValueError, match="scores must be a vector of finite numbers"):
        conformal_p_values(np.array([1.0]), np.array(bad))


# Bad input


@pytest.mark.parametrize("figure", [delong_variance, delong_interval, bootstrap_intervals])
@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([1.0, np.nan], [True, False], "not finite"),
        ([1.0, 2.0], [True, True], "both normal and anomalous"),
        ([1.0, 2.0], [False, False], "both normal and anomalous"),
        ([1.0, 2.0, 3.0], [True, False], "one length"),
    ],
)
def test_scores_that_cannot_be_measured_are_refused(figure, scores, truth, message):
    with pytest.raises(ValueError, match=message):
        figure(np.array(scores), np.array(truth))


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level):
    case = np.arange(4), np.arange(4) >= 2
    with pytest.raises(ValueError, match="level"):
        delong_interval(*case, level)
    with pytest.raises(ValueError, match="level"):
        bootstrap_intervals(*case, level=level)
    with pytest.raises(ValueError, match="level"):
        exact_interval(1, 2, level)


def test_no_resamples_are_refused():
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_intervals(np.arange(4), np.arange(4) >= 2, resamples=0)
