"""Images that a program holds are written as files with their own pixels, or refused whole."""

import numpy as np
import pytest
from PIL import Image

from metrad.app.given_images import write_images, written
from metrad.data.decoding import Reading
from metrad.detector.images import given
from metrad.errors import InputError

GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (6, 7, 5, 3), dtype=np.uint8)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    "images",
    [
        COLOUR,
        list(COLOUR),
        (each for each in COLOUR),
        [Image.fromarray(each) for each in COLOUR],
        COLOUR[..., :1],
        [each[..., 0] for each in COLOUR],
        [COLOUR[0], COLOUR[1][:3], np.dstack([COLOUR[2], COLOUR[2][..., :1]])],
    ],
    ids=["array", "list", "iterator", "PIL", "grey", "grey list", "sizes and transparency"],
)
def test_a_file_holds_the_pixels_that_a_detector_sees(images, tmp_path):
    images = images if isinstance(images, np.ndarray) else list(images)
    count = write_images(iter(images), tmp_path / "good")
    files = sorted((tmp_path / "good").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.png" for number in range(count)]
    for file, image in zip(files, given(images, Reading(depth=16)), strict=True):
        assert np.array_equal(pixels(file), np.broadcast_to(image.read().pixels, pixels(file).shape))


def test_a_file_in_a_list_keeps_its_name(tmp_path):
    Image.fromarray(COLOUR[0]).save(tmp_path / "bolt.bmp")
    write_images([COLOUR[1], tmp_path / "bolt.bmp"], tmp_path / "good")
    assert sorted(file.name for file in (tmp_path / "good").iterdir()) == ["000000.png", "000001_bolt.bmp.png"]
    assert np.array_equal(pixels(tmp_path / "good" / "000001_bolt.bmp.png"), COLOUR[0])


def test_images_of_one_part_lie_in_one_folder(tmp_path):
    write_images(COLOUR, tmp_path / "good", np.array([7, 3, 7, 7, 3, 9]))
    found = {each.name: len(list(each.iterdir())) for each in (tmp_path / "good").iterdir()}
    assert found == {"part_000000": 3, "part_000001": 2, "part_000002": 1}


@pytest.mark.parametrize(
    ("images", "parts", "words"),
    [
        (COLOUR / 255, None, r"must be uint8 or uint16, got float64.*\.round"),
        ([COLOUR[0], COLOUR[1] / 255], None, "good image 1: .*float64"),
        (COLOUR.astype(np.uint16), None, "good image 0 has more than 8 bits; save such images"),
        (COLOUR.transpose(0, 3, 1, 2), None, r"transpose\(0, 2, 3, 1\)"),
        (["nowhere.png"], None, "good image 0: nowhere.png cannot be read"),
        ([], None, "no good images were given"),
        (COLOUR[:0], None, "no good images were given"),
        (None, None, "got NoneType"),
        (5, None, "got int"),
        (COLOUR, [1, 2], "a label for each of the 6 images, got 2"),
        (COLOUR, range(9), "a label for each of the 6 images, got 9"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_leaves_nothing(images, parts, words, tmp_path):
    with pytest.raises(InputError, match=words), written(images, tmp_path / "run", parts):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_removed_if_no_run_comes_of_it_and_never_written_over(tmp_path):
    with pytest.raises(RuntimeError), written(COLOUR, tmp_path / "run"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with written(COLOUR, tmp_path / "run") as (place, count):
        assert count == len(list(place.iterdir())) == 6
    with pytest.raises(InputError, match="run_images is there already"), written(COLOUR, tmp_path / "run"):
        pass
    assert len(list(place.iterdir())) == 6
