"""Colour images of 16 bits a channel keep all their bits, or are refused by name."""

import struct

import numpy as np
import pytest
from PIL import Image

from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import decode_file
from tests.helpers.image_files import chunk, png, tiff

VALUES = np.random.default_rng(0).integers(0, 4096, (5, 7, 3)).astype(np.uint16)
OPAQUE = np.full((5, 7, 1), 0xFFFF, dtype=np.uint16)
GREY = VALUES[..., :1]


def ppm(kind: str, values: np.ndarray) -> bytes:
    head = f"{kind}\n# made by hand\n{values.shape[1]} {values.shape[0]}\n65535\n".encode()
    body = values.astype(">u2").tobytes() if kind == "P6" else " ".join(map(str, values.ravel().tolist())).encode()
    return head + body


FILES = {
    "rgb.png": png(VALUES),
    "rgba.png": png(np.dstack([VALUES, OPAQUE])),
    "raw.tif": tiff(VALUES, 2),
    "big_endian.tif": tiff(VALUES, 2, order=">"),
    "packed.tif": tiff(VALUES, 2, packed=True),
    "packed_big_endian.tif": tiff(VALUES, 2, order=">", packed=True),
    "unused_channel.tif": tiff(np.dstack([VALUES, GREY]), 2, extra=0),
    "alpha.tif": tiff(np.dstack([VALUES, OPAQUE]), 2, extra=2),
    "raw.ppm": ppm("P6", VALUES),
    "plain.ppm": ppm("P3", VALUES),
}


@pytest.mark.parametrize("name", FILES)
def test_all_bits_of_each_channel_are_kept(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    pixels = decode_file(tmp_path / name).pixels
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, VALUES)


def test_all_bits_of_grey_with_alpha_are_kept(tmp_path):
    (tmp_path / "la.png").write_bytes(png(np.dstack([GREY, OPAQUE])))
    assert np.array_equal(decode_file(tmp_path / "la.png").pixels, np.dstack([GREY] * 3))


@pytest.mark.parametrize("values", [np.dstack([VALUES, OPAQUE // 2]), np.dstack([GREY, OPAQUE // 2])])
def test_semi_transparent_16_bits_are_laid_over_white(tmp_path, values):
    (tmp_path / "a.png").write_bytes(png(values))
    colours = np.broadcast_to(values[..., :-1], VALUES.shape)
    share = (0xFFFF // 2) / 0xFFFF
    np.testing.assert_allclose(decode_file(tmp_path / "a.png").pixels, colours * share + 0xFFFF * (1 - share), atol=1)


def test_a_colour_of_16_bits_marked_transparent_becomes_white(tmp_path):
    marked = chunk(b"tRNS", struct.pack(">3H", *VALUES[2, 3]))
    (tmp_path / "a.png").write_bytes(png(VALUES, marked))
    pixels = decode_file(tmp_path / "a.png").pixels
    assert pixels[2, 3].tolist() == [0xFFFF] * 3
    assert (pixels != VALUES).any(axis=-1).sum() == 1


def test_a_grey_value_of_16_bits_marked_transparent_becomes_white(tmp_path):
    (tmp_path / "a.png").write_bytes(png(GREY, chunk(b"tRNS", struct.pack(">H", GREY[2, 3, 0]))))
    assert decode_file(tmp_path / "a.png").pixels[2, 3].tolist() == [0xFFFF] * 3


def test_16_bit_colour_comes_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.png").write_bytes(png(VALUES, chunk(b"eXIf", exif.tobytes()[6:])))
    assert np.array_equal(decode_file(tmp_path / "a.png").pixels, VALUES[::-1].transpose(1, 0, 2))


REFUSED = {
    "planes.tif": tiff(VALUES, 2, planar=True),
    "packed_planes.tif": tiff(VALUES, 2, planar=True, packed=True),
    "cmyk.tif": tiff(np.dstack([VALUES, GREY]), 5),
    "premultiplied.tif": tiff(np.dstack([VALUES, OPAQUE]), 2, extra=1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_16_bits_that_would_be_cut_to_8_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(REFUSED[name])
    with pytest.raises(CorruptImageError, match=rf"{name}.*16 bits a channel"):
        decode_file(tmp_path / name)


def test_jpeg_2000_of_more_than_8_bits_is_refused_in_colour_alone(tmp_path):
    Image.fromarray((VALUES >> 4).astype(np.uint8)).save(tmp_path / "a.jp2")
    content = bytearray((tmp_path / "a.jp2").read_bytes())
    assert decode_file(tmp_path / "a.jp2").pixels.dtype == np.uint8
    content[content.find(b"\xff\x4f\xff\x51") + 42] = 11
    (tmp_path / "a.jp2").write_bytes(content)
    with pytest.raises(CorruptImageError, match=r"a\.jp2.*JPEG2000.*16 bits"):
        decode_file(tmp_path / "a.jp2")
