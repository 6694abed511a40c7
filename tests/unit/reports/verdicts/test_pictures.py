"""Pictures of verdicts, the places that they go to, and folders a verdict."""

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metrad.data.decoding import Reading, decode_file
from metrad.errors import InputError
from metrad.reports.verdicts.images import Images, bounded
from metrad.reports.verdicts.pictures import COLOURS, Pictures, draw
from metrad.reports.verdicts.places import below, common_folder, picture_place, require_fresh
from metrad.reports.verdicts.rows import Row
from metrad.reports.verdicts.sorting import Sorted

ROW = Row("a/1.png", 0.25, 0.01, "anomalous", "good/1.png")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def has(picture, part):
    """Return whether ``part`` stands in ``picture`` pixel by pixel."""
    whole, pixels = np.asarray(picture), np.asarray(part)
    height, width = pixels.shape[:2]
    for top, left in np.argwhere((whole == pixels[0, 0]).all(-1)):
        if np.array_equal(whole[top : top + height, left : left + width], pixels):
            return True
    return False


@pytest.mark.parametrize("size", [(8, 8), (400, 300), (700, 100), (30, 900)])
def test_both_images_stand_in_the_picture_at_their_own_resolution_below_the_verdict(size):
    image, nearest = noise(*size), noise(size[0] + 5, size[1] + 7, seed=1)
    picture = draw(ROW, image, nearest, "nearest good image: good/1.png")
    assert has(picture, image)
    assert has(picture, nearest)
    assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel((0, 0))) == COLOURS[True]


def test_a_normal_image_has_another_colour_and_a_missing_good_image_has_words():
    picture = draw(
        Row("x\n\x1b[31m" * 40, 0.1, 0.5, "normal", fitted_on=True), noise(8, 8), None, "it is not on this disk"
    )
    assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel((0, 0))) == COLOURS[False]
    assert (np.asarray(picture)[:, 360:] < 100).any()


@pytest.fixture
def images(tmp_path):
    (tmp_path / "good").mkdir()
    noise(20, 10).save(tmp_path / "good/1.png")
    noise(20, 10, seed=1).save(tmp_path / "secret.png")
    keys = frozenset([decode_file(tmp_path / "good/1.png").digest])
    return Images(Reading(), tmp_path, keys)


@pytest.mark.parametrize(
    "name", ["", "good/2.png", "secret.png", "good/../secret.png", "/etc/passwd", "x" * 300, "a\0b", "good"]
)
def test_no_file_is_shown_as_a_good_image_but_one_that_the_detector_was_fitted_on(images, name):
    assert images.read_good(name) is None
    assert images.read_good("good/1.png").size == (20, 10)


def test_images_of_16_bits_are_shown_over_the_range_of_the_detector(tmp_path):
    Image.fromarray(np.full((4, 4), 2048, np.uint16)).save(tmp_path / "deep.png")
    for images in (Images(Reading(depth=12), None), Images(Reading(), None, bits=12)):
        assert images.read(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


def test_pictures_keep_the_folders_of_the_images_and_skip_those_that_are_broken(images, tmp_path, caplog):
    source = tmp_path / "in"
    for name in ("p/a.png", "p/a.jpg", f"q/{'n' * 240}.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        noise(12, 9).save(source / name)
    (source / "p/bad.png").write_text("no image")
    paths = {str(path): str(path) for path in source.rglob("*.*")}
    pictures = Pictures(tmp_path / "out", images, paths, common_folder(list(paths)))
    pictures.add([Row(name, 0.1, 0.5, "normal", "good/1.png") for name in paths])
    pictures.add([Row(str(source / "p/a.png"), np.nan, np.nan, "error")])
    pictures.close()
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert made[:2] == ["p/a.jpg", "p/a.png.jpg"]
    assert len(made) == 3
    assert "p/bad.png has no picture" in caplog.text
    with Image.open(tmp_path / "out" / made[0]) as picture:
        assert picture.format == "JPEG"


def test_places_stay_below_the_folder_and_apart():
    common = common_folder(["a/b/1.png", "a/c/d/1.png", "a/../a/b/2.png"])
    assert common == str(Path("a").absolute())
    assert below("a/c/d/1.png", common) == "c/d/1.png"
    long = ["x" * 250 + end for end in ("1", "2")]
    assert len({picture_place(f"p/{name}", ".jpg") for name in long}) == 2
    assert len(os.fsencode(Path(picture_place("ä" * 127, ".jpg")).name)) < 250


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_an_image_with_the_ending_of_its_picture_has_its_name_and_no_two_share_one(ending):
    assert picture_place(f"p/a{ending}", ending) == f"p/a{ending}"
    assert picture_place(f"p/A{ending.upper()}", ending) == f"p/A{ending.upper()}"
    assert picture_place("p/a.tif", ending) == f"p/a.tif{ending}"
    stems = ["a", "a.b", "a.jpg", "a.png"]
    names = [
        stem + "".join(more) for stem in stems for n in range(4) for more in product([".jpg", ".png", ".x"], repeat=n)
    ]
    assert len({picture_place(name, ending) for name in names}) == len(set(names))


@pytest.mark.parametrize("copies", [False, True])
def test_images_are_sorted_by_verdict_into_links_or_copies(tmp_path, copies):
    source = tmp_path / "in"
    (source / "p").mkdir(parents=True)
    for name in ("p/1.png", "2.png", "3.png"):
        (source / name).write_text(name)
    os.mkfifo(source / "pipe.png")
    (source / "lost.png").symlink_to("nowhere")
    verdicts = {"p/1.png": "anomalous", "2.png": "normal", "3.png": "error", "pipe.png": "error", "lost.png": "error"}
    paths = {name: str(source / name) for name in verdicts}
    sink = Sorted(tmp_path / "out", paths, str(source), copies=copies)
    for _ in range(2):  # a call that goes on puts an image there again
        sink.add([Row(name, 0.1, 0.5, verdict) for name, verdict in verdicts.items()])
    sink.close()
    assert (tmp_path / "out/anomalous/p/1.png").read_text() == "p/1.png"
    assert (tmp_path / "out/normal/2.png").is_symlink() != copies
    assert (tmp_path / "out/error/3.png").exists()
    assert (tmp_path / "out/error/pipe.png").exists() != copies
    assert not (tmp_path / "out/error/lost.png").is_symlink()


def test_what_exists_is_not_written_over_unless_the_call_goes_on(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(InputError, match=r"--sort: .*full exists; give another name, or remove it first"):
        require_fresh("--sort", tmp_path / "full", resume=False)
    require_fresh("--sort", tmp_path / "full", resume=True)
    require_fresh("--sort", tmp_path / "new", resume=False)


def test_an_image_is_reduced_to_a_side_and_never_enlarged():
    assert bounded(noise(300, 100), 30).size == (30, 10)
    assert bounded(noise(3000, 1), 30).size == (30, 1)
    assert bounded(noise(20, 10), 30).size == (20, 10)
