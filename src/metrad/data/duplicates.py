"""Duplicates: the content key of an image, and the choice of one image among copies."""

import hashlib

import numpy as np


def digest(data: bytes) -> bytes:
    """Return a 16-byte hash of ``data``."""
    return hashlib.blake2b(data, digest_size=16).digest()


def content_key(pixels: np.ndarray, *, white_is_zero: bool = False) -> bytes:
    """Return a 16-byte hash of an image's pixels at their original resolution; equal images have equal keys.

    The file's format and its other contents do not matter. An image of 16 bits that shows an image of 8 bits, each
    value times 257 or unchanged, has the key of the latter.

    Args:
        pixels: (height, width, channels) uint8 or uint16.
        white_is_zero: the values of uint16 pixels rise from white to black.
    """
    if pixels.dtype != np.uint8:
        pixels = _in_8_bits_if_exact(0xFFFF - pixels if white_is_zero else pixels)
    content = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    content.update(repr(pixels.shape).encode())
    return content.digest()


def _in_8_bits_if_exact(values: np.ndarray) -> np.ndarray:
    if values.max(initial=0) <= 0xFF:
        return values.astype(np.uint8)
    scaled, left = np.divmod(values, 257)
    return values if left.any() else scaled.astype(np.uint8)


def content_numbers(digests: np.ndarray) -> np.ndarray:
    """Return a number for each row of ``digests`` (N, 16), equal exactly for equal rows, as (N,)."""
    rows = np.ascontiguousarray(digests).view(np.dtype((np.void, digests.shape[1]))).ravel()
    return np.unique(rows, return_inverse=True)[1]


def one_of_each(
    content: np.ndarray, candidates: np.ndarray, preferred: np.ndarray | None
) -> tuple[np.ndarray, dict[int, int]]:
    """Keep one image of each content: the first preferred one, else the first one.

    Args:
        content: content number of each image, (N,) integers.
        candidates: positions of the images to choose from, rising, (M,).
        preferred: (N,) booleans; None for no preference.

    Returns:
        The positions of the images that are kept, rising, and for each copy that is left out the image kept in its
        place.
    """
    if preferred is not None:
        candidates = candidates[np.argsort(~preferred[candidates], kind="stable")]
    _, first, group = np.unique(content[candidates], return_index=True, return_inverse=True)
    kept = candidates[first]
    copies = {int(i): int(kept[g]) for i, g in zip(candidates, group, strict=True) if i != kept[g]}
    return np.sort(kept), dict(sorted(copies.items()))
