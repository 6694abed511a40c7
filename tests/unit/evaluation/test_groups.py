"""Thresholds and p-values where several images show one part."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metrad.errors import InputError
from metrad.evaluation.conformal import (
    calibration_groups_needed,
    confident_threshold,
    conformal_p_values,
    conformal_threshold,
    largest_by_group,
)
from metrad.evaluation.intervals import (
    bootstrap_intervals,
    delong_interval,
    delong_variance,
    exact_interval,
    grouped_interval,
)
from metrad.evaluation.metrics import summary
from tests.reference.evaluation import statistics as slow

few = st.integers(0, 6).map(float)  # so few values that ties are common


@st.composite
def calibrations(draw):
    groups = draw(st.lists(st.integers(0, 30), min_size=1, max_size=60))
    return np.array(draw(st.lists(few, min_size=len(groups), max_size=len(groups)))), np.array(groups)


@given(calibrations(), st.lists(few, min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_p_values_equal_exact_fractions(calibration, scores):
    expected = [float(slow.grouped_p_value(*calibration, score)) for score in scores]
    np.testing.assert_array_equal(conformal_p_values(calibration[0], np.array(scores), calibration[1]), expected)


@given(calibrations(), st.lists(few, min_size=1, max_size=5), st.integers(1, 999))
@settings(deadline=None, max_examples=200)
def test_a_p_value_is_at_most_alpha_exactly_when_the_score_is_above_the_threshold(calibration, scores, j):
    scored, groups = calibration
    assume(len(np.unique(groups)) >= calibration_groups_needed(j / 1000))
    above = np.array(scores) > conformal_threshold(scored, j / 1000, groups)
    small = [slow.grouped_p_value(scored, groups, score) <= Fraction(j, 1000) for score in scores]
    assert above.tolist() == small


@given(calibrations())
@settings(deadline=None, max_examples=50)
def test_one_image_a_group_is_the_same_as_no_groups(calibration):
    scores, alone = calibration[0], np.arange(len(calibration[0]))[::-1]
    np.testing.assert_array_equal(conformal_p_values(scores, scores, alone), conformal_p_values(scores, scores))


def test_group_sizes_with_a_huge_common_multiple_are_exact():
    """The least common multiple of 1 to 60 has 26 digits."""
    groups = np.repeat(np.arange(60), np.arange(1, 61))
    scores = np.random.default_rng(0).integers(0, 50, len(groups)).astype(float)
    expected = [float(slow.grouped_p_value(scores, groups, score)) for score in range(50)]
    np.testing.assert_array_equal(conformal_p_values(scores, np.arange(50.0), groups), expected)


def test_copies_of_an_image_change_nothing_if_they_are_one_group():
    scores, times = np.arange(20.0), np.arange(20) % 4 + 1
    copied, groups = np.repeat(scores, times), np.repeat(np.arange(20), times)
    assert conformal_threshold(copied, 0.05, groups) == conformal_threshold(scores, 0.05)
    assert confident_threshold(copied, 0.2, 0.9, groups) == confident_threshold(scores, 0.2, 0.9)


def test_too_few_groups_are_refused_however_many_images_they_have():
    with pytest.raises(InputError, match=r"at least 19 calibration groups, got 18"):
        conformal_threshold(np.arange(180.0), 0.05, np.arange(180) % 18)
    with pytest.raises(InputError, match=r"at least 59 calibration groups, got 58"):
        confident_threshold(np.arange(580.0), 0.05, 0.95, np.arange(580) % 58)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"groups must have one entry a score, \(3,\)"):
        conformal_p_values(np.arange(3.0), np.arange(3.0), np.arange(2))


def test_the_largest_score_of_each_group():
    assert largest_by_group(np.array([1.0, 5.0, 2.0, -3.0]), np.array([7, 7, 9, 8])).tolist() == [5.0, -3.0, 2.0]
    assert largest_by_group(np.array([]), np.array([])).tolist() == []


@pytest.mark.parametrize(("rate", "confidence", "needed"), [(0.05, 0.95, 59), (0.01, 0.95, 299), (0.01, 0.99, 459)])
def test_the_groups_that_a_confident_threshold_takes(rate, confidence, needed):
    assert calibration_groups_needed(rate, confidence) == needed
    assert confident_threshold(np.arange(needed), rate, confidence) == needed - 1
    assert (1 - Fraction(str(rate))) ** needed <= 1 - Fraction(str(confidence))
    assert (1 - Fraction(str(rate))) ** (needed - 1) > 1 - Fraction(str(confidence))


@given(st.integers(1, 300), st.sampled_from(["0.05", "0.1", "0.3"]), st.sampled_from(["0.5", "0.9", "0.95"]))
@settings(deadline=None, max_examples=60)
def test_confident_thresholds_equal_the_binomial_in_fractions(count, rate, confidence):
    assume(count >= calibration_groups_needed(float(rate), float(confidence)))
    expected = slow.confident_threshold(np.arange(count), Fraction(rate), Fraction(confidence))
    assert confident_threshold(np.arange(count), float(rate), float(confidence)) == expected


@pytest.mark.parametrize("confidence", [0, 1, -1, float("nan")])
def test_a_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(InputError, match="confidence must lie between 0 and 1"):
        confident_threshold(np.arange(100.0), 0.05, confidence)


# Simulation: parts differ, photographs of a part less so, and parts have between 1 and 9 photographs.

DRAWS = 1500
PARTS, PART_SPREAD = 60, 2.0


def parts(generator, count):
    """Scores and group numbers of ``count`` parts; parts with many photographs score higher."""
    sizes = generator.integers(1, 10, count)
    levels = generator.normal(size=count) * PART_SPREAD + sizes / 5
    groups = np.repeat(np.arange(count), sizes)
    return levels[groups] + generator.normal(size=len(groups)), groups


def one_image_a_part(scores, groups, generator):
    order = generator.permutation(len(groups))
    return scores[order][np.unique(groups[order], return_index=True)[1]]


@pytest.fixture(scope="module")
def simulated():
    """For each draw: the calibration, one image of each of many new parts, and the new parts' largest scores."""
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        calibration, new = parts(generator, PARTS), parts(generator, 300)
        draws.append((calibration, one_image_a_part(*new, generator), largest_by_group(*new)))
    return draws


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_rate_holds_on_an_image_of_the_next_part(simulated, alpha):
    rates = np.array([(images > conformal_threshold(*cal[:1], alpha, cal[1])).mean() for cal, images, _ in simulated])
    assert rates.mean() <= alpha + 3 * rates.std() / DRAWS**0.5
    assert rates.mean() >= alpha - 1 / (PARTS + 1) - 3 * rates.std() / DRAWS**0.5


def test_counting_photographs_as_if_independent_would_miss_the_confidence(simulated):
    """The check that the simulation is hard enough to notice."""
    missed = [(worst > confident_threshold(cal[0], 0.05, 0.95)).mean() > 0.05 for cal, _, worst in simulated]
    assert np.mean(missed) > 0.1


def test_the_confident_threshold_holds_for_most_calibration_sets(simulated):
    thresholds = [confident_threshold(cal[0], 0.05, 0.95, cal[1]) for cal, _, _ in simulated]
    images = [(one > t).mean() for t, (_, one, _) in zip(thresholds, simulated, strict=True)]
    # the true rate of a threshold is not known here; over 300 new parts it is measured with an error of its own
    generator = np.random.default_rng(1)
    many = largest_by_group(*parts(generator, 200_000))
    true = np.array([(many > t).mean() for t in thresholds])
    assert (true > 0.05).mean() <= 0.05 + 3 * (0.05 * 0.95 / DRAWS) ** 0.5
    assert np.mean(images) < 0.05


# Intervals


def sets_of_parts(generator, count, auroc_shift):
    normal, anomalous = parts(generator, count), parts(generator, count)
    scores = np.concatenate([normal[0], anomalous[0] + auroc_shift])
    truth = np.arange(len(scores)) >= len(normal[0])
    return scores, truth, np.concatenate([normal[1], anomalous[1] + count])


def true_auroc(auroc_shift):
    scores, truth, _ = sets_of_parts(np.random.default_rng(5), 30_000, auroc_shift)
    return summary(scores, truth)["auroc"]


def test_single_images_as_groups_give_the_intervals_of_images():
    scores, truth, _ = sets_of_parts(np.random.default_rng(0), 10, 2)
    alone = np.arange(len(scores)) * 3
    assert delong_interval(scores, truth, groups=alone) == delong_interval(scores, truth)
    assert bootstrap_intervals(scores, truth, resamples=50, groups=alone) == bootstrap_intervals(
        scores, truth, resamples=50
    )


def test_the_variance_with_groups_equals_the_formula_written_out():
    """Obuchowski 1997, one sum a group, over groups that have images of both kinds too."""
    generator = np.random.default_rng(3)
    scores, truth = generator.integers(0, 9, 40).astype(float), generator.random(40) < 0.4
    groups = generator.integers(0, 9, 40)
    positives, negatives = np.flatnonzero(truth), np.flatnonzero(~truth)
    psi = np.sign(scores[positives][:, None] - scores[negatives]) / 2 + 0.5
    area, both = psi.mean(), np.unique(groups)
    ten = [sum(psi[i].mean() - area for i in range(len(positives)) if groups[positives[i]] == g) for g in both]
    one = [sum(psi[:, j].mean() - area for j in range(len(negatives)) if groups[negatives[j]] == g) for g in both]
    size10, size01 = len(set(groups[positives])), len(set(groups[negatives]))
    expected = (
        size10 / (size10 - 1) * sum(v**2 for v in ten) / len(positives) ** 2
        + size01 / (size01 - 1) * sum(v**2 for v in one) / len(negatives) ** 2
        + 2 * len(both) / (len(both) - 1) * sum(a * b for a, b in zip(ten, one, strict=True))
        / (len(positives) * len(negatives))
    )  # fmt: skip
    assert delong_variance(scores, truth, groups) == pytest.approx((area, expected), abs=1e-12)


@pytest.mark.parametrize("make", ["delong", pytest.param("bootstrap", marks=pytest.mark.long)])
def test_intervals_by_group_hold_the_true_auroc_and_those_by_image_do_not(make):
    generator, truth = np.random.default_rng(0), true_auroc(3.0)
    by_group, by_image = [], []
    for _ in range(400):
        scores, anomalous, groups = sets_of_parts(generator, 50, 3.0)
        for found, numbers in ((by_group, groups), (by_image, None)):
            if make == "delong":
                low, high = delong_interval(scores, anomalous, groups=numbers)
            else:
                low, high = bootstrap_intervals(scores, anomalous, resamples=300, groups=numbers)["auroc"]
            found.append(low <= truth <= high)
    assert np.mean(by_group) >= 0.91
    assert np.mean(by_image) <= 0.75


def test_the_interval_of_a_rate_counts_groups():
    groups = np.repeat(np.arange(20), 5)
    hits = groups < 2
    assert grouped_interval(hits, groups) == pytest.approx(exact_interval(2, 20))
    assert grouped_interval(hits & False, groups)[0] == 0
    assert grouped_interval(hits | True, groups)[1] == 1
    assert grouped_interval(hits, np.arange(100)) == pytest.approx(exact_interval(10, 100))
    with pytest.raises(ValueError, match="vectors of one length"):
        grouped_interval(hits, groups[:3])
