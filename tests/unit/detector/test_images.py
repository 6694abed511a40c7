"""What a user may give as images, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from metrad.data.decoding import Reading, decode_file
from metrad.detector.images import given
from metrad.errors import InputError
from tests.helpers.detectors import noise

READING = Reading()
DEEP = Reading(depth=16)


def names(images):
    return [one.name for one in given(images, READING)]


@pytest.fixture(name="folder")
def some_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["b/2.png", "b/10.PNG", "a/x/deep.jpg", "a/.hidden.png", ".cache/no.png", "notes.txt"]):
        path = tmp_path / "parts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            path.write_text("no image")
        else:
            Image.fromarray(noise(1, i)[0]).save(path)
    return tmp_path / "parts"


def test_a_folder_stands_for_the_images_below_it_in_order_and_not_for_hidden_ones(folder):
    assert names("parts") == ["parts/a/x/deep.jpg", "parts/b/2.png", "parts/b/10.PNG"]
    assert names(folder / "b") == [str(folder / "b/2.png"), str(folder / "b/10.PNG")]


def test_a_folder_that_links_to_itself_is_read_once(folder):
    (folder / "b/loop").symlink_to(folder)
    assert len(names("parts")) == 3


def test_a_pattern_stands_for_the_files_and_folders_that_match_it(folder):
    assert names("parts/b/*.png") == ["parts/b/2.png"]
    assert names("parts/**/*.jpg") == ["parts/a/x/deep.jpg"]
    assert names("parts/*") == ["parts/a/x/deep.jpg", "parts/b/2.png", "parts/b/10.PNG"]
    assert names("parts/**") == ["parts/a/x/deep.jpg", "parts/b/2.png", "parts/b/10.PNG"]


def test_a_file_with_the_signs_of_a_pattern_in_its_name_is_a_file(folder):
    (folder / "b/2.png").rename(folder / "b/[2].png")
    assert names("parts/b/[2].png") == ["parts/b/[2].png"]


@pytest.mark.parametrize(
    ("shape", "count"),
    [((5, 4), 1), ((5, 4, 3), 1), ((5, 4, 1), 1), ((5, 4, 4), 1), ((2, 5, 4, 3), 2), ((0, 5, 4, 3), 0)],
)
def test_arrays_are_one_image_or_several(shape, count):
    found = list(given(np.zeros(shape, np.uint8), READING))
    assert [one.name for one in found] == [str(i) for i in range(count)]
    assert all(one.read().pixels.shape == (5, 4, 3) for one in found)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((4, 4), np.float32), "must be uint8 or uint16, got float32"),
        (np.zeros((4, 4), bool), r"got bool; .* give array\.astype\('uint8'\) \* 255"),
        (np.zeros((4, 4), np.int64), r"got int64; if its values lie from 0 to 255, give array\.astype\('uint8'\)$"),
        (np.zeros((4, 4), np.uint32), r"got uint32; if its values lie from 0 to 255"),
        (np.array(["a.png"]), r"give a list: array\.tolist\(\)"),
        (Image.new("F", (4, 4)), "mode F has floating-point pixels without a fixed range"),
        (np.zeros((4, 4), np.uint16), "array of uint16 has more than 8 bits, .* such as bits=12"),
        (np.zeros((4, 4), ">u2"), "array of uint16 has more than 8 bits"),
        (Image.new("I", (4, 4)), "PIL image of the mode I has more than 8 bits, .* such as bits=12"),
        (Image.new("I;16", (4, 4)), "PIL image of the mode I;16 has more than 8 bits"),
        (np.zeros((5, 4, 2), np.uint8), r"C of 1, 3 or 4, got \(5, 4, 2\); it has 2 channels$"),
        (np.zeros((2, 5, 4, 2), np.uint8), r"got \(2, 5, 4, 2\); it has 2 channels$"),
        (np.zeros((7, 5, 6), np.uint8), r"; grey images are \(N, H, W, 1\): give array\[\.\.\., None\]$"),
        (np.zeros((3, 5, 6), np.uint8), r"transpose\(1, 2, 0\); grey images are \(N, H, W, 1\)"),
        (np.zeros((2, 3, 5, 6), np.uint8), r"channels come first give array\.transpose\(0, 2, 3, 1\)$"),
        (np.zeros((5,), np.uint8), r"got \(5,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\) has no pixels; no images are \[\] or \(0, H, W, C\)"),
        (np.array([]), r"shape \(0,\) has no pixels"),
        (np.zeros((2, 0, 4, 3), np.uint8), r"shape \(2, 0, 4, 3\) have no pixels"),
        (torch.zeros(4, 4, 3), "got torch.Tensor; give its numpy array with the channels last"),
        (b"a.png", "got bytes"),
        ({"a.png": 1}, "got dict"),
        (7, "got int"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_image_is_refused_at_once_and_by_row_in_a_list(wrong, words):
    with pytest.raises(InputError, match=words):
        given(wrong, READING)
    (one,) = given([wrong], READING)
    with pytest.raises(InputError, match=words):
        one.read()


@pytest.mark.parametrize("wrong", ["empty", "empty/*.png"])
def test_a_folder_or_pattern_without_images_is_refused_at_once_and_by_row_in_a_list(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images in|nothing matches"):
        given(wrong, READING)
    assert names([wrong]) == [wrong]


def test_lists_may_be_nested_and_pixels_are_numbered_through(folder):
    mixed = [folder / "b/2.png", noise(2), [Image.fromarray(noise(1)[0]), ["parts/a"]], (noise(1)[0],)]
    assert names(mixed) == [str(folder / "b/2.png"), "0", "1", "2", "parts/a/x/deep.jpg", "3"]


def test_an_iterator_is_read_no_further_than_asked():
    taken = []
    endless = (taken.append(i) or noise(1, i)[0] for i in itertools.count())
    found = given(endless, READING)
    assert [next(found).name for _ in range(3)] == ["0", "1", "2"]
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("shape", [(9, 7, 3), (9, 7, 4), (9, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_file_its_array_and_its_pil_image_are_the_same_image(shape, dtype, tmp_path):
    pixels = noise(1, 3, shape)[0].astype(dtype)
    if dtype == np.uint16 and len(shape) == 3:
        pytest.skip("Pillow writes no colour of 16 bits")
    pixels = pixels * 200 if dtype == np.uint16 else pixels
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    (array,), (image,), (file,) = (given(one, DEEP) for one in (pixels, Image.open(path), path))
    expected = decode_file(path)
    for one in (array.read(), image.read(), file.read()):
        assert one.digest == expected.digest
        assert np.array_equal(one.pixels, expected.pixels)


def test_a_pil_image_comes_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(1)[0, :, :4]).save(tmp_path / "a.jpg", exif=exif)
    image, file = (next(given(one, READING)).read() for one in (Image.open(tmp_path / "a.jpg"), tmp_path / "a.jpg"))
    assert image.pixels.shape == (4, 8, 3)
    assert np.array_equal(image.pixels, file.pixels)


def test_an_array_of_the_other_byte_order_is_the_same_image():
    pixels = noise(2, 3, (5, 4, 3)).astype(np.uint16) * 200
    for one, other in zip(given(pixels, DEEP), given(pixels.astype(">u2"), DEEP), strict=True):
        assert one.read().digest == other.read().digest
        assert other.read().pixels.dtype == np.uint16
        assert np.array_equal(one.read().pixels, other.read().pixels)


def test_four_channels_of_16_bits_are_refused():
    with pytest.raises(InputError, match="uint16 must have 1 or 3 channels, got 4"):
        given(np.zeros((5, 4, 4), np.uint16), DEEP)
