"""Groups of images, read from names."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrad.data.groups import Pattern, group_numbers
from metrad.errors import InputError


def no_size(position):
    raise AssertionError("no size is needed")


def numbers(wanted, names, *, columns=None, size_of=no_size):
    return group_numbers(wanted, names, columns=columns or {}, size_of=size_of).tolist()


def test_without_a_setting_each_image_is_alone():
    assert numbers(None, ["a/1.png", "a/2.png"]) == [0, 1]


def test_the_folder_of_an_image_is_its_group_and_the_class_counts():
    names = ["good/lot1/a.png", "good/lot2/b.png", "good/lot1/c.png", "crack/lot1/d.png", "e.png", "f.png"]
    assert numbers("parent", names) == [0, 1, 0, 2, 3, 3]


def test_a_column_of_the_manifest_groups_and_an_empty_cell_is_alone():
    columns = {"part": ["x", "", "x", "", "y"]}
    assert numbers("part", list("abcde"), columns=columns) == [0, 1, 0, 2, 3]


def test_a_column_called_parent_comes_before_the_folder():
    assert numbers("parent", ["a/1", "a/2"], columns={"parent": ["x", "y"]}) == [0, 1]


def test_equal_texts_of_all_named_groups_are_one_group_across_classes():
    names = ["good/b1_p7_top.png", "good/b1_p7_side.png", "good/b2_p7_top.png", "crack/b1_p7_back.png"]
    assert numbers(r"(?P<batch>b\d)_(?P<part>p\d)", names) == [0, 0, 1, 0]


def test_images_that_do_not_match_are_alone_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        assert numbers(r"(?P<part>\d+)_", ["a/1_x.png", "a/x.png", "a/1_y.png", "a/y.png"]) == [0, 1, 0, 2]
    assert "all but 2 of 4 images, such as a/x.png" in caplog.text


def test_running_numbers_are_one_group_up_to_the_gap():
    names = [f"a/img_{n}.png" for n in (10, 11, 12, 15, 16, 30)]
    assert numbers(r"_(?P<number>\d+)", names) == [0, 0, 0, 1, 1, 2]
    assert numbers(Pattern(r"_(?P<number>\d+)", gap=3), names) == [0, 0, 0, 0, 0, 1]


def test_running_numbers_count_within_the_other_named_groups():
    names = ["cam1_5", "cam2_6", "cam1_6", "cam2_7"]
    assert numbers(r"(?P<camera>cam\d)_(?P<number>\d+)", names) == [0, 1, 0, 1]


def test_a_view_that_does_not_rise_begins_a_new_part():
    names = ["exp1_num_10", "exp2_num_11", "exp1_num_12", "exp2_num_13"]
    assert numbers(r"exp(?P<view>\d)_num_(?P<number>\d+)", names) == [0, 0, 1, 1]


def test_parts_whose_numbers_interleave_are_told_apart_by_view_and_size():
    """Magnetic tile: two tiles were photographed in turns."""
    names = ["exp0_num_743", "exp0_num_797", "exp1_num_824", "exp1_num_840", "exp2_num_870"]
    sizes = [(240, 289), (488, 354), (484, 358), (251, 295), (252, 296)]
    pattern = Pattern(r"exp(?P<view>\d)_num_(?P<number>\d+)", gap=100, size=0.1)
    assert numbers(pattern, names, size_of=lambda i: sizes[i]) == [0, 1, 1, 0, 0]


@given(st.permutations(range(12)))
@settings(deadline=None, max_examples=30)
def test_groups_do_not_depend_on_the_order_of_the_images(order):
    names = [f"exp{view}_num_{part * 50 + view * 5}" for part in range(4) for view in range(3)]
    found = numbers(Pattern(r"exp(?P<view>\d)_num_(?P<number>\d+)", gap=10), [names[i] for i in order])
    for place, one in zip(order, found, strict=True):
        assert [order[i] // 3 for i, other in enumerate(found) if other == one] == [place // 3] * 3


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (r"\d+", r"dataset.group=\d+ has no named group; write auto, parent, or a pattern"),
        ("part", "dataset.group=part has no named group"),
        ("(", "dataset.group=( is no regular expression"),
        (r"(?P<part>zz)", "dataset.group=(?P<part>zz) matches none of 2 images, such as a/1.png"),
        (r"(?P<number>\w)/", "must match whole numbers, got 'a'"),
    ],
)
def test_a_setting_that_groups_nothing_is_refused(wanted, message):
    with pytest.raises(InputError) as refusal:
        numbers(wanted, ["a/1.png", "a/2.png"])
    assert message in str(refusal.value)


def test_a_name_that_is_no_column_is_answered_with_the_columns_there():
    with pytest.raises(InputError) as refusal:
        numbers("serail", ["a.png"], columns={"serial": ["1"], "day": ["2"]})
    assert "dataset.group=serail is no column of these images, which have serial, day; write one" in str(refusal.value)


@pytest.mark.parametrize(("settings", "key"), [({"gap": 0}, "gap"), ({"size": 1}, "size"), ({"size": -0.1}, "size")])
def test_settings_of_a_pattern_have_ranges(settings, key):
    with pytest.raises(InputError, match=rf"dataset\.group\.{key} must"):
        Pattern(r"(?P<number>\d+)", **settings)
