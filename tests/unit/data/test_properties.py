"""Trivial properties of images: the numbers that a slow computation gives, from arrays and files, in every store."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from metrad.data import properties, store
from metrad.data.decoding import Decoded, decode_file
from metrad.data.properties import NAMES, PLACES, PROPERTIES, FileFacts, Gathered, measure, of_image, telling
from metrad.data.sources import Digits, ImageFolder
from metrad.data.store import Storage, load
from metrad.errors import InputError


def colours(seed: int = 0, shape: tuple[int, ...] = (20, 30, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_name(row: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, row.tolist(), strict=True))


def written(path: Path, pixels: np.ndarray, **saving: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **saving)
    return path


def test_the_numbers_of_a_small_image_are_those_of_a_loop_over_its_pixels():
    image = colours()
    found, grey = by_name(measure(image[None])[0]), image.astype(float).mean(axis=-1) / 255
    edge = [grey[y, x] for y in range(20) for x in range(30) if y in (0, 19) or x in (0, 29)]
    saturations = [(max(p) - min(p)) / max(p) for p in image.reshape(-1, 3).tolist()]
    laplacian = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 19)
        for x in range(1, 29)
    ]
    red, green, blue = image.reshape(-1, 3).mean(axis=0) / 255
    wanted = {
        "border": 0,
        "width": 30,
        "height": 20,
        "aspect": np.log2(1.5),
        "background": np.median(edge),
        "grey_mean": grey.mean(),
        "grey_spread": grey.std(),
        "saturation": np.mean(saturations),
        "red_green": red - green,
        "blue_yellow": blue - (red + green) / 2,
        "sharpness": np.log2(np.var(laplacian)),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)
    assert all(np.isnan(found[name]) for name in NAMES if name not in wanted)


def test_a_large_image_gives_nearly_what_all_of_its_pixels_give():
    smooth = np.asarray(Image.fromarray(colours(1, (20, 30, 3))).resize((900, 700), Image.Resampling.BICUBIC))
    found, grey = by_name(measure(smooth[None])[0]), smooth.astype(float).mean(axis=-1) / 255
    assert found["grey_mean"] == pytest.approx(grey.mean(), abs=0.01)
    assert found["grey_spread"] == pytest.approx(grey.std(), rel=0.03)


def test_16_bits_give_the_numbers_of_8_bits_and_white_is_turned_round():
    eight = colours()
    deep = eight.astype(np.uint16) * 257
    assert np.allclose(measure(deep[None]), measure(eight[None]), atol=1e-6, equal_nan=True)
    turned = of_image(Decoded(deep.max() - deep, b"", white_is_zero=True))
    assert np.allclose(turned, measure((deep - deep.min())[None])[0], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 5, 1), (3, 2, 3), (4, 4, 1)])
def test_tiny_images_have_numbers_too(shape):
    found = by_name(measure(colours(0, shape)[None])[0])
    assert np.isfinite([found[name] for name in ("border", "grey_mean", "background", "sharpness", "saturation")]).all()


@pytest.mark.parametrize("width", [0, 1, 4])
@pytest.mark.parametrize("level", [0, 255])
def test_a_border_of_one_colour_has_its_width(width, level):
    image = colours(2, (40, 48, 3))
    framed = np.pad(image[width : 40 - width, width : 48 - width], ((width, width), (width, width), (0, 0)))
    framed[:width], framed[40 - width :], framed[:, :width], framed[:, 48 - width :] = level, level, level, level
    assert by_name(measure(framed[None])[0])["border"] == pytest.approx(width / 40)


def test_an_even_background_is_no_border():
    image = np.full((1, 40, 40, 1), 255, dtype=np.uint8)
    image[0, 12:30, 5:35] = 30
    assert by_name(measure(image)[0])["border"] == 0
    assert by_name(measure(np.full((1, 40, 40, 1), 9, dtype=np.uint8))[0])["border"] == 0


def test_images_measured_alone_together_and_as_arrays_have_the_same_numbers():
    images = colours(3, (70, 12, 10, 3))
    gathered = Gathered(71)
    for place, pixels in enumerate([*images[:35], colours(0, (9, 9, 3)), *images[35:]]):
        gathered.add(place, Decoded(pixels, b"", facts=FileFacts(place + 1, "PNG", 0.0)))
    gathered.flush()
    few = np.delete(gathered.values, 35, axis=0)
    alone = np.stack([of_image(Decoded(pixels, b"")) for pixels in images])
    of_pixels = [place for name, place in PLACES.items() if not np.isnan(alone[0, place])]
    assert len(of_pixels) == 11
    assert np.array_equal(few[:, of_pixels], alone[:, of_pixels])
    arrays = properties.of_arrays(images.__getitem__)
    assert np.array_equal(arrays[np.arange(70)], alone, equal_nan=True)
    assert np.array_equal(arrays[np.array([4, 1])], alone[[4, 1]], equal_nan=True)
    assert arrays[np.arange(0)].shape == (0, len(PROPERTIES))


def test_a_file_says_its_type_size_time_camera_and_exposure(tmp_path):
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "Maker", "Model 7"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.25
    path = written(tmp_path / "a.jpg", colours(), exif=tags)
    os.utime(path, (1_000_000, 1_000_000.5))
    assert decode_file(path).facts == FileFacts(path.stat().st_size, "JPEG", 1_000_000.5, "Maker Model 7", 0.25)
    found = by_name(of_image(decode_file(path)))
    assert found["exposure"] == -2
    assert found["file_time"] == 1_000_000.5
    assert found["bytes_per_pixel"] == pytest.approx(np.log2(path.stat().st_size / 600))
    plain = decode_file(written(tmp_path / "b.png", colours())).facts
    assert plain is not None
    assert (plain.kind, plain.camera, plain.exposure) == ("PNG", "", None)
    other = by_name(of_image(decode_file(tmp_path / "b.png")))
    assert np.isnan([other["camera"], other["exposure"]]).all()
    assert other["file_type"] != found["file_type"]


def test_an_exposure_of_no_seconds_is_not_known(tmp_path):
    tags = Image.Exif()
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.0
    facts = decode_file(written(tmp_path / "a.jpg", colours(), exif=tags)).facts
    assert facts is not None
    assert facts.exposure is None


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_every_store_keeps_the_numbers_of_the_images_as_they_are_decoded(tmp_path, place):
    for number in range(5):
        written(tmp_path / f"root/a/{number}.png", colours(number, (30, 20 + number, 3)))
    limits = {"memory": (2**30, 0), "disk": (0, 2**30), "on demand": (0, 0)}[place]
    for _ in range(2):  # the second time from the cache
        images = load(ImageFolder(tmp_path / "root"), 8, Storage(*limits, tmp_path / "cache"), skip_corrupt=False)
        wanted = [of_image(decode_file(tmp_path / "root" / name)) for name in images.names]
        assert np.array_equal(images.properties[np.array([3, 0])], np.stack([wanted[3], wanted[0]]), equal_nan=True)
        assert images.properties[np.arange(5)][:, PLACES["width"]].tolist() == [20, 21, 22, 23, 24]


def test_a_cache_of_before_is_measured_once_and_its_pixels_stay(tmp_path, monkeypatch):
    for number in range(3):
        written(tmp_path / f"root/a/{number}.png", colours(number))
    folder, storage = tmp_path / "root", Storage(0, 2**30, tmp_path / "cache")
    before = load(ImageFolder(folder), 8, storage, skip_corrupt=False)
    kept = next((tmp_path / "cache").glob("*/properties.npy"))
    pixels = (kept.parent / "images.npy").stat().st_mtime_ns
    kept.unlink()
    again = load(ImageFolder(folder), 8, storage, skip_corrupt=False)
    assert np.array_equal(again.properties[np.arange(3)], before.properties[np.arange(3)], equal_nan=True)
    assert (kept.parent / "images.npy").stat().st_mtime_ns == pixels
    monkeypatch.setattr(store, "scan", None)  # it would be called to measure again
    load(ImageFolder(folder), 8, storage, skip_corrupt=False)


def test_a_cache_with_the_numbers_of_other_images_is_refused(tmp_path):
    written(tmp_path / "root/a/0.png", colours())
    storage = Storage(0, 2**30, tmp_path / "cache")
    load(ImageFolder(tmp_path / "root"), 8, storage, skip_corrupt=False)
    np.save(next((tmp_path / "cache").glob("*/properties.npy")), properties.unknown(2))
    with pytest.raises(InputError, match="remove it to decode again"):
        load(ImageFolder(tmp_path / "root"), 8, storage, skip_corrupt=False)


def test_digits_are_measured_from_their_array():
    images = load(Digits(), 8, Storage(0, 0, Path("unused")), skip_corrupt=False)
    assert images.properties[np.array([5])][0, PLACES["grey_mean"]] == pytest.approx(Digits().pixels[5].mean() / 255)


def table(**columns: list[float]) -> np.ndarray:
    count = len(next(iter(columns.values())))
    values = properties.unknown(count)
    for name, column in columns.items():
        values[:, PLACES[name]] = column
    return values


def test_only_properties_in_which_images_differ_tell_anything():
    found = telling(table(width=[3, 3, 3], grey_mean=[1, 2, 2]))
    assert list(found) == ["grey_mean"]
    assert telling(properties.unknown(0)) == {}


def test_what_is_unknown_of_some_images_counts_as_lower_than_all():
    found = telling(table(exposure=[-2, np.nan, -8], camera=[np.nan, 5, np.nan]))
    assert np.argsort(found["exposure"]).tolist() == [1, 2, 0]
    assert found["camera"][0] == found["camera"][2] < found["camera"][1]


@pytest.mark.parametrize(
    ("seconds", "tells"),
    [(0.01, False), (1.0, False), (60.0, True)],
    ids=["unpacked", "copied", "photographed"],
)
def test_files_that_were_written_in_one_go_have_no_time_order(seconds, tells):
    assert ("file_time" in telling(table(file_time=[1e9 + seconds * i for i in range(50)]))) == tells


def test_files_of_two_days_have_a_time_order_though_each_day_was_copied():
    assert "file_time" in telling(table(file_time=[1e9 + i * 0.01 + 86400 * (i > 5) for i in range(12)]))
