"""Every number that a shipped choice sets has a range, and no range takes NaN, infinity or a wrong kind of number."""

import math

import pytest
from omegaconf import OmegaConf

from metrad.app.cli import manual
from metrad.runs.config import catalogue
from metrad.runs.config.schema import PARTS, RANGES, SETTINGS

MARKS = {"head", "backbone", "scorer", "augmentation", "optimizer", "scheduler", "trainer", "logger"}
# Numbers whose range depends on the machine or that are names as well.
OTHERS = {"trainer.devices"}


def numbers(node):
    """Yield the name and value of each setting of a choice that is a number or a list of numbers."""
    for name, value in node.items():
        items = value if isinstance(value, list) else [value]
        if items and all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
            yield name, value


CHOICES = [(group, name) for group, names in catalogue.choices().items() for name in names if group in MARKS]
KEYS = sorted(key for key, rule in RANGES.items() if "be false" not in rule.must and "a time" not in rule.must)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_number_of_a_shipped_choice_lies_in_a_range_of_its_own(group, name):
    node = OmegaConf.to_container(OmegaConf.load(catalogue.folder() / group / f"{name}.yaml"), resolve=False)
    for key, value in numbers(node):
        if f"{group}.{key}" not in OTHERS:
            assert RANGES[f"{group}.{key}"].holds(value), key


@pytest.mark.parametrize("key", KEYS)
def test_no_range_takes_what_is_no_number_of_that_kind(key):
    rule = RANGES[key]
    listed = "list" in rule.must
    for value in (math.nan, math.inf, -math.inf):
        assert not rule.holds([value] if listed else value)
    for value in (True, "two", {"a": 1}, [[1]]):
        assert not rule.holds(value), value
    if "whole" in rule.must:
        assert not rule.holds([1.5] if listed else 1.5)
    if "above 0" in rule.must:
        assert not rule.holds([0] if listed else 0)
    if "at least 1" in rule.must or "between 1 " in rule.must:
        assert not rule.holds([0] if listed else 0)
    if key not in (
        "optimizer.beta2_decay",
        "trainer.max_steps",
        "trainer.num_sanity_val_steps",
        "scheduler.last_epoch",
    ):
        assert not rule.holds([-1] if listed else -1)


def test_ranges_belong_to_parts_and_are_in_the_manual():
    text = " ".join(manual().partition("Ranges of the settings of choices:")[2].split())
    for part, mark in PARTS.items():
        for name, rule in mark.ranges.items():
            assert f"{name}: {rule.must.removeprefix('be ')}" in text
        assert not mark.ranges or f"{part}. " in text


def test_every_number_of_the_schema_has_a_range():
    kinds = (int, float)
    single = {key: setting for key, setting in SETTINGS.items() if isinstance(setting.default, kinds)}
    assert [key for key, setting in single.items() if not isinstance(setting.default, bool) and not setting.must] == []
