"""The images that paths, folders and patterns stand for."""

import errno
import os
from pathlib import Path

import pytest

from metrad.data.listing import image_files, natural
from metrad.errors import InputError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Work in a folder with images, other files and hidden ones in two folders."""
    for name in (
        "p/10.png",
        "p/9.png",
        "p/B/1.JPG",
        "p/a/2.tif",
        "p/notes.txt",
        "p/.hidden.png",
        "p/.git/1.png",
        "q/1.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_stands_for_its_images_in_natural_order_without_hidden_and_other_files(photos):
    assert image_files(["p"]).paths == ["p/9.png", "p/10.png", "p/B/1.JPG", "p/a/2.tif"]


def test_arguments_keep_their_order_and_each_file_comes_once(photos):
    found = image_files(["q/1.png", "p/B", "./q/../q/1.png", "p", str(photos / "p/9.png")]).paths
    assert found == ["q/1.png", "p/B/1.JPG", "p/9.png", "p/10.png", "p/a/2.tif"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("p/*.png", ["p/9.png", "p/10.png"]),
        ("**/1.*", ["p/B/1.JPG", "q/1.png"]),
        ("p/*", ["p/9.png", "p/10.png", "p/B/1.JPG", "p/a/2.tif"]),  # folders that match are read, notes.txt is not
        ("?/[0-9].png", ["p/9.png", "q/1.png"]),
    ],
)
def test_a_pattern_stands_for_the_images_and_folders_that_match(photos, pattern, found):
    assert image_files([pattern]).paths == found


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos):
    (photos / "q/[1].png").write_bytes(b"")
    assert image_files(["q/[1].png"]).paths == ["q/[1].png"]


def test_a_file_that_is_named_is_taken_whatever_its_ending(photos):
    assert image_files(["p/notes.txt"]).paths == ["p/notes.txt"]


def test_a_path_that_does_not_exist_is_refused_as_an_argument_and_stays_itself_from_a_stream(photos):
    with pytest.raises(InputError, match=r"no file or folder nowhere\.png"):
        image_files(["nowhere.png"])
    with pytest.raises(InputError, match=r"nothing matches '\*\.bmp'"):
        image_files(["*.bmp"])
    assert image_files([], ["nowhere*.png", "q"]).paths == ["nowhere*.png", "q/1.png"]


def test_nothing_found_says_what_is_there_instead(photos):
    (photos / "empty").mkdir()
    (photos / "phone").mkdir()
    (photos / "phone/1.heic").write_bytes(b"")
    with pytest.raises(InputError, match=r"no images in the 1 path given; names of images match \*\.png, "):
        image_files(["empty"])
    with pytest.raises(InputError, match=r"there are 1 \.heic"):
        image_files(["phone"])
    with pytest.raises(InputError, match="no images in the 0 paths given"):
        image_files([], [])


def test_links_are_followed_but_not_in_circles(photos):
    (photos / "q/up").symlink_to(photos)
    (photos / "q/itself").symlink_to("itself")
    (photos / "q/lost.png").symlink_to("nowhere.png")
    assert image_files(["q"]).paths == [
        "q/1.png",
        "q/lost.png",
        "q/up/p/9.png",
        "q/up/p/10.png",
        "q/up/p/B/1.JPG",
        "q/up/p/a/2.tif",
    ]


def test_a_folder_named_like_an_image_is_a_folder_and_a_fifo_is_listed_for_its_error(photos):
    (photos / "q/x.png").mkdir()
    (photos / "q/x.png/inside.png").write_bytes(b"")
    os.mkfifo(photos / "q/pipe.png")
    assert image_files(["q"]).paths == ["q/1.png", "q/pipe.png", "q/x.png/inside.png"]


def test_a_folder_that_cannot_be_read_is_refused(photos, monkeypatch):
    scandir = os.scandir

    def closed(folder):
        if Path(folder).name == "B":  # root may read every folder
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InputError, match=r"p/B cannot be read .*make it readable or leave it out"):
        image_files(["p"])


def test_images_in_folders_match_the_patterns_of_the_detector_and_the_rest_is_counted(photos):
    found = image_files(["p", "q/1.png"], patterns=["*.jpg", "?.TIF"])
    assert found.paths == ["p/B/1.JPG", "p/a/2.tif", "q/1.png"]
    assert found.left_out == {".png": 2, ".txt": 1}
    assert image_files(["p/*.png"], patterns=["*.jpg"]).paths == ["p/9.png", "p/10.png"]
    with pytest.raises(InputError, match=r"there are 1 \.png; names of images match \*\.bmp"):
        image_files(["q"], patterns=["*.bmp"])


def test_names_that_can_be_no_file_are_refused_or_stay(photos):
    long = "x" * 5000
    with pytest.raises(InputError, match="no file or folder"):
        image_files([long])
    assert image_files([], [long]).paths == [long]


def test_natural_order_takes_numbers_by_value_and_any_name():
    names = ["a10", "a9", "a", "", "9", "10", "a²", "1" * 30, "\udcff"]
    assert sorted(names, key=natural) == ["", "9", "10", "1" * 30, "a", "a9", "a10", "a²", "\udcff"]
