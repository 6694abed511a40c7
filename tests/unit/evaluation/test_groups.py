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
