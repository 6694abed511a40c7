"""Bit depth: images of more than 8 bits become 8 bits over one range of values for all images of a run."""

from functools import lru_cache

import numpy as np

USUAL = (8, 10, 12, 14, 16)
FULL = 16


def usual_depth(largest: int) -> int:
    """Return the smallest usual bit depth that holds the value ``largest``, which is at most 65535."""
    return next(bits for bits in USUAL if largest < 1 << bits)


def depth_of(peaks: np.ndarray) -> int:
    """Return the bit depth for images whose largest values are ``peaks`` (N,), 0 for an image of 8 bits.

    Without an image of more than 8 bits it is the full depth of 16 bits.
    """
    largest = int(peaks.max(initial=0))
    return usual_depth(largest) if largest else FULL


def peak(pixels: np.ndarray) -> int:
    """Return the largest value of an image of more than 8 bits; 0 for uint8 pixels. A black image has peak 1."""
    return 0 if pixels.dtype == np.uint8 else max(1, int(pixels.max(initial=0)))


def to_8_bits(pixels: np.ndarray, depth: int, *, white_is_zero: bool = False) -> np.ndarray:
    """Return uint16 ``pixels`` as uint8: 0 to 2^depth - 1 become 0 to 255, larger values 255; uint8 stays as it is.

    Args:
        pixels: (height, width, channels) uint8 or uint16.
        depth: bits of the range, 8 to 16.
        white_is_zero: the values of uint16 pixels rise from white to black; black becomes 0.
    """
    if pixels.dtype == np.uint8:
        return pixels
    scaled: np.ndarray = _table(depth)[pixels]
    return 255 - scaled if white_is_zero else scaled


@lru_cache(maxsize=4)
def _table(depth: int) -> np.ndarray:
    """Return the 8-bit value of each 16-bit value, rounded to nearest, (65536,) uint8."""
    top = (1 << depth) - 1
    values = np.minimum(np.arange(1 << FULL), top)
    return ((values * 510 + top) // (2 * top)).astype(np.uint8)
