"""Rules of numbers: which of their ends are allowed, and what they say."""

import math

import pytest

from metrad.runs.config.fields import each, within
from metrad.runs.config.schema import RANGES

ABOVE, BELOW = math.nextafter(1, 2), math.nextafter(1, 0)


@pytest.mark.parametrize(
    ("rule", "must", "inside", "outside"),
    [
        (within(0, 1), "be between 0 and 1", [0, 0.5, 1, 1.0], [-5e-324, ABOVE, None]),
        (within(0, 1, excluding=("low",)), "be above 0 and at most 1", [5e-324, 1], [0, 0.0, -1, ABOVE]),
        (within(0, 1, excluding=("high",)), "be at least 0 and below 1", [0, BELOW], [-5e-324, 1, 1.0, 2]),
        (within(0, 1, excluding=("low", "high")), "be above 0 and below 1", [5e-324, BELOW], [0, 1]),
        (within(2, 9, whole=True), "be a whole number between 2 and 9", [2, 9], [1, 10, 2.0, 2.5]),
        (within(1, whole=True), "be a whole number of at least 1", [1, 10**30], [0, 1.0, math.inf]),
        (within(1, null=True), "be at least 1, or null", [None, 1], [BELOW, math.nan]),
        (within(high=0), "be at most 0", [0, -1e300], [5e-324, -math.inf, math.nan]),
        (
            each(within(0, 1)),
            "be a list of numbers, 500 or fewer, each between 0 and 1",
            [[], [0, 1], [0] * 500],
            [[0, ABOVE], [-1, 0], [0] * 501],
        ),
        (each(within(0, 1), 2), "be a list of 2 numbers, each between 0 and 1", [[0, 1]], [[], [0], [0, 1, 0], 0]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_range_takes_the_ends_that_it_names_and_nothing_beyond(rule, must, inside, outside):
    assert rule.must == must
    assert [value for value in inside if not rule.holds(value)] == []
    assert [value for value in outside if rule.holds(value)] == []


@pytest.mark.parametrize("rule", [within(0, 1), within(1, whole=True)])
@pytest.mark.parametrize("value", [True, "0.5", [3]])
def test_values_of_other_types_are_refused_as_some_classes_name_no_types(rule, value):
    assert not rule.holds(value)


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("optimizer.lr", 1e-12, 0),
        ("optimizer.momentum", 0, 1),
        ("scorer.k", 1, 0),
        ("scorer.M", 2, 1),
        ("scorer.seed", 2**32 - 1, 2**32),
        ("scorer.min_recall", 1, 0),
        ("head.sub_centers", 1, 0),
        ("trainer.max_epochs", 0, -1),
        ("trainer.max_epochs", 100_000, 100_001),
        ("trainer.max_steps", -1, 0),
        ("augmentation.crop_padding", 0.5, 0.6),
    ],
)
def test_ranges_of_common_settings(key, inside, outside):
    assert RANGES[key].holds(inside)
    assert not RANGES[key].holds(outside)
