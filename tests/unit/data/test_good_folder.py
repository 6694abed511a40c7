"""Which images of a folder are the good ones."""

from pathlib import Path

import pytest

from metrad.data.good_folder import find_good, is_good
from metrad.errors import InputError


def put(root: Path, *names: str) -> Path:
    """Write files that are listed and not decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not decoded here")
    return root


@pytest.mark.parametrize(
    ("names", "taken", "unused"),
    [
        (["a.png", "b.jpg", "notes.txt"], ".", {}),
        (["Imgs/a.png", "Imgs/b.png"], ".", {}),
        (["good/a.png", "crack/b.png", "crack/c.png"], "good", {"crack": 2}),
        (["OK/deep/a.png", "NOK/b.png"], "OK", {"NOK": 1}),
        (["i.O/a.png", "n.i.O/b.png", "c.png"], "i.O", {"n.i.O": 1, ".": 1}),
        (
            ["train/good/a.png", "test/good/b.png", "test/hole/c.png", "ground_truth/hole/c_mask.png"],
            "train/good",
            {"test/good": 1, "test/hole": 1},
        ),
        (["good/a.png", "crack/b.png", "crack/b_mask.png", "GT/b_MASK.png"], "good", {"crack": 1}),
        (["good/train.png", "good/day/b.png"], "good", {}),
    ],
)
def test_the_good_images_are_found_and_the_others_counted(tmp_path, names, taken, unused):
    found = find_good(put(tmp_path / "parts", *names))
    assert found.path == tmp_path / "parts" / taken
    assert found.unused == unused


@pytest.mark.parametrize("name", ["good", "OK", "Defect-free"])
def test_everything_in_a_folder_that_is_called_good_is_good(tmp_path, name):
    found = find_good(put(tmp_path / name, "monday/a.png", "tuesday/b.png", "c.png"))
    assert (found.path, found.unused) == (tmp_path / name, {})


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a/1.png", "b/2.png", "b/3.png"], ["none of them is called good", "b (2), a (1)", "metrad fit {}/b"]),
        (["1.png", "a/2.png"], ["itself (1)", "a (1)", "metrad fit {}/a"]),
        (["good/1.png", "ok/2.png", "x/3.png"], ["2 of them are called good", "metrad fit {}/good"]),
        (["train/1.png", "test/2.png"], ["train (1)", "metrad fit {} --group parent"]),
        (
            [*(f"{name}/train/good/1.png" for name in "ab"), "a/test/x/1.png", "a/ground_truth/x/1.png"],
            ["a (2), b (1)", "metrad fit {}/a"],
        ),
        (["1.png", "ground_truth/1_mask.png"], ["itself (1), ground_truth (1)"]),
    ],
)
def test_a_folder_that_does_not_say_which_are_good_is_refused_with_commands(tmp_path, names, says):
    folder = put(tmp_path / "parts", *names)
    with pytest.raises(InputError) as refused:
        find_good(folder)
    assert [words for words in says if words.format(folder) not in str(refused.value)] == []


def test_where_all_are_said_to_be_good_all_are_taken(tmp_path):
    folder = put(tmp_path / "parts", "monday/1.png", "tuesday/2.png")
    assert find_good(folder, all_good=True).path == folder
    good = put(tmp_path / "more", "good/1.png", "bad/2.png")
    assert find_good(good, all_good=True).path == good / "good"


def test_the_pattern_decides_what_is_an_image(tmp_path):
    folder = put(tmp_path / "parts", "a.jpg", "masks/a.png")
    assert find_good(folder, "*.jpg").path == folder


def test_a_path_from_here_with_dots_is_understood(tmp_path, monkeypatch):
    put(tmp_path / "parts", "good/1.png", "bad/2.png")
    monkeypatch.chdir(tmp_path / "parts/bad")
    assert find_good("..").path == tmp_path / "parts/good"
    assert find_good("../good").path == tmp_path / "parts/good"


@pytest.mark.parametrize(
    ("path", "says"),
    [("nowhere", "nowhere is no folder"), ("one.png", "is a file; give the folder"), ("empty", "no images that match")],
)
def test_a_folder_without_images_is_refused(tmp_path, monkeypatch, path, says):
    put(tmp_path, "one.png")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        find_good(path)


def test_words_for_bad_parts_are_not_taken_for_good():
    bad = ["not good", "NOK", "ng", "no_good", "abnormal", "not_ok", "n.i.O.", "bad", "passed over"]
    assert [name for name in bad if is_good(name)] == []
