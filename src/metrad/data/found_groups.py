"""Groups found by themselves: near copies, and images that follow each other in a running number and look alike.

A running number alone says nothing, since most files are numbered. So a pair of images with close numbers counts only
if the two look more alike than images whose numbers lie further apart. How much more is decided for all pairs at once
by their false discovery rate, so that images without groups get next to none.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metrad.data.arrays import Indexable
from metrad.data.groups import Size
from metrad.data.near_copies import Pairs, descriptors, near_copies, standardised

CLOSE = 6  # places in the order of the numbers that a pair with close numbers lies apart at most
FAR = (2 * CLOSE + 1, 2 * CLOSE + 100)  # places that a pair with distant numbers lies apart
MOST_FAR = 200_000  # such pairs that are compared
FALSE_DISCOVERIES = 0.01  # expected share of wrong pairs
LEAST_SIMILARITY = 0.6
SIZE_SHARE = 0.1  # largest difference of widths and heights, as a share of the larger one
FEWEST = 20  # images with names of one form, and pairs with distant numbers, that something can be told from
CHAIN = 12  # images of a group beyond which it must not be a chain of slow change
_DIGITS = re.compile(r"(\d+)")
_NONE = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True)
class Images:
    """The images to find groups among, N of them.

    Attributes:
        names: path of each image with ``/``, or another name.
        labels: class number of each image, (N,).
        vectors: standardised descriptors, (N, D); the product of two rows is their similarity.
        signs: perceptual hash of each image, (N, B) booleans.
        sizes: width and height of each image in pixels, (N, 2).
    """

    names: Sequence[str]
    labels: np.ndarray
    vectors: np.ndarray
    signs: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Found:
    """The groups among N images, and the pairs that made them.

    Attributes:
        numbers: group number of each image, (N,), from 0 in order of first appearance.
        copies: pairs of near copies, the most similar first.
        series: pairs that have close running numbers and look alike, the most similar first.
    """

    numbers: np.ndarray
    copies: Pairs = field(default_factory=_NONE.copy)
    series: Pairs = field(default_factory=_NONE.copy)

    @property
    def grouped(self) -> int:
        """Number of images that share a group with another image."""
        sizes = np.bincount(self.numbers)
        return int(sizes[sizes > 1].sum())

    def lines(self, names: Sequence[str]) -> list[str]:
        """Return what was found in words, with an example of each kind; ``names`` are those of the images."""
        count = f"{len(self.numbers):,} images"
        if not self.grouped:
            return [f"{count} have no near copies and no series of running numbers among them"]
        example = ""
        if len(self.series):
            one, other = (names[i] for i in self.series[0])
            example = f", such as {one} + {other}{_numbers_of(one, other)}"
        found = [f"{count} are {self.numbers.max() + 1:,} groups{example}"]
        if len(self.copies):
            one, other = (names[i] for i in self.copies[0])
            pairs = "pair" if len(self.copies) == 1 else "pairs"
            found.append(f"{len(self.copies):,} {pairs} of near copies, such as {one} + {other}")
        return found


def look_at(
    images: Indexable,
    positions: np.ndarray,
    *,
    names: Sequence[str],
    labels: np.ndarray,
    size_of: Callable[[int], Size],
) -> Images:
    """Return what groups are found by, of the images at ``positions`` (N,).

    Args:
        images: images of the source by position.
        positions: positions of the images to look at.
        names: name of each image of the source.
        labels: class number of each image of the source.
        size_of: returns the width and height of the image at a position.
    """
    vectors = standardised(descriptors(images, positions))
    signs = vectors > np.median(vectors, axis=0) if len(vectors) else vectors > 0
    return Images(
        names=[names[i] for i in positions],
        labels=labels[positions],
        vectors=vectors,
        signs=signs,
        sizes=np.array([size_of(int(i)) for i in positions]).reshape(-1, 2),
    )


def find(images: Images) -> Found:
    """Return the groups that show among ``images``."""
    copies = near_copies(images.vectors, images.signs)
    numbered = [pairs for order in _orders(images.names) for pairs in _series(images, order)]
    series = _without_chains(images, np.unique(np.concatenate([_NONE, *numbered]), axis=0))
    numbers = _numbered(len(images.names), np.concatenate([copies, series]))
    return Found(numbers, _most_similar_first(images, copies), _most_similar_first(images, series))


def _orders(names: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield the images whose names differ in their numbers alone, in the order of each of these numbers.

    Names are compared with their folders, and without. So numbers count within a folder, and across folders.
    """
    seen = set()
    for texts in (names, [name.rpartition("/")[2] for name in names]):
        forms: dict[tuple[str, ...], list[int]] = defaultdict(list)
        parts = [_DIGITS.split(text) for text in texts]
        for position, pieces in enumerate(parts):
            forms[tuple(pieces[::2])].append(position)
        for members in forms.values():
            if len(members) < FEWEST:
                continue
            numbers = np.array([[float(n) for n in parts[i][1::2]] for i in members])
            for column in np.flatnonzero((numbers != numbers[:1]).any(axis=0)):
                keys = [numbers[:, c] for c in range(numbers.shape[1] - 1, -1, -1)]
                order = np.array(members)[np.lexsort([*keys, numbers[:, column]])]
                if order.tobytes() not in seen:
                    seen.add(order.tobytes())
                    yield order


def _series(images: Images, order: np.ndarray) -> Iterator[Pairs]:
    """Yield the pairs of close numbers in ``order`` that look alike, by the false discovery rate.

    Source:
        Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57(1).
    """
    close = _alike_in_size(images, _pairs(order, range(1, CLOSE + 1)))
    far = _alike_in_size(images, _pairs(order, range(FAR[0], min(FAR[1], len(order) - 1) + 1)))
    far = far[images.labels[far[:, 0]] == images.labels[far[:, 1]]]  # of one class, which are more alike
    far = far[:: -(-len(far) // MOST_FAR) or 1]
    if len(far) < FEWEST or not len(close):
        return
    background, similar = np.sort(_similarity(images, far)), _similarity(images, close)
    above = len(background) - np.searchsorted(background, similar, side="left")
    chance = (above + 1) / (len(background) + 1)
    ranked = np.sort(chance)
    kept = np.flatnonzero(ranked <= FALSE_DISCOVERIES * np.arange(1, len(ranked) + 1) / len(ranked))
    if len(kept):
        chosen = (chance <= ranked[kept[-1]]) & (similar >= LEAST_SIMILARITY)
        yield np.sort(close[chosen], axis=1)


def _pairs(order: np.ndarray, apart: range) -> Pairs:
    """Return the pairs of images that lie so many places apart in ``order``."""
    made = [np.stack([order[:-step], order[step:]], axis=1) for step in apart if step < len(order)]
    return np.concatenate([_NONE, *made])


def _alike_in_size(images: Images, pairs: Pairs) -> Pairs:
    one, other = images.sizes[pairs[:, 0]], images.sizes[pairs[:, 1]]
    alike: Pairs = pairs[(np.abs(one - other) <= SIZE_SHARE * np.maximum(one, other)).all(axis=1)]
    return alike


def _similarity(images: Images, pairs: Pairs) -> np.ndarray:
    vectors, rows = images.vectors, 2**16
    parts = [pairs[start : start + rows] for start in range(0, len(pairs), rows)]
    return np.concatenate([np.einsum("ij,ij->i", vectors[p[:, 0]], vectors[p[:, 1]]) for p in parts] or [np.empty(0)])


def _without_chains(images: Images, pairs: Pairs) -> Pairs:
    """Return ``pairs`` without those of large groups whose ends do not look alike: a slow change, and no part."""
    numbers = _numbered(len(images.names), pairs)
    large = np.flatnonzero(np.bincount(numbers) > CHAIN)
    chains = []
    for number in large:
        members = np.flatnonzero(numbers == number)
        similar = images.vectors[members] @ images.vectors[members].T
        if np.median(similar) < LEAST_SIMILARITY:
            chains.append(number)
    return pairs[~np.isin(numbers[pairs[:, 0]], chains)] if chains else pairs


def _numbered(count: int, pairs: Pairs) -> np.ndarray:
    """Return the group of each of ``count`` images that ``pairs`` connect, numbered in order of first appearance."""
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    _, first, numbers = np.unique(component, return_index=True, return_inverse=True)
    made: np.ndarray = np.argsort(np.argsort(first))[numbers]
    return made


def _most_similar_first(images: Images, pairs: Pairs) -> Pairs:
    return pairs[np.argsort(-_similarity(images, pairs), kind="stable")]


def _numbers_of(one: str, other: str) -> str:
    """Return the last number in which two names differ, as " (numbers 12 and 40)"; empty if there is none."""
    pieces = zip(_DIGITS.findall(one), _DIGITS.findall(other), strict=False)
    differing = [pair for pair in pieces if pair[0] != pair[1]]
    return f" (numbers {' and '.join(differing[-1])})" if differing else ""
