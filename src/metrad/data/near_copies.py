"""Near copies: images that differ far less than images of different things do, by small descriptors and their signs.

The descriptor of an image is its low frequencies; their signs are a perceptual hash. Both are taken relative to the
other images. So images that are all alike, such as photographs of one product, are no near copies of each other.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from metrad.data.arrays import Indexable

SIDE, KEPT = 32, 16  # pixels a side of the thumbnail, and low frequencies that are kept in each direction
EVENNESS = 0.75  # 0 keeps the deviations, 1 makes them equal, so that noise where nothing varies counts in full
LEAST_SIMILARITY = 0.8
HASH_SHARE = 0.15  # largest share of differing signs of two near copies
DISTANCE_RATIO = 0.45  # largest distance of two near copies, as a share of that to the tenth nearest image
NEIGHBOURS = 10
FEWEST = 8  # images that the distances between others can be told from
_IMAGES, _SIMILARITIES = 64, 2**23  # at a time

Pairs = np.ndarray  # (P, 2) positions, the first below the second


def descriptors(images: Indexable, positions: np.ndarray) -> np.ndarray:
    """Return the low frequencies of the grey images at ``positions`` (N,), without their mean, as (N, 255) float32.

    They are coefficients of the discrete cosine transform of a thumbnail.

    Source:
        Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions.
    """
    found = np.empty((len(positions), KEPT * KEPT - 1), dtype=np.float32)
    for start in range(0, len(positions), _IMAGES):
        pixels = images[positions[start : start + _IMAGES]].astype(np.float32)
        count, height, width, channels = pixels.shape
        across = np.repeat(_frequencies(width) / channels, channels, axis=1).T  # averages the channels too
        rows = pixels.reshape(count, height, width * channels) @ across
        found[start : start + count] = (_frequencies(height) @ rows).reshape(count, -1)[:, 1:]
    return found


@cache
def _frequencies(size: int) -> np.ndarray:
    """Return the map from ``size`` pixels in a row to the low frequencies of their thumbnail, (KEPT, size)."""
    frequency, place = np.arange(KEPT)[:, None], np.arange(SIDE)
    basis = np.sqrt(2 / SIDE) * np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))  # of the transform, type 2
    basis[0] /= np.sqrt(2)
    pixel, thumbnail = np.arange(size), np.arange(SIDE)[:, None]
    covered = (pixel >= thumbnail * size // SIDE) & (pixel < -(-(thumbnail + 1) * size // SIDE))
    low: np.ndarray = (basis @ (covered / covered.sum(axis=1, keepdims=True))).astype(np.float32)
    return low


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Return ``vectors`` (N, D) with mean 0 and deviations made more equal, then at unit length, as float32.

    The product of two rows is their similarity, about 0 for random images. A vector that equals the mean becomes 0.
    """
    if not len(vectors):
        return vectors.astype(np.float32)
    centred = vectors - vectors.mean(axis=0)
    spread = centred.std(axis=0)
    scaled = centred / np.where(spread > 0, spread, 1) ** EVENNESS
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: np.ndarray = (scaled / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


def near_copies(vectors: np.ndarray, signs: np.ndarray) -> Pairs:
    """Return the pairs of near copies among N images, in rising order.

    Two images are near copies if they are similar, if few of their signs differ and if they are far nearer to each
    other than each is to its tenth nearest image.

    Args:
        vectors: standardised descriptors, (N, D).
        signs: booleans by image, (N, B), as a perceptual hash.
    """
    if len(vectors) < FEWEST:
        return np.empty((0, 2), dtype=np.int64)
    pairs = np.concatenate(list(_similar(vectors, signs)))
    if not len(pairs):
        return pairs
    reach = _reach(vectors, np.unique(pairs))
    apart = np.linalg.norm(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], axis=1)
    near: Pairs = pairs[apart <= DISTANCE_RATIO * np.minimum(reach[pairs[:, 0]], reach[pairs[:, 1]])]
    return near


def _similar(vectors: np.ndarray, signs: np.ndarray) -> Iterator[Pairs]:
    """Yield the pairs of similar images of which few signs differ, in rising order."""
    rows = max(1, _SIMILARITIES // len(vectors))
    for start in range(0, len(vectors), rows):
        similarity = vectors[start : start + rows] @ vectors[start:].T
        first, second = np.nonzero(np.triu(similarity >= LEAST_SIMILARITY, 1))
        pairs = np.stack([first, second], axis=1) + start
        parts = np.array_split(pairs, max(1, len(pairs) // _SIMILARITIES * signs.shape[1]))
        yield from (part[(signs[part[:, 0]] != signs[part[:, 1]]).mean(axis=1) <= HASH_SHARE] for part in parts)


def _reach(vectors: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the distance to the tenth nearest other image, (N,); 0 for images that are not ``wanted``."""
    nearest = min(NEIGHBOURS, (len(vectors) - 1) // 2)
    reach, rows = np.zeros(len(vectors), dtype=np.float32), max(1, _SIMILARITIES // len(vectors))
    for start in range(0, len(wanted), rows):
        some = wanted[start : start + rows]
        similarity = vectors[some] @ vectors.T
        similarity[np.arange(len(some)), some] = -2
        tenth = np.partition(similarity, -nearest, axis=1)[:, -nearest]
        reach[some] = np.sqrt(np.maximum(2 - 2 * tenth, 0))
    return reach
