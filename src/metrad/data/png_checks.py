"""Checks of PNG files that Pillow does not make: the checksum of every chunk, and whether all rows are there."""

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Adam7: first column, first row, steps between columns and between rows of each pass
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def require_checksums(data: bytes) -> None:
    """Check each chunk of a PNG file against its checksum.

    Raises:
        ValueError: a checksum is wrong, or the file ends before its last chunk.
    """
    for kind, body, checksum in _chunks(data):
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"the checksum of a chunk {kind.decode('latin-1')!r} is wrong")


def require_rows(data: bytes) -> None:
    """Check that the compressed data of a PNG file hold all rows of the image.

    Raises:
        ValueError: rows are missing.
    """
    needed, found, stream = _bytes_of_rows(data), 0, zlib.decompressobj()
    for kind, body, _ in _chunks(data):
        if kind == b"IDAT":
            rest = bytes(body)
            while rest and found < needed:
                found += len(stream.decompress(rest, 1 << 20))
                rest = stream.unconsumed_tail
    while found < needed and (more := stream.decompress(stream.unconsumed_tail, 1 << 20)):
        found += len(more)
    if found < needed:
        raise ValueError(f"rows are missing: {found} of {needed} bytes are there")


def is_interlaced(data: bytes) -> bool:
    """Return whether a PNG file is interlaced."""
    return data[28] == 1


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield kind, content and checksum of each chunk up to the last, IEND."""
    view, place, kind = memoryview(data), len(_SIGNATURE), b""
    while kind != b"IEND":
        head = data[place : place + 8]
        if len(head) < 8:
            raise ValueError("the file is truncated: its last chunk, IEND, is missing")
        length, kind = struct.unpack(">I4s", head)
        body, end = view[place + 8 : place + 8 + length], data[place + 8 + length : place + 12 + length]
        if len(end) < 4:
            raise ValueError(f"the file is truncated in a chunk {kind.decode('latin-1')!r}")
        yield kind, body, struct.unpack(">I", end)[0]
        place += 12 + length


def _bytes_of_rows(data: bytes) -> int:
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    needed = 0
    for column, row, across, down in passes:
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            needed += rows * (1 + -(-columns * bits * _CHANNELS[colour] // 8))
    return needed
