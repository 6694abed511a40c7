"""Pixels: every kind of image file becomes upright RGB, broken ones are named, and many are decoded in order."""

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metrad.data.arrays import Joined, OnDemand, resize
from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, decode_file
from metrad.data.duplicates import content_numbers, digest
from metrad.data.store import scan

GREY = np.array([[0, 1, 127], [128, 254, 255]], dtype=np.uint8)
COLOUR = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
ALPHA = np.array([[0, 1, 64], [128, 254, 255]], dtype=np.uint8)
DEEP = np.array([[0, 128, 129, 255], [256, 257, 4095, 12345], [32767, 32768, 65406, 65535]], dtype=np.uint16)
PALETTE = [(255, 0, 0), (0, 128, 0), (1, 2, 3)]
INDEX = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def decoded(path: Path) -> np.ndarray:
    pixels = decode_file(path).pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def palette_image() -> Image.Image:
    image = Image.fromarray(INDEX).convert("L")
    image.putpalette([value for colour in PALETTE for value in colour])
    return image


def oriented_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def blocks(seed: int = 0) -> np.ndarray:
    """Return 16 by 24 pixels in even 8 by 8 blocks, which JPEG keeps almost exactly."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return colours.repeat(8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "pgm"])
def test_grey_becomes_three_equal_channels(tmp_path, ending):
    assert np.array_equal(decoded(saved(tmp_path / f"a.{ending}", Image.fromarray(GREY))), as_rgb(GREY))


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm"])
def test_colour_is_kept_exactly(tmp_path, ending):
    assert np.array_equal(decoded(saved(tmp_path / f"a.{ending}", Image.fromarray(COLOUR))), COLOUR)


def test_grey_with_alpha_is_laid_over_white(tmp_path):
    path = saved(tmp_path / "la.png", Image.fromarray(np.dstack([GREY, ALPHA]), "LA"))
    np.testing.assert_allclose(decoded(path), over_white(as_rgb(GREY), ALPHA), atol=1)


def test_opaque_rgba_keeps_its_colours_exactly(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.dstack([COLOUR, np.full_like(ALPHA, 255)])))
    assert np.array_equal(decoded(path), COLOUR)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_semi_transparent_rgba_is_laid_over_white(tmp_path, ending):
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(np.dstack([COLOUR, ALPHA])))
    np.testing.assert_allclose(decoded(path), over_white(COLOUR, ALPHA), atol=1)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_palette_gives_its_colours(tmp_path, ending):
    assert np.array_equal(decoded(saved(tmp_path / f"p.{ending}", palette_image())), np.array(PALETTE)[INDEX])


def test_palette_entry_marked_transparent_becomes_white(tmp_path):
    expected = np.array(PALETTE)[INDEX]
    expected[INDEX == 1] = 255
    assert np.array_equal(decoded(saved(tmp_path / "p.png", palette_image(), transparency=1)), expected)


def test_palette_with_an_alpha_for_each_entry_is_laid_over_white(tmp_path):
    path = saved(tmp_path / "p.png", palette_image(), transparency=bytes([0, 100, 255]))
    alpha = np.array([0, 100, 255], dtype=np.uint8)[INDEX]
    np.testing.assert_allclose(decoded(path), over_white(np.array(PALETTE)[INDEX], alpha), atol=1)


def test_grey_value_marked_transparent_becomes_white(tmp_path):
    path = saved(tmp_path / "l.png", Image.fromarray(GREY), transparency=127)
    assert np.array_equal(decoded(path), as_rgb(np.where(GREY == 127, 255, GREY)))


def test_colour_marked_transparent_becomes_white(tmp_path):
    path = saved(tmp_path / "rgb.png", Image.fromarray(COLOUR), transparency=(10, 20, 30))
    expected = COLOUR.copy()
    expected[1, 0] = 255
    assert np.array_equal(decoded(path), expected)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "pbm"])
def test_one_bit_becomes_black_and_white(tmp_path, ending):
    bits = np.array([[True, False, True], [False, False, True]])
    assert np.array_equal(decoded(saved(tmp_path / f"b.{ending}", Image.fromarray(bits))), as_rgb(bits * np.uint8(255)))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, ending):
    path = saved(tmp_path / f"deep.{ending}", Image.fromarray(DEEP))
    assert np.array_equal(decoded(path), as_rgb(np.round(DEEP / 65535 * 255).astype(np.uint8)))


def test_sixteen_bits_of_the_other_byte_order_are_the_same(tmp_path):
    path = tmp_path / "big_endian.tif"
    strip = DEEP.astype(">u2").tobytes()
    entries = [(256, 3, 4), (257, 3, 3), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 3)]
    entries.append((279, 4, len(strip)))
    directory = struct.pack(">H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack(">HHI", tag, kind, 1) + struct.pack(
            *((">HH", value, 0) if kind == 3 else (">I", value))
        )
    path.write_bytes(b"MM\0*" + struct.pack(">I", 8 + len(strip)) + strip + directory + bytes(4))
    assert np.array_equal(decoded(path), as_rgb(np.round(DEEP / 65535 * 255).astype(np.uint8)))


def test_integers_above_sixteen_bits_are_refused(tmp_path):
    path = saved(tmp_path / "wide.tif", Image.fromarray(np.array([[0, 65536]], dtype=np.int32)))
    with pytest.raises(CorruptImageError, match=r"wide\.tif.*0 to 65536"):
        decode_file(path)


def test_floating_point_is_refused(tmp_path):
    path = saved(tmp_path / "float.tif", Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)))
    with pytest.raises(CorruptImageError, match=r"float\.tif.*floating-point"):
        decode_file(path)


@pytest.mark.parametrize("inks", [(0, 0, 0, 0), (255, 0, 0, 0), (40, 200, 90, 30), (0, 0, 0, 255)])
def test_cmyk_jpeg_becomes_rgb(tmp_path, inks):
    path = saved(tmp_path / "cmyk.jpg", Image.new("CMYK", (16, 8), inks), quality=100)
    *colours, black = inks
    expected = [(255 - ink) * (255 - black) / 255 for ink in colours]
    np.testing.assert_allclose(decoded(path), np.broadcast_to(expected, (8, 16, 3)), atol=3)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_rotated_jpeg_comes_upright(tmp_path, orientation):
    path = tmp_path / "turned.jpg"
    Image.fromarray(blocks()).save(path, exif=oriented_exif(orientation), quality=100, subsampling=0)
    expected = ORIENTED[orientation](blocks())
    assert decoded(path).shape == expected.shape
    np.testing.assert_allclose(decoded(path).astype(int), expected, atol=4)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_exif_rotation_counts_in_other_formats_and_sixteen_bits(tmp_path, ending):
    path = saved(tmp_path / f"turned.{ending}", Image.fromarray(DEEP), exif=oriented_exif(6))
    assert np.array_equal(decoded(path), ORIENTED[6](as_rgb(np.round(DEEP / 257).astype(np.uint8))))


def test_an_odd_exif_tag_does_not_stop_an_intact_photo_from_coming_upright(tmp_path):
    # ImageLength as text, which Pillow reads but cannot write again: cameras and editors leave such tags
    entries = struct.pack(">HHI4s", 0x0101, 2, 4, b"odd\0") + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)
    path = saved(tmp_path / "odd.jpg", Image.fromarray(blocks()), exif=exif, quality=100, subsampling=0)
    np.testing.assert_allclose(decoded(path).astype(int), ORIENTED[6](blocks()), atol=4)


def encoded(image_format: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, image_format)
    return buffer.getvalue()


def dds_of_unknown_pixels() -> bytes:
    return b"DDS " + struct.pack("<7I44x", 124, 0x1007, 4, 4, 16, 0, 0) + struct.pack("<2I", 32, 1) + bytes(44)


BROKEN = {
    "truncated.png": lambda: encoded("PNG")[:-1000],
    "truncated.jpg": lambda: encoded("JPEG")[:-400],
    "truncated.bmp": lambda: encoded("BMP")[:-1000],
    "truncated.tif": lambda: encoded("TIFF")[:-1000],
    "truncated.webp": lambda: encoded("WEBP")[:-200],
    "header_only.png": lambda: encoded("PNG")[:30],
    "header_only.jpg": lambda: encoded("JPEG")[:4],
    "text.png": lambda: b"not a picture\n",
    "empty.jpg": lambda: b"",
    "web_page.jpg": lambda: b"<html><body>404 Not Found</body></html>",
    "unknown_pixels.dds": dds_of_unknown_pixels,
    "bomb.ppm": lambda: b"P6 100000 100000 255\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name]())
    with pytest.raises(CorruptImageError) as caught:
        decode_file(path)
    assert str(path) in str(caught.value)
    assert "on_corrupt=skip" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_vanished_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CorruptImageError, match=r"gone\.png"):
        decode_file(tmp_path / "gone.png")


def test_digest_is_of_the_file_not_of_the_pixels(tmp_path):
    one = saved(tmp_path / "one.png", Image.fromarray(COLOUR))
    copy = tmp_path / "copy.png"
    copy.write_bytes(one.read_bytes())
    other = saved(tmp_path / "other.bmp", Image.fromarray(COLOUR))
    assert decode_file(one).digest == decode_file(copy).digest == digest(one.read_bytes())
    assert decode_file(one).digest != decode_file(other).digest
    assert len(digest(b"")) == 16


@pytest.mark.parametrize("shape", [(7, 5, 3), (5, 7, 1), (1, 1, 3), (64, 48, 3), (200, 3, 3), (16, 16, 1)])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_resize_agrees_with_pillows_antialiased_bilinear(shape, size):
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    resized = resize(pixels, size)
    assert resized.shape == (size, size, shape[2])
    assert resized.dtype == np.uint8
    for channel in range(shape[2]):
        pillow = Image.fromarray(pixels[..., channel]).resize((size, size), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(resized[..., channel].astype(int), np.asarray(pillow), atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_leaves_images_of_the_right_size_alone(channels):
    pixels = np.random.default_rng(2).integers(0, 256, (9, 9, channels), dtype=np.uint8)
    assert np.array_equal(resize(pixels, 9), pixels)


def test_resize_takes_read_only_and_strided_pixels_and_leaves_them_unchanged():
    pixels = np.random.default_rng(3).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    view = pixels[::-1, ::2]
    view.flags.writeable = False
    before = pixels.copy()
    assert np.array_equal(resize(view, 4), resize(view.copy(), 4))
    assert np.array_equal(pixels, before)


def reader(broken: tuple[int, ...] = ()):
    def read(position: int) -> Decoded:
        time.sleep(0.002 if position % 7 == 0 else 0)  # later images overtake earlier ones
        if position in broken:
            raise CorruptImageError(f"image {position} is broken")
        return Decoded(np.full((2, 3, 3), position, dtype=np.uint8), digest(bytes([position])))

    return read


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 150])
def test_scan_keeps_every_image_once_and_in_order(threads, count):
    kept = []
    found = scan(reader(), count, lambda i, a: kept.append((i, int(a[0, 0, 0]))), threads=threads, skip_corrupt=False)
    assert kept == [(i, i) for i in range(count)]
    assert [row.tobytes() for row in found.digests] == [digest(bytes([i])) for i in range(count)]
    assert found.corrupt == {}


@pytest.mark.parametrize("threads", [False, True])
def test_scan_raises_at_the_first_broken_image(threads):
    with pytest.raises(CorruptImageError, match="image 49 is broken"):
        scan(reader((49, 50, 90)), 100, lambda *_: None, threads=threads, skip_corrupt=False)


@pytest.mark.parametrize("threads", [False, True])
def test_scan_lists_broken_images_and_goes_on(threads):
    kept = []
    found = scan(reader((0, 7, 99)), 100, lambda i, _: kept.append(i), threads=threads, skip_corrupt=True)
    assert kept == [i for i in range(100) if i not in (0, 7, 99)]
    assert found.corrupt == {i: f"image {i} is broken" for i in (0, 7, 99)}


@pytest.mark.parametrize("threads", [False, True])
def test_scan_does_not_take_a_fault_of_the_program_for_a_broken_image(threads):
    def read(position: int) -> Decoded:
        raise KeyError(position)

    with pytest.raises(KeyError):
        scan(read, 3, lambda *_: None, threads=threads, skip_corrupt=True)


def test_on_demand_gives_the_images_asked_for_in_that_order():
    images = OnDemand(reader(), 4)
    batch = images[np.array([5, 2, 5])]
    assert batch.shape == (3, 4, 4, 3)
    assert batch[:, 0, 0, 0].tolist() == [5, 2, 5]


def test_on_demand_gives_no_images_for_no_positions():
    assert len(OnDemand(reader(), 4)[np.array([], dtype=np.int64)]) == 0


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


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any), st.randoms())
def test_joined_arrays_are_read_as_one_that_they_would_make(lengths, random):
    images = np.arange(sum(lengths) * 6, dtype=np.uint8).reshape(-1, 2, 3, 1)
    joined = Joined(np.split(images, np.cumsum(lengths)[:-1]))
    index = [random.randrange(len(images)) for _ in range(random.randrange(8))]
    assert np.array_equal(joined[np.array(index, dtype=np.int64)], images[index])
    assert all(np.array_equal(joined[i], images[i]) and np.array_equal(joined[np.int64(i)], images[i]) for i in index)


@pytest.mark.parametrize("index", [-1, 5, np.array([0, -1]), np.array([5])], ids=str)
def test_joined_arrays_refuse_positions_that_they_do_not_have(index):
    with pytest.raises(IndexError, match="there are 5 images"):
        Joined([np.zeros((3, 2, 2, 1), np.uint8), np.ones((2, 2, 2, 1), np.uint8)])[index]


def test_joined_arrays_are_not_copied():
    arrays = [np.zeros((3, 2, 2, 1), np.uint8), np.ones((2, 2, 2, 1), np.uint8)]
    joined = Joined(arrays)
    assert np.shares_memory(joined[4], arrays[1])
