"""PNG files with wrong checksums or missing rows are refused by name; intact ones of every kind are read."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metrad.data import png_checks
from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import decode_file
from tests.helpers.image_files import chunk, png

NOISE = np.random.default_rng(0).integers(1, 256, (9, 11, 3)).astype(np.uint8)
BLACK = np.zeros((9, 11, 3), dtype=np.uint8)
DEEP = NOISE.astype(np.uint16) * 200


@pytest.mark.parametrize("values", [NOISE, BLACK, NOISE[..., :1], NOISE[..., :2], DEEP, DEEP[..., :1], DEEP[..., :2]])
@pytest.mark.parametrize("rows", [0, 1, 8])
def test_missing_rows_are_refused_whatever_the_pixels(tmp_path, values, rows):
    path = tmp_path / "short.png"
    path.write_bytes(png(values, rows=rows))
    with pytest.raises(CorruptImageError, match=r"short\.png.*(rows are missing|truncated)"):
        decode_file(path)


@pytest.mark.parametrize("values", [NOISE, BLACK, DEEP, DEEP * 0])
def test_all_rows_pass(tmp_path, values):
    path = tmp_path / "whole.png"
    path.write_bytes(png(values))
    assert np.array_equal(decode_file(path).pixels, values)


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (17, 2), (300, 7)])
def test_the_bytes_of_all_rows_are_counted_right(mode, size):
    data = saved(Image.new(mode, size))
    png_checks.require_checksums(data)
    png_checks.require_rows(data)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def interlaced(values: np.ndarray, passes: int = 7) -> bytes:
    """Return an interlaced PNG file of (height, width, 3) uint8, of which the first passes are there."""
    lines = b""
    for x, y, right, down in ADAM7[:passes]:
        part = values[y::down, x::right]
        if part.size:
            lines += b"".join(b"\0" + row.tobytes() for row in part)
    data = bytearray(png(values)[:33])
    data[28] = 1
    head = chunk(b"IHDR", bytes(data[16:29]))
    return bytes(data[:8]) + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 11), (8, 5)])
def test_interlaced_files_are_read(tmp_path, size):
    path, values = tmp_path / "a.png", NOISE[: size[0], : size[1]]
    path.write_bytes(interlaced(values))
    assert np.array_equal(decode_file(path).pixels, values)


@pytest.mark.parametrize("passes", [1, 4, 6])
def test_interlaced_files_without_their_last_passes_are_refused(tmp_path, passes):
    path = tmp_path / "a.png"
    path.write_bytes(interlaced(NOISE, passes))
    with pytest.raises(CorruptImageError, match=r"a\.png.*rows are missing"):
        decode_file(path)


def places(data: bytes) -> list[int]:
    """Return a position in each kind of chunk: its length, its name, its content and its checksum."""
    at = data.index(b"IDAT")
    return [at + 1, at + 6, at + 20, len(data) - 14, len(data) - 13]


@pytest.mark.parametrize("place", range(5))
def test_every_flipped_bit_of_the_pixels_is_noticed(tmp_path, place):
    data = bytearray(png(NOISE))
    data[places(data)[place]] ^= 4
    path = tmp_path / "flipped.png"
    path.write_bytes(data)
    with pytest.raises(CorruptImageError, match=r"flipped\.png"):
        decode_file(path)


@pytest.mark.parametrize("cut", [1, 5, 12, 13, 60])
def test_a_cut_end_is_refused(tmp_path, cut):
    path = tmp_path / "cut.png"
    path.write_bytes(png(NOISE)[:-cut])
    with pytest.raises(CorruptImageError, match=r"cut\.png.*truncated"):
        decode_file(path)


def test_a_wrong_checksum_beside_the_pixels_is_refused_too(tmp_path):
    path = tmp_path / "text.png"
    path.write_bytes(png(NOISE, chunk(b"tEXt", b"Comment\0hello", flip=1)))
    with pytest.raises(CorruptImageError, match=r"text\.png"):
        decode_file(path)


def test_bytes_after_the_last_chunk_do_no_harm(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(NOISE) + b"appended by a camera")
    assert np.array_equal(decode_file(tmp_path / "a.png").pixels, NOISE)
