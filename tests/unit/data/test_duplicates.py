"""Duplicates: equal pixels have equal keys whatever their files, and one image of each content is kept."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from metrad.data.decoding import decode_file
from metrad.data.duplicates import content_key, content_numbers, digest, one_of_each
from tests.helpers.image_files import tiff

GREY = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 4096, (6, 9)).astype(np.uint16)


def key(path: Path) -> bytes:
    return decode_file(path).digest


def written(folder: Path, name: str, image: Image.Image, **options: object) -> bytes:
    image.save(folder / name, **options)
    return key(folder / name)


def note(text: str) -> PngInfo:
    info = PngInfo()
    info.add_text("Comment", text)
    return info


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def test_the_same_pixels_in_any_file_have_one_key(tmp_path):
    image = Image.fromarray(COLOUR)
    opaque = np.dstack([COLOUR, np.full((6, 9), 255, dtype=np.uint8)])
    keys = {
        written(tmp_path, "a.png", image),
        written(tmp_path, "text.png", image, pnginfo=note("line 3")),
        written(tmp_path, "level.png", image, compress_level=0),
        written(tmp_path, "a.bmp", image),
        written(tmp_path, "a.tif", image),
        written(tmp_path, "lzw.tif", image, compression="tiff_lzw"),
        written(tmp_path, "a.ppm", image),
        written(tmp_path, "lossless.webp", image, lossless=True),
        written(tmp_path, "opaque.png", Image.fromarray(opaque)),
        written(tmp_path, "turned.png", Image.fromarray(COLOUR[::-1, ::-1].copy()), exif=turned()),
    }
    assert keys == {content_key(COLOUR)}


def test_grey_pixels_have_one_key_as_grey_colour_palette_and_16_bits(tmp_path):
    keys = {
        written(tmp_path, "l.png", Image.fromarray(GREY)),
        written(tmp_path, "rgb.png", Image.fromarray(np.dstack([GREY] * 3))),
        written(tmp_path, "p.gif", Image.fromarray(GREY)),
        written(tmp_path, "wide.tif", Image.fromarray(GREY.astype(np.int32))),
        written(tmp_path, "scaled.png", Image.fromarray(GREY * np.uint16(257))),
    }
    (tmp_path / "white.tif").write_bytes(tiff(255 - GREY[..., None], 0))
    (tmp_path / "white_16.tif").write_bytes(tiff((255 - GREY[..., None]) * np.uint16(257), 0))
    assert {*keys, key(tmp_path / "white.tif"), key(tmp_path / "white_16.tif")} == {content_key(np.dstack([GREY] * 3))}


def test_16_bits_have_one_key_in_png_and_tiff_and_at_32_bits(tmp_path):
    keys = {
        written(tmp_path, "a.png", Image.fromarray(DEEP)),
        written(tmp_path, "a.tif", Image.fromarray(DEEP)),
        written(tmp_path, "wide.tif", Image.fromarray(DEEP.astype(np.int32))),
        written(tmp_path, "a.pgm", Image.fromarray(DEEP)),
    }
    assert len(keys) == 1


@pytest.mark.parametrize("values", [GREY, DEEP])
def test_one_level_of_one_pixel_makes_another_key(tmp_path, values):
    other = values.copy()
    other[2, 3] ^= 1
    assert written(tmp_path, "a.png", Image.fromarray(values)) != written(tmp_path, "b.png", Image.fromarray(other))


def test_another_shape_of_the_same_bytes_has_another_key():
    assert content_key(COLOUR) != content_key(COLOUR.reshape(9, 6, 3))
    assert len(content_key(COLOUR)) == len(digest(b"")) == 16


def test_the_original_resolution_counts(tmp_path):
    small = Image.new("L", (4, 4), 90)
    assert written(tmp_path, "a.png", small) != written(tmp_path, "b.png", small.resize((8, 8)))


@settings(deadline=None, database=None, max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=12), st.data())
def test_of_each_content_one_candidate_is_kept_preferably_a_preferred_one(content, data):
    n = len(content)
    content = np.array(content, dtype=np.int64)
    candidates = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    preferred = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    kept, copies = one_of_each(content, candidates, preferred)
    assert sorted([*kept, *copies]) == candidates.tolist()
    assert sorted(content[kept]) == sorted(set(content[candidates]))
    for copy, original in copies.items():
        assert original in kept
        assert content[copy] == content[original]
        assert preferred[original] or not preferred[copy]
    assert np.array_equal(
        one_of_each(content, candidates, None)[0], one_of_each(content, candidates, preferred * 0 > 0)[0]
    )


@settings(deadline=None, database=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 255]), st.integers(0, 15)), max_size=12))
def test_content_numbers_are_equal_exactly_for_equal_rows(spots):
    digests = np.zeros((len(spots), 16), dtype=np.uint8)
    for row, (value, place) in zip(digests, spots, strict=True):
        row[place] = value
    numbers = content_numbers(digests)
    assert numbers.shape == (len(spots),)
    same = (digests[:, None] == digests[None]).all(axis=2)
    assert np.array_equal(numbers[:, None] == numbers[None], same)
