"""Class names as users write them."""

import unicodedata

import pytest

from metrad.data.roles import class_numbers
from metrad.errors import InputError

PADDED = ["008", "010", "012"]


def test_a_name_is_the_same_in_composed_and_decomposed_letters():
    for form in ("NFC", "NFD"):
        names = [unicodedata.normalize(form, name) for name in ("größe", "café")]
        for typed in ("NFC", "NFD"):
            assert class_numbers("dataset.normal", [unicodedata.normalize(typed, "café")], names) == (1,)
    twice = [unicodedata.normalize(form, "größe") for form in ("NFC", "NFD")]
    with pytest.raises(InputError, match="2 folders are called größe"):
        class_numbers("dataset.normal", ["größe"], twice)


def test_a_number_that_only_a_padded_name_matches_is_refused_with_the_quoted_form():
    with pytest.raises(InputError) as error:
        class_numbers("dataset.normal", [8], PADDED)  # YAML reads 010 so
    assert """the number 8 is no class, but '008' is""" in str(error.value)
    assert """'dataset.normal=["008"]'""" in str(error.value)
    with pytest.raises(InputError, match="no class 9; there are 008, 010, 012"):
        class_numbers("dataset.normal", [9], PADDED)
    assert class_numbers("dataset.normal", ["010", "008"], PADDED) == (1, 0)


def test_a_number_is_a_name_where_names_are_numbers_and_else_a_position():
    assert class_numbers("dataset.normal", [7, "3"], ["3", "7"]) == (1, 0)
    assert class_numbers("dataset.normal", [0, "b"], ["a", "b"]) == (0, 1)
    for number in (2, -1):
        with pytest.raises(InputError, match=f"no class {number}; there are a, b"):
            class_numbers("dataset.normal", [number], ["a", "b"])


@pytest.mark.parametrize("names", [["train", "val"], ["Test", "training"], ["validation"]])
def test_parts_taken_for_classes_are_told_from_classes(names):
    with pytest.raises(InputError, match="parts of a dataset and not classes: metrad knows the parts train and test"):
        class_numbers("dataset.normal", ["good"], names)
    with pytest.raises(InputError) as error:
        class_numbers("dataset.normal", ["good"], [*names, "bad"])
    assert "parts of a dataset" not in str(error.value)


def test_a_star_stands_for_any_text_unless_a_class_is_called_so():
    names = ["mnist/0", "mnist/1", "fmnist/0", "a*"]
    assert class_numbers("dataset.normal", ["mnist/*"], names) == (0, 1)
    assert class_numbers("dataset.normal", ["*/0", "mnist/1"], names) == (0, 2, 1)
    assert class_numbers("dataset.normal", "a*", names) == (3,)
    assert class_numbers("dataset.normal", "*", ["a\nb", "[x]"]) == (0, 1)
    with pytest.raises(InputError, match=r"dataset\.normal: no class matches 'cifar/\*'; there are mnist/0"):
        class_numbers("dataset.normal", ["cifar/*"], names)
    with pytest.raises(InputError, match=r"lists mnist/0 twice"):
        class_numbers("dataset.normal", ["*/0", "mnist/*"], names)


@pytest.mark.parametrize(
    ("wanted", "names", "meant"),
    [
        ("good", ["OK", "crack"], "OK"),
        ("good", ["crack", "Good"], "Good"),
        ("normal", ["anomaly", "ok"], "ok"),
        ("scrach", ["scratch", "dent"], "scratch"),
        ("good", ["it's OK", "crack"], None),
        ("good", ["a", "b"], None),
    ],
)
def test_a_class_that_is_not_there_is_answered_with_the_one_that_is_meant(wanted, names, meant):
    with pytest.raises(InputError) as error:
        class_numbers("dataset.normal", [wanted], names)
    asked = f"; did you mean 'dataset.normal=[{meant}]'?" if meant else ""
    assert str(error.value) == f"dataset.normal: no class {wanted!r}; there are {', '.join(names)}{asked}"
