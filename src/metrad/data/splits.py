"""Splits: disjoint sets of images for each role, drawn from labels, classes and a seed by pure functions.

The images of a group, such as several photographs of one part, stay on one side: training (reference and normal),
calibration, or test. An image whose group stands on another side is left out. Without groups, each image is alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from metrad.data.duplicates import one_of_each
from metrad.data.sizing import FEWEST, Automatic
from metrad.errors import InputError

ROLES = ("reference", "normal", "calibration", "test_normal", "test_anomalous")
Plain = int | float | None
Size = Plain | Automatic
Share = float | Automatic


@dataclass(frozen=True)
class Pool:
    """The images that can be drawn, in the order of the source.

    Attributes:
        labels: class number of each image, (N,) integers.
        content: content number of each image, equal for identical images, (N,) integers.
        usable: whether each image may be drawn, (N,) booleans.
        in_test_part: True for images of the source's own test part, (N,) booleans; None if it has none.
        groups: group number of each image, (N,) integers; None if each image is a group of its own.
    """

    labels: np.ndarray
    content: np.ndarray
    usable: np.ndarray
    in_test_part: np.ndarray | None
    groups: np.ndarray | None = None

    @property
    def group_numbers(self) -> np.ndarray:
        """Group number of each image, (N,)."""
        return np.arange(len(self.labels)) if self.groups is None else self.groups


@dataclass(frozen=True)
class Classes:
    """The class numbers of each role; no class has two roles."""

    reference: tuple[int, ...]
    normal: tuple[int, ...]
    anomalous: tuple[int, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        """The classes that the head is trained on, in the order of its labels: reference, then normal."""
        return self.reference + self.normal


@dataclass(frozen=True)
class Split:
    """The images of each role.

    Attributes:
        indices: for each of ``ROLES``, the positions of its images in the source, rising.
        copies_left_out: number of images left out because an image of identical content was kept; counted over the
            classes that have a role.
        copies: for each copy that is left out the image kept in its place, both as positions in the source.
        left_out_for_groups: number of images left out because their group stands on another side.
    """

    indices: dict[str, np.ndarray]
    copies_left_out: int
    copies: dict[int, int] = field(default_factory=dict)
    left_out_for_groups: int = 0


def draw(pool: Pool, classes: Classes, sizes: dict[str, Size], *, test_share: Share, seed: int) -> Split:
    """Draw the images of the five roles.

    Reference, normal and calibration images come from the training part of the source, test images from its test part.
    If the source has none, ``test_share`` of each normal class and all anomalous images form a test part. Of images
    with identical content only one is kept, preferably from the test part. The classes of a role contribute in
    proportion to the images they have.

    Groups are dealt out whole. Normal images decide: the groups of some become test groups, those of others training or
    calibration groups, by chance alone, so that calibration and test images stay alike. Anomalous images of a training
    group and reference images of a test group are left out. A role can then get fewer images than its size, since it
    ends where a group ends. In a source with a test part of its own, that part keeps a group, as it keeps a copy.

    Args:
        pool: the images.
        classes: the classes of each role.
        sizes: for each of ``ROLES`` a count, a fraction in (0, 1] of the images of its classes in its part, or None for
            all remaining images. The calibration role can be sized automatically. The sizes of the reference and of
            the anomalous role are ignored if these have no classes.
        test_share: share of the normal images that form the test part if the source has none, in (0, 1), or an
            automatic size.
        seed: the same seed gives the same split.

    Raises:
        InputError: a size asks for more images than there are, or leaves the normal role or a test role empty; or
            there are too few groups for automatic sizes.
    """
    try:
        return _drawn(pool, classes, sizes, test_share, seed)
    except InputError as error:
        if pool.groups is None:
            raise
        raise InputError(f"{error}. {_group_counts(pool, classes)}") from error


def _group_counts(pool: Pool, classes: Classes) -> str:
    """Return a sentence on the groups, as the cause of too few images for a role."""
    labels, groups = pool.labels, pool.group_numbers
    normal, anomalous = (groups[np.isin(labels, members)] for members in (classes.normal, classes.anomalous))
    shared = np.isin(anomalous, normal).sum()
    return (
        f"dataset.group makes {len(np.unique(normal))} groups of the {len(normal)} normal images, and "
        f"{shared} of the {len(anomalous)} anomalous images are in one of them. A group is never divided, and goes "
        "across classes: if names of parts begin anew in each class, let the pattern contain the class"
    )


def different_images(pool: Pool, classes: Classes) -> tuple[np.ndarray, dict[int, int]]:
    """Return the positions, rising, of the usable images that have a role, one of each content, and their copies.

    The copies are those that ``Split.copies`` describes.
    """
    candidates = np.flatnonzero(pool.usable & np.isin(pool.labels, [*classes.seen, *classes.anomalous]))
    return one_of_each(pool.content, candidates, pool.in_test_part)


def _drawn(pool: Pool, classes: Classes, sizes: dict[str, Size], test_share: Share, seed: int) -> Split:
    kept, copies = different_images(pool, classes)
    groups = pool.group_numbers
    if any(isinstance(size, Automatic) for size in (test_share, sizes["calibration"])):
        _require_enough(len(np.unique(groups[kept[np.isin(pool.labels[kept], classes.normal)]])))
    train, test = _parts(pool, kept, classes, test_share, seed)
    unasked = {"reference": classes.reference, "test_anomalous": classes.anomalous}
    sizes = {**sizes, **{role: 0 for role, members in unasked.items() if not members}}
    indices: dict[str, np.ndarray] = {}
    for part, members, roles in (
        (train, classes.normal, ("normal", "calibration")),
        (train, classes.reference, ("reference",)),
        (test, classes.normal, ("test_normal",)),
        (test, classes.anomalous, ("test_anomalous",)),
    ):
        apart = _apart(part, groups, indices["calibration"]) if "reference" in roles else part
        by_class = [apart[pool.labels[apart] == c] for c in members]
        indices |= _share_out(by_class, {role: sizes[role] for role in roles}, seed, members, groups)
    shares = None if pool.in_test_part is not None else test_share
    needed = {"normal": classes.normal, "test_normal": classes.normal, "test_anomalous": classes.anomalous}
    for role, members in needed.items():
        if members and not len(indices[role]):
            raise InputError(_none_left(role, sizes, np.isin(pool.labels[kept], members).sum(), shares))
    return Split({role: indices[role] for role in ROLES}, len(copies), copies, len(kept) - len(train) - len(test))


def _require_enough(groups: int) -> None:
    if groups < FEWEST:
        raise InputError(
            f"{groups} different normal images are too few for dataset.test_share=null and "
            f"dataset.sizes.calibration=auto, which take at least {FEWEST} images, or groups of images; add some, or "
            "give numbers, as in dataset.test_share=0.2 dataset.sizes.calibration=0"
        )


def _none_left(role: str, sizes: dict[str, Size], images: int, test_share: Share | None) -> str:
    """Return the line on a role without images: the cause, and what to change.

    Args:
        role: the role.
        sizes: the sizes asked for.
        images: number of different images of the role's classes, in both parts.
        test_share: share of the normal images set aside for testing; None if the source has its own test part.
    """
    size = "null" if sizes[role] is None else sizes[role]
    line = f"dataset.sizes.{role}={size} leaves none of {images} images for this role, and at least 1 is needed"
    if sizes[role] is not None:
        return f"{line}; raise it, or add images"
    if role == "test_anomalous":
        return f"{line}; add images of the anomalous classes, or measure without any: dataset.anomalous=[]"
    if role == "normal":
        share = "" if test_share is None else f"dataset.test_share={test_share} and "
        return (
            f"{line}; {share}dataset.sizes.calibration={sizes['calibration']} take the others: lower them or add images"
        )
    if test_share is None or isinstance(test_share, Automatic):
        return f"{line}: the test part has no images of the normal classes; move some there"
    enough = next(count for count in range(1, 10**6) if round(test_share * count))
    return f"{line}: dataset.test_share={test_share} takes none from so few; raise it, or add images ({enough} suffice)"


def hold_out(
    split: Split, pool: Pool, classes: Classes, held_out: int, *, share: float, seed: int
) -> tuple[Split, Classes]:
    """Return the split of a selection, in which the stand-in ``held_out`` plays anomalous.

    The reference images of the stand-in become the anomalous test images. A share of the normal images become the
    normal test images. There are no calibration images. Test and calibration images of ``split`` are not used. Groups
    stay on one side, as in ``draw``.

    Args:
        split: a split from ``draw``.
        pool: the images that ``split`` was drawn from.
        classes: the classes of each role in ``split``.
        held_out: class number of the stand-in, a reference class.
        share: share of the normal images to test on, in (0, 1); at least one image is tested on.
        seed: seed of the choice of these images.

    Raises:
        InputError: the stand-in has no reference images, or there are fewer than two normal images.
    """
    reference, normal = split.indices["reference"], split.indices["normal"]
    labels, groups = pool.labels, pool.group_numbers
    held = labels[reference] == held_out
    if not held.any():
        raise InputError(f"class {held_out} has no reference images, so it cannot play anomalous; choose another class")
    if len(normal) < 2:
        raise InputError(f"a selection needs at least 2 normal images, one of them to test on, got {len(normal)}")
    sizes: dict[str, Size] = {"test_normal": to_test_on(len(normal), share), "normal": None}
    by_class = [normal[labels[normal] == c] for c in classes.normal]
    drawn = _share_out(by_class, sizes, seed, classes.normal, groups, purpose="hold out")
    anomalous = _apart(reference[held], groups, drawn["normal"])
    tested = np.concatenate([drawn["test_normal"], anomalous])
    if not len(drawn["normal"]) or not len(anomalous):
        raise InputError(
            f"dataset.group leaves no images to hold out class {held_out}: its groups are those of the normal images; "
            "choose another class in selection.classes"
        )
    indices = {
        **drawn,
        "reference": _apart(reference[~held], groups, tested),
        "calibration": np.empty(0, dtype=np.int64),
        "test_anomalous": anomalous,
    }
    left = tuple(c for c in classes.reference if c != held_out)
    return Split({role: indices[role] for role in ROLES}, 0), Classes(left, classes.normal, (held_out,))


@dataclass(frozen=True)
class SyntheticFold:
    """Which fold is held out, and what plays anomalous.

    Attributes:
        number: number of the fold, from 0.
        folds: number of folds.
        kinds: kinds of synthetic defect; each held-out image has each of them once.
    """

    number: int
    folds: int
    kinds: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the fold in tables and messages."""
        return f"fold {self.number + 1} of {self.folds}"


def fold_out(split: Split, pool: Pool, *, number: int, folds: int, seed: int) -> Split:
    """Return the split of one of several folds, which share the groups of the normal images among them.

    The normal images of the fold become the normal test images. There are no calibration and no anomalous images; those
    of ``split``, and its test images, are not used.

    Args:
        split: a split from ``draw``.
        pool: the images that ``split`` was drawn from.
        number: number of the fold, from 0.
        folds: number of folds.
        seed: seed of the order in which groups are dealt out.

    Raises:
        InputError: there are fewer groups of normal images than folds.
    """
    normal, groups = split.indices["normal"], pool.group_numbers
    there = np.unique(groups[normal])
    if len(there) < folds:
        counted = "normal images" if pool.groups is None else "groups of normal images"
        raise InputError(f"selection.folds={folds} takes as many {counted}, and there are {len(there)}; lower it")
    held = np.random.default_rng([seed, len(there)]).permutation(there)[number::folds]
    tested = np.isin(groups[normal], held)
    nothing = np.empty(0, dtype=np.int64)
    indices = {
        "reference": _apart(split.indices["reference"], groups, normal[tested]),
        "normal": normal[~tested],
        "calibration": nothing,
        "test_normal": normal[tested],
        "test_anomalous": nothing,
    }
    return Split({role: indices[role] for role in ROLES}, 0)


def to_test_on(normal: int, share: float) -> int:
    """Return the number of ``normal`` images that ``hold_out`` tests on: at least 1, and not all if there are 2."""
    return max(1, min(round(share * normal), normal - 1))


def head_labels(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """Return the position in ``classes.seen`` of each class number in ``labels``; -1 for a class not seen."""
    place = {c: i for i, c in enumerate(classes.seen)}
    return np.array([place.get(int(c), -1) for c in labels], dtype=np.int64)


def _parts(
    pool: Pool, kept: np.ndarray, classes: Classes, test_share: Share, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training part and the test part, rising and without a common group."""
    labels, groups = pool.labels, pool.group_numbers
    if pool.in_test_part is not None:
        in_test = pool.in_test_part[kept]
        tested = in_test & np.isin(labels[kept], [*classes.normal, *classes.anomalous])
        return _apart(kept[~in_test], groups, kept[tested]), kept[in_test]
    normal = kept[np.isin(labels[kept], classes.normal)]
    drawn = []
    for c in classes.normal:
        images = _shuffled(normal[labels[normal] == c], seed, c, "part", groups)
        drawn.append(images[: _test_count(test_share, images, groups)])
    to_test = np.isin(groups[normal], groups[np.concatenate(drawn)])
    anomalous = _apart(kept[np.isin(labels[kept], classes.anomalous)], groups, normal[~to_test])
    test = np.sort(np.concatenate([normal[to_test], anomalous]))
    seen = kept[np.isin(labels[kept], classes.seen)]
    return _apart(seen, groups, test), test


def _test_count(share: Share, shuffled: np.ndarray, groups: np.ndarray) -> int:
    """Return how many images, from the front of the ``shuffled`` ones of a class, form the test part."""
    if not isinstance(share, Automatic):
        return round(share * len(shuffled))
    return _images_in(share.to_test_on(len(np.unique(groups[shuffled]))), shuffled, groups)


def _images_in(count: int, shuffled: np.ndarray, groups: np.ndarray) -> int:
    """Return how many images make up the first ``count`` groups of ``shuffled``, where a group's stand together."""
    numbers = groups[shuffled]
    begins = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])) if len(numbers) else numbers
    return int(begins[count]) if count < len(begins) else len(numbers)


def _apart(images: np.ndarray, groups: np.ndarray, others: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return those of ``images`` whose group has none of ``others``; all three are positions or group numbers (N,)."""
    return images[~np.isin(groups[images], groups[np.asarray(others, dtype=np.int64)])]


def _shuffled(images: np.ndarray, seed: int, label: int, purpose: str, groups: np.ndarray) -> np.ndarray:
    """Return ``images`` of class ``label`` in random order, the images of a group next to each other."""
    # One random stream per class and purpose, so that changing one role's size does not change another's images.
    images = np.random.default_rng([seed, label, *purpose.encode()]).permutation(images)
    _, first, numbers = np.unique(groups[images], return_index=True, return_inverse=True)
    return images[np.argsort(first[numbers], kind="stable")]


def _share_out(
    by_class: list[np.ndarray],
    sizes: dict[str, Size],
    seed: int,
    members: tuple[int, ...],
    groups: np.ndarray,
    *,
    purpose: str = "draw",
) -> dict[str, np.ndarray]:
    """Cut the shuffled images of each class into consecutive pieces, one per role, without a common group."""
    shuffled = [_shuffled(images, seed, c, purpose, groups) for images, c in zip(by_class, members, strict=True)]
    automatic = {
        role: _automatic_shares(size, shuffled, groups) for role, size in sizes.items() if isinstance(size, Automatic)
    }
    plain: dict[str, Plain] = {role: int(share.sum()) for role, share in automatic.items()}
    plain |= {role: size for role, size in sizes.items() if not isinstance(size, Automatic)}
    counts = _counts(plain, sum(map(len, by_class)))
    drawn: dict[str, np.ndarray] = {}
    for role, count in counts.items():
        share = automatic.get(role, _proportional(count, _lengths(shuffled)))
        pieces = [images[:n] for images, n in zip(shuffled, share, strict=True)]
        drawn[role] = np.sort(np.concatenate([*pieces, np.empty(0, dtype=np.int64)])).astype(np.int64)
        shuffled = [_apart(images[n:], groups, drawn[role]) for images, n in zip(shuffled, share, strict=True)]
    return drawn


def _automatic_shares(size: Automatic, shuffled: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
    """Return how many images, from the front of the shuffled ones of each class, an automatic size takes."""
    there = np.array([len(np.unique(groups[images])) for images in shuffled], dtype=np.int64)
    wanted = _proportional(size.to_calibrate_on(int(there.sum())), there)
    each = zip(wanted.tolist(), shuffled, strict=True)
    return np.array([_images_in(count, images, groups) for count, images in each], dtype=np.int64)


def _lengths(by_class: list[np.ndarray]) -> np.ndarray:
    return np.array([len(images) for images in by_class], dtype=np.int64)


def _counts(sizes: dict[str, Plain], available: int) -> dict[str, int]:
    """Turn counts, fractions and None into counts that fit; None becomes the number of remaining images."""
    open_roles = [role for role, size in sizes.items() if size is None]
    if len(open_roles) > 1:
        raise InputError(
            f"only one of dataset.sizes.{' and dataset.sizes.'.join(open_roles)} can be null (all the rest)"
        )
    counts: dict[str, int] = {}
    left = available
    for role, size in sizes.items():
        if size is None:
            continue
        if isinstance(size, float) and not 0 <= size <= 1:
            raise InputError(
                f"dataset.sizes.{role}={size}: a fraction must lie in 0 to 1, and a count has no decimal point"
            )
        count = round(size * available) if isinstance(size, float) else size
        if isinstance(size, float) and count == left + 1:
            count = left  # two fractions that add up to 1 can both be rounded up, to one image too many
        if not 0 <= count <= left:
            others = available - left
            taken = f", {others} of them taken by {' and '.join(counts)}" if others else ""
            raise InputError(
                f"dataset.sizes.{role}={size} asks for too many images: there are {available}{taken}; "
                f"lower it, or use a fraction"
                if count > left
                else f"dataset.sizes.{role}={size} must not be negative"
            )
        counts[role] = count
        left -= count
    return counts | dict.fromkeys(open_roles, left)


def _proportional(count: int, available: np.ndarray) -> np.ndarray:
    """Divide ``count``, or all if there are fewer, among classes in proportion to ``available``.

    The largest-remainder method decides about the rest.
    """
    count = min(count, int(available.sum()))
    if not count:
        return np.zeros_like(available)
    share, remainder = np.divmod(count * available, available.sum())
    largest_first = np.argsort(-remainder, kind="stable")
    share[largest_first[: count - int(share.sum())]] += 1
    return share
