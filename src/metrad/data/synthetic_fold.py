"""A fold of a selection: held-out normal images, and the same ones with synthetic defects."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metrad.data.arrays import Indexable
from metrad.data.splits import Classes, Pool, Split, SyntheticFold, fold_out
from metrad.data.store import ImageSet
from metrad.data.synthetic_defects import with_defect


class WithDefects:
    """Images by position, with others behind them that have a synthetic defect.

    Position N + k len(held) + i is image ``held[i]`` with a defect of ``kinds[k]``. It is made at each access, and
    depends on nothing but the images, the seed and the kind.

    Args:
        images: N images, (n, height, width, channels) uint8 by an index array.
        count: N.
        held: positions of the images that get defects.
        others: position of the image that patches and textures are cut from, for each of ``held``.
        kinds: kinds of defect.
        seed: seed of the defects.
    """

    def __init__(
        self, images: Indexable, count: int, held: np.ndarray, others: np.ndarray, kinds: Sequence[str], seed: int
    ) -> None:
        self.images, self.count, self.held, self.others, self.kinds = images, count, held, others, tuple(kinds)
        self.seed = seed

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the images at the positions ``index``."""
        made = index >= self.count
        kinds, places = np.divmod(index - self.count, len(self.held))
        found = np.array(self.images[np.where(made, self.held[places], index)])
        others = self.images[self.others[places[made]]]
        for i, kind, other in zip(np.flatnonzero(made), kinds[made], others, strict=True):
            found[i] = defective(found[i], other, self.kinds[kind], [self.seed, int(kind), int(places[i])])
        return found


def defective(image: np.ndarray, other: np.ndarray, kind: str, seed: list[int]) -> np.ndarray:
    """Return ``image`` (height, width, channels) with a defect; for one channel, that of a grey image in colour."""
    if image.shape[2] == 3:
        return with_defect(image, kind, seed, other=other)[0]
    coloured = with_defect(image.repeat(3, axis=2), kind, seed, other=other.repeat(3, axis=2))[0]
    grey: np.ndarray = np.rint(coloured.mean(axis=2, keepdims=True)).astype(np.uint8)
    return grey


def hold_out_fold(
    images: ImageSet, split: Split, pool: Pool, classes: Classes, fold: SyntheticFold, *, seed: int
) -> tuple[ImageSet, Split, Classes]:
    """Return the images, split and classes of a fold.

    The held-out normal images become the normal test images, and the same ones with defects the anomalous ones; each
    kind of defect is a class. There are no calibration images.

    Args:
        images: all images.
        split: a split from ``draw``.
        pool: the images that ``split`` was drawn from, with their groups.
        classes: the classes of each role in ``split``.
        fold: the fold.
        seed: seed of the folds and of the defects.

    Raises:
        InputError: there are fewer groups of normal images than folds.
    """
    left = fold_out(split, pool, number=fold.number, folds=fold.folds, seed=seed)
    held, count = left.indices["test_normal"], len(images.names)
    wrapped = WithDefects(images.images, count, held, _others(held, pool.group_numbers[held]), fold.kinds, seed)
    first = len(images.classes)
    extended = replace(
        images,
        images=wrapped,
        pool=replace(images.pool, labels=np.concatenate([images.pool.labels, _labels(first, fold.kinds, held)])),
        classes=[*images.classes, *fold.kinds],
        names=[*images.names, *(f"{images.names[i]} with {kind}" for kind in fold.kinds for i in held)],
    )
    made = np.arange(count, count + len(fold.kinds) * len(held))
    numbers = tuple(range(first, first + len(fold.kinds)))
    return (
        extended,
        replace(left, indices={**left.indices, "test_anomalous": made}),
        Classes(classes.reference, classes.normal, numbers),
    )


def _labels(first: int, kinds: Sequence[str], held: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(first, first + len(kinds)), len(held))


def _others(held: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return for each of ``held`` the next one of another group; itself if there is none."""
    found = held.copy()
    for i in range(len(held)):
        behind = np.roll(np.arange(len(held)), -i - 1)
        apart = behind[groups[behind] != groups[i]]
        if len(apart):
            found[i] = held[apart[0]]
    return found
