"""Pixels: every kind of image file becomes upright RGB, broken ones are named, and many are decoded in order."""

import io
import os
import struct
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from metrad.data import decoding
from metrad.data.arrays import OnDemand, resize
from metrad.data.bit_depth import FULL, to_8_bits
from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, Reading, decode_file, upright
from metrad.data.duplicates import digest
from metrad.data.joined_arrays import Joined
from metrad.data.store import scan
from metrad.errors import InputError
from tests.helpers.image_files import png, tiff

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
    image = decode_file(path)
    pixels = to_8_bits(image.pixels, FULL, white_is_zero=image.white_is_zero)
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


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"


def test_postscript_is_no_image_and_starts_no_program(tmp_path, monkeypatch):
    path = tmp_path / "postscript.png"
    path.write_bytes(POSTSCRIPT)
    for start in ("subprocess.Popen", "os.system", "os.posix_spawn"):
        monkeypatch.setattr(start, lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(CorruptImageError, match=r"postscript\.png.*not an image"):
        decode_file(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(CorruptImageError, match=r"pipe\.png.*not a regular file"):
        decode_file(tmp_path / "pipe.png")


def pages(path: Path, *images: Image.Image, **options: object) -> Path:
    return saved(path, images[0], save_all=True, append_images=images[1:], **options)


FRAMES = [Image.fromarray(np.roll(COLOUR, i, axis=1)) for i in range(3)]


@pytest.mark.parametrize("ending", ["tif", "gif", "png", "webp"])
def test_several_pictures_in_one_file_are_refused_by_name(tmp_path, ending):
    path = pages(tmp_path / f"several.{ending}", *FRAMES)
    with pytest.raises(CorruptImageError, match=rf"several\.{ending}.*holds 3 pictures"):
        decode_file(path)


@pytest.mark.parametrize("tags", [{254: 1}, {254: 4}, {255: 2}])
def test_previews_and_masks_beside_the_picture_of_a_tiff_are_ignored(tmp_path, tags):
    path = tmp_path / "preview.tif"
    with TiffImagePlugin.AppendingTiffWriter(path, True) as file:
        FRAMES[0].save(file, "TIFF")
        file.newFrame()
        FRAMES[1].resize((2, 1)).save(file, "TIFF", tiffinfo=tags)
    assert np.array_equal(decoded(path), COLOUR)


def test_the_first_picture_of_a_camera_file_is_read(tmp_path):
    path = pages(tmp_path / "camera.jpg", Image.fromarray(blocks()), Image.fromarray(blocks(1)), format="MPO")
    with Image.open(path) as first:
        assert first.n_frames == 2
        assert np.array_equal(decoded(path), np.asarray(first))


@pytest.mark.parametrize("ending", ["gif", "jfif", "jpe"])
def test_endings_that_were_passed_over_are_read(tmp_path, ending):
    image = palette_image() if ending == "gif" else Image.fromarray(blocks())
    path = saved(tmp_path / f"a.{ending}", image, format="GIF" if ending == "gif" else "JPEG")
    with Image.open(path) as opened:
        assert np.array_equal(decoded(path), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("values", [GREY[..., None], DEEP[..., None]])
def test_white_is_zero_is_read_as_black_is_zero_is(tmp_path, order, packed, values):
    path = tmp_path / "white_is_zero.tif"
    path.write_bytes(tiff(values, 0, order=order, packed=packed))
    if order == ">" and values.itemsize == 2:  # Pillow does not know it
        with pytest.raises(CorruptImageError, match=r"white_is_zero\.tif.*pixel type"):
            decode_file(path)
        return
    eight = np.round(values / (1 if values.itemsize == 1 else 257)).astype(np.uint8)
    assert np.array_equal(decoded(path), as_rgb(255 - eight[..., 0]))


@pytest.mark.parametrize("planar", [False, True])
def test_missing_strips_of_a_tiff_are_refused(tmp_path, planar):
    values = np.arange(1, 97, dtype=np.uint8).reshape(8, 4, 3)
    (tmp_path / "whole.tif").write_bytes(tiff(values, 2, planar=planar))
    assert np.array_equal(decoded(tmp_path / "whole.tif"), values)
    (tmp_path / "strips.tif").write_bytes(tiff(values, 2, planar=planar, rows=4))
    with pytest.raises(CorruptImageError, match=r"strips\.tif.*missing"):
        decode_file(tmp_path / "strips.tif")


def test_signed_bytes_are_refused_and_not_taken_for_unsigned_ones(tmp_path):
    (tmp_path / "signed.tif").write_bytes(tiff(GREY[..., None], 1, sample_format=2))
    with pytest.raises(CorruptImageError, match=r"signed\.tif.*signed"):
        decode_file(tmp_path / "signed.tif")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_integers_of_any_width_are_read_over_their_range(tmp_path, bits):
    values = np.arange(256).reshape(16, 16)
    path = saved(tmp_path / "a.tif", Image.fromarray(values.astype({8: "u1", 16: "u2", 32: "i4"}[bits])))
    assert np.array_equal(to_8_bits(decode_file(path).pixels, 8), as_rgb(values))


def test_negative_integers_are_refused(tmp_path):
    path = saved(tmp_path / "negative.tif", Image.fromarray(np.array([[-1, 5]], dtype=np.int32)))
    with pytest.raises(CorruptImageError, match=r"negative\.tif.*-1 to 5"):
        decode_file(path)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_an_image_above_the_limit_is_refused_with_the_setting_that_allows_it(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # Pillow's own limit
    path = saved(tmp_path / f"large.{ending}", Image.new("L", (2000, 1000), 90))
    with pytest.raises(CorruptImageError, match=rf"large\.{ending}.*2\.0 megapixels.*dataset\.max_megapixels=3"):
        decode_file(path, Reading(max_megapixels=1.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_file(path, Reading(max_megapixels=3)).pixels.shape == (1000, 2000, 3)
    assert Image.MAX_IMAGE_PIXELS == 10_000


ORDINARY = {
    "grey.png": (Image.fromarray(GREY), {}),
    "colour.png": (Image.fromarray(COLOUR), {}),
    "alpha.png": (Image.fromarray(np.dstack([COLOUR, ALPHA])), {}),
    "grey_alpha.png": (Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), {}),
    "palette.png": (palette_image(), {}),
    "transparent_palette.png": (palette_image(), {"transparency": bytes([0, 100, 255])}),
    "bits.png": (Image.fromarray(GREY > 100), {}),
    "colour.bmp": (Image.fromarray(COLOUR), {}),
    "palette.bmp": (palette_image(), {}),
    "colour.tif": (Image.fromarray(COLOUR), {"compression": "tiff_lzw"}),
    "turned.tif": (Image.fromarray(COLOUR), {"exif": oriented_exif(6)}),
    "cmyk.tif": (Image.new("CMYK", (9, 7), (40, 200, 90, 30)), {}),
    "photo.jpg": (Image.fromarray(blocks()), {}),
    "progressive.jpg": (Image.fromarray(blocks()), {"progressive": True}),
    "turned.jpg": (Image.fromarray(blocks()), {"exif": oriented_exif(5)}),
    "grey.jpg": (Image.fromarray(blocks()[..., 0]), {}),
    "cmyk.jpg": (Image.new("CMYK", (16, 8), (40, 200, 90, 30)), {}),
    "photo.webp": (Image.fromarray(blocks()), {}),
    "photo.avif": (Image.fromarray(blocks()), {}),
    "grey.pgm": (Image.fromarray(GREY), {}),
    "colour.ppm": (Image.fromarray(COLOUR), {}),
    "full_range.png": (Image.fromarray(DEEP), {}),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_images_have_the_pixels_that_metrad_0_1_gave(tmp_path, name):
    image, options = ORDINARY[name]
    path = saved(tmp_path / name, image, **options)
    former = decode_file(path, Reading(version=1))
    assert former.pixels.dtype == np.uint8
    assert np.array_equal(decoded(path), former.pixels)
    assert former.digest == digest(path.read_bytes())


def test_version_1_reads_what_metrad_0_1_took_so_that_its_runs_can_be_evaluated(tmp_path):
    (tmp_path / "short.png").write_bytes(png(COLOUR, rows=1))
    pages(tmp_path / "pages.tif", *FRAMES)
    (tmp_path / "inverted.tif").write_bytes(tiff(DEEP[..., None], 0))
    saved(tmp_path / "wide.tif", Image.fromarray(GREY.astype(np.int32)))
    short, first, inverted, wide = (
        decode_file(tmp_path / name, Reading(version=1)).pixels
        for name in ("short.png", "pages.tif", "inverted.tif", "wide.tif")
    )
    assert short[0].tolist() == COLOUR[0].tolist()
    assert not short[1].any()
    assert np.array_equal(first, COLOUR)
    assert np.array_equal(inverted, as_rgb(np.round(DEEP / 257).astype(np.uint8)))
    assert wide.max() == 1


@pytest.mark.parametrize("shape", [(7, 5, 3), (5, 7, 1), (1, 1, 3), (64, 48, 3), (200, 3, 3), (16, 16, 1)])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_resize_agrees_with_pillows_antialiased_bilinear(shape, size):
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    resized = resize(pixels, (size, size))
    assert resized.shape == (size, size, shape[2])
    assert resized.dtype == np.uint8
    for channel in range(shape[2]):
        pillow = Image.fromarray(pixels[..., channel]).resize((size, size), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(resized[..., channel].astype(int), np.asarray(pillow), atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_leaves_images_of_the_right_size_alone(channels):
    pixels = np.random.default_rng(2).integers(0, 256, (9, 9, channels), dtype=np.uint8)
    assert np.array_equal(resize(pixels, (9, 9)), pixels)


def test_resize_takes_read_only_and_strided_pixels_and_leaves_them_unchanged():
    pixels = np.random.default_rng(3).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    view = pixels[::-1, ::2]
    view.flags.writeable = False
    before = pixels.copy()
    assert np.array_equal(resize(view, (4, 4)), resize(view.copy(), (4, 4)))
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


def on_demand(count: int = 9) -> OnDemand:
    digests = np.stack([np.frombuffer(digest(bytes([i])), np.uint8) for i in range(count)])
    return OnDemand(reader(), 4, 16, digests, [f"image {i}" for i in range(count)])


def test_on_demand_gives_the_images_asked_for_in_that_order():
    batch = on_demand()[np.array([5, 2, 5])]
    assert batch.shape == (3, 4, 4, 3)
    assert batch[:, 0, 0, 0].tolist() == [5, 2, 5]


def test_on_demand_gives_no_images_for_no_positions():
    assert len(on_demand()[np.array([], dtype=np.int64)]) == 0


def test_on_demand_refuses_an_image_whose_content_is_another_than_at_first():
    images = on_demand()
    images.digests[2, 3] ^= 1
    images[np.array([1, 3])]
    with pytest.raises(InputError, match="image 2 has changed since"):
        images[np.array([1, 2, 3])]


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


def photograph(mode: str, size: tuple[int, int] = (35, 22)) -> Image.Image:
    smooth = Image.fromarray(np.random.default_rng(5).integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return smooth.resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "settings",
    [
        *({"quality": quality, "subsampling": sampling} for quality in (20, 95) for sampling in (0, 1, 2)),
        *({"progressive": True}, {"restart_marker_rows": 1}, {"exif": oriented_exif(7)}, {"exif": oriented_exif(99)}),
        {"keep_rgb": True},
    ],
    ids="-".join,  # the same in each process that collects them
)
def test_a_jpeg_has_the_values_that_pillow_gives_it(mode, settings, tmp_path):
    if "keep_rgb" in settings and mode != "RGB":
        pytest.skip("only colour has RGB to keep")
    for size in ((35, 22), (1, 1), (16, 8)):
        path = tmp_path / "a.jpg"
        photograph(mode, size).save(path, **settings)
        with Image.open(path) as image:
            expected = np.asarray(upright(image).convert("RGB"))
        assert np.array_equal(decode_file(path).pixels, expected)


def test_a_jpeg_that_torchvision_refuses_is_decoded_or_refused_by_pillow(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    photograph("RGB").save(path)
    expected = decode_file(path)

    def refuse(_):
        raise RuntimeError

    for decoder in (None, refuse):
        monkeypatch.setattr(decoding, "_torchvisions_decoder", lambda decoder=decoder: decoder)
        assert np.array_equal(decode_file(path).pixels, expected.pixels)
        assert decode_file(path).digest == expected.digest
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated"):
        decode_file(path)
