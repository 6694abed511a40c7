"""Image files written byte by byte, of kinds that Pillow cannot write."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by number of channels


def chunk(kind: bytes, content: bytes, flip: int = 0) -> bytes:
    """Return a PNG chunk; ``flip`` is what its checksum is wrong by."""
    checksum = zlib.crc32(kind + content) ^ flip
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(values: np.ndarray, *between: bytes, rows: int | None = None, flip: int = 0) -> bytes:
    """Return a PNG file of (height, width, channels) uint8 or uint16; rows are filtered by their left neighbours.

    Args:
        values: the pixels.
        between: chunks before the pixels.
        rows: number of rows that are there; None for all.
        flip: what the checksum of the pixels is wrong by.
    """
    height, width, channels = values.shape
    size = values.itemsize
    plain = np.frombuffer(values.astype(f">u{size}").tobytes(), np.uint8).reshape(height, -1)
    filtered = plain.copy()
    filtered[:, size * channels :] -= plain[:, : -size * channels]
    lines = b"".join(b"\1" + row.tobytes() for row in filtered[:rows])
    head = struct.pack(">IIBBBBB", width, height, 8 * size, COLOUR_TYPES[channels], 0, 0, 0)
    parts = (chunk(b"IHDR", head), *between, chunk(b"IDAT", zlib.compress(lines), flip), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(
    values: np.ndarray, photometric: int, *, order: str = "<", packed: bool = False, planar: bool = False, **tags: int
) -> bytes:
    """Return a TIFF file of one strip of (height, width, channels) integers, or of one strip a channel.

    Args:
        values: the pixels.
        photometric: 0 for white is zero, 1 for black is zero, 2 for RGB.
        order: byte order, < or >.
        packed: compress the strip.
        planar: store one channel after another.
        tags: further values: ``rows`` for the rows of a strip, ``sample_format``, ``extra`` for the kind of a fourth
            channel.
    """
    height, width, channels = values.shape
    raw = values.astype(values.dtype.newbyteorder(order))
    strips = [raw[..., i].tobytes() for i in range(channels)] if planar else [raw.tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    starts = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    entries: list[tuple[int, Sequence[int]]] = [
        *((256, [width]), (257, [height]), (258, [8 * values.itemsize] * channels), (259, [8 if packed else 1])),
        *((262, [photometric]), (273, starts), (277, [channels]), (278, [tags.get("rows", height)])),
        *((279, [len(strip) for strip in strips]), (284, [2 if planar else 1])),
    ]
    if "extra" in tags:
        entries.append((338, [tags["extra"]]))
    if "sample_format" in tags:
        entries.append((339, [tags["sample_format"]] * channels))
    return _tiff_of(order, b"".join(strips), entries)


def _tiff_of(order: str, strips: bytes, entries: list[tuple[int, Sequence[int]]]) -> bytes:
    place = 8 + len(strips)
    beyond = place + 2 + 12 * len(entries) + 4  # values that an entry has no room for
    directory, others = struct.pack(f"{order}H", len(entries)), b""
    for tag, values in entries:
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            others, packed = others + packed, struct.pack(f"{order}I", beyond + len(others))
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", place) + strips + directory + bytes(4) + others
