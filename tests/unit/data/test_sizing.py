"""Automatic sizes: what is kept for testing and calibration, by the number of groups of normal images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrad.data.sizing import FEWEST, Automatic
from metrad.data.splits import Classes, Pool, draw
from metrad.errors import InputError
from metrad.evaluation.measures import Settings

STEPS = (19, 59, 99, 299)
quick = settings(deadline=None, database=None, max_examples=60, derandomize=True)
SIZES = {
    "reference": None,
    "normal": None,
    "calibration": Automatic(STEPS),
    "test_normal": None,
    "test_anomalous": None,
}


def pool_of(group_sizes: list[int], seed: int = 0) -> Pool:
    """Return good images in groups of these sizes, in a mixed order."""
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(group_sizes)), group_sizes))
    count = len(groups)
    return Pool(np.zeros(count, np.int64), np.arange(count), np.ones(count, bool), None, groups)


def drawn(pool: Pool, seed: int = 0, automatic: Automatic = SIZES["calibration"]) -> dict[str, int]:
    """Return the number of groups of each role, after a check that no group has two roles."""
    split = draw(pool, Classes((), (0,), ()), {**SIZES, "calibration": automatic}, test_share=automatic, seed=seed)
    found = {role: set(pool.group_numbers[indices].tolist()) for role, indices in split.indices.items()}
    assert sum(map(len, found.values())) == len(set.union(*found.values()))
    return {role: len(groups) for role, groups in found.items()}


@pytest.mark.parametrize(
    ("groups", "calibration", "test", "training"),
    [
        (10, 5, 2, 3),  # no threshold for 5 %, but one for 17 %
        (30, 16, 6, 8),
        (36, 19, 7, 10),  # the fewest for 5 % on average
        (110, 22, 22, 66),
        (111, 59, 22, 30),  # the fewest for 5 % with confidence 0.95
        (186, 99, 37, 50),  # the fewest for 1 % on average
        (561, 299, 112, 150),  # the fewest for 1 % with confidence 0.95
        (5000, 1000, 1000, 3000),
    ],
)
def test_the_best_threshold_that_leaves_enough_to_train_decides(groups, calibration, test, training):
    found = drawn(pool_of([1] * groups))
    assert (found["calibration"], found["test_normal"], found["normal"]) == (calibration, test, training)


@quick
@given(st.lists(st.integers(1, 9), min_size=FEWEST, max_size=150), st.integers(0, 5))
def test_every_group_has_one_role_and_counts_are_of_groups(group_sizes, seed):
    found = drawn(pool_of(group_sizes, seed), seed)
    count, automatic = len(group_sizes), SIZES["calibration"]
    tested = automatic.to_test_on(count)
    kept = automatic.to_calibrate_on(count - tested)
    assert found == {
        "reference": 0,
        "normal": count - tested - kept,
        "calibration": kept,
        "test_normal": tested,
        "test_anomalous": 0,
    }


@quick
@given(st.integers(FEWEST, 3000), st.integers(FEWEST, 3000))
def test_more_groups_never_make_a_role_smaller_than_the_promise_needs(fewer, more):
    low, high = sorted((fewer, more))
    automatic = Automatic(STEPS)
    calibrated = []
    for count in (low, high):
        left = count - automatic.to_test_on(count)
        calibrated.append(automatic.to_calibrate_on(left))
        assert left - calibrated[-1] >= calibrated[-1] // 2 >= 1
    reached = [max((step for step in STEPS if step <= count), default=0) for count in calibrated]
    assert reached[0] <= reached[1]


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_groups_are_refused_with_the_number(count):
    with pytest.raises(InputError, match=rf"{count} different normal images are too few .* at least {FEWEST}"):
        drawn(pool_of([3] * count))


def test_an_automatic_size_of_a_source_with_a_test_part_is_of_its_training_part():
    pool = pool_of([1] * 60)
    pool = Pool(pool.labels, pool.content, pool.usable, np.arange(60) >= 30, pool.groups)
    found = drawn(pool)
    assert (found["test_normal"], found["calibration"], found["normal"]) == (30, 19, 11)


def test_an_automatic_size_is_shared_by_the_classes_in_proportion():
    pool = pool_of([1] * 60)
    pool = Pool((np.arange(60) >= 40).astype(np.int64), pool.content, pool.usable, None)
    split = draw(pool, Classes((), (0, 1), ()), SIZES, test_share=Automatic(STEPS), seed=0)
    assert np.bincount(pool.labels[split.indices["calibration"]]).tolist() == [13, 6]
    assert np.bincount(pool.labels[split.indices["test_normal"]]).tolist() == [8, 4]


@pytest.mark.parametrize(
    ("chosen", "steps"),
    [
        ({}, (19, 59, 99, 299)),
        ({"confidence": None}, (19, 99)),
        ({"confidence": 0.99}, (19, 90, 99, 459)),
        ({"false_alarm_rates": [0.1]}, (9, 29)),
    ],
)
def test_the_steps_are_what_the_thresholds_of_a_run_take(chosen, steps):
    assert Settings(**chosen).calibration_steps == steps
