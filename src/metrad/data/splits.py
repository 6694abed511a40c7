"""From labels, roles and a seed to disjoint sets of images: a pure function of arrays."""

from dataclasses import dataclass

import numpy as np

from metrad.errors import InputError

ROLES = ("reference", "normal", "calibration", "test_normal", "test_anomalous")
Size = int | float | None


@dataclass(frozen=True)
class Pool:
    """The images that can be drawn from, in the order of the source.

    Attributes:
        labels: class of each image, (N,) integers.
        content: equal numbers for images of identical content, (N,) integers.
        usable: False for images to leave out, (N,) booleans.
        in_test_part: True for images of the source's own test part, (N,) booleans; None if it has no such part.
    """

    labels: np.ndarray
    content: np.ndarray
    usable: np.ndarray
    in_test_part: np.ndarray | None


@dataclass(frozen=True)
class Classes:
    """The classes of each role, as class numbers; no class stands in two of them."""

    reference: tuple[int, ...]
    normal: tuple[int, ...]
    anomalous: tuple[int, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        """The classes the head is trained on, in the order of its labels: reference first, then normal."""
        return self.reference + self.normal


@dataclass(frozen=True)
class Split:
    """Which images play which role.

    Attributes:
        indices: for each of ``ROLES``, the positions of its images in the source, rising.
        copies_left_out: images of the roles' classes left out because another of identical content was kept.
    """

    indices: dict[str, np.ndarray]
    copies_left_out: int


def draw(pool: Pool, classes: Classes, sizes: dict[str, Size], *, test_share: float, seed: int) -> Split:
    """Draw the five roles.

    Reference, normal and calibration images come from the training part of the source, the test roles from its test
    part. Where the source has none, ``test_share`` of each normal class and all of each anomalous class make one. Of
    images with identical content one is kept, one of the test part if there is one. A role of several classes is
    shared out in proportion to what each class has.

    Args:
        pool: the images.
        classes: the classes of each role.
        sizes: for each of ``ROLES`` a count, a fraction in (0, 1] of the part's images of those classes, or None for
            all that are left. That of the reference role counts only if it has classes.
        test_share: share of the normal images that become the test part of a source without one, in (0, 1).
        seed: the same seed gives the same split.

    Raises:
        InputError: a size asks for more images than there are, or leaves a role that must not be empty without any.
    """
    kept = _one_of_each_content(pool, classes)
    train, test = _parts(pool, kept, classes, test_share, seed)
    wanted = {
        "reference": (train, classes.reference, ("reference",)),
        "normal": (train, classes.normal, ("normal", "calibration")),
        "test_normal": (test, classes.normal, ("test_normal",)),
        "test_anomalous": (test, classes.anomalous, ("test_anomalous",)),
    }
    sizes = sizes if classes.reference else {**sizes, "reference": 0}
    indices: dict[str, np.ndarray] = {}
    for part, members, roles in wanted.values():
        by_class = [part[pool.labels[part] == c] for c in members]
        indices |= _share_out(by_class, {role: sizes[role] for role in roles}, seed, members)
    for role in ("normal", "test_normal", "test_anomalous"):
        if not len(indices[role]):
            raise InputError(f"dataset.sizes.{role}={sizes[role]} leaves no images for this role; at least 1 is needed")
    candidates = int((pool.usable & np.isin(pool.labels, [*classes.seen, *classes.anomalous])).sum())
    return Split({role: indices[role] for role in ROLES}, candidates - len(kept))


def hold_out(
    split: Split, labels: np.ndarray, classes: Classes, held_out: int, *, share: float, seed: int
) -> tuple[Split, Classes]:
    """Let a reference class stand in for the anomalous one, with no image but those that ``split`` trains on.

    The images of that class leave the reference role and become the anomalous test images, and a share of the normal
    images become the normal ones. There are no calibration images; calibration and test images of ``split`` play no
    part.

    Args:
        split: what ``draw`` drew.
        labels: class of each image of the source, (N,) integers.
        classes: the classes of each role in ``split``.
        held_out: the number of the reference class.
        share: of the normal images that are tested on, in (0, 1); at least one of them.
        seed: draws these.

    Raises:
        InputError: the class has no reference images, or there are fewer than two normal ones.
    """
    reference, normal = split.indices["reference"], split.indices["normal"]
    held = labels[reference] == held_out
    if not held.any():
        raise InputError(f"class {held_out} has no reference images that could stand in for anomalous ones")
    if len(normal) < 2:
        raise InputError("there must be at least 2 normal images, one of them to test on")
    sizes: dict[str, Size] = {"test_normal": to_test_on(len(normal), share), "normal": None}
    by_class = [normal[labels[normal] == c] for c in classes.normal]
    indices = {
        "reference": reference[~held],
        "calibration": np.empty(0, dtype=np.int64),
        "test_anomalous": reference[held],
        **_share_out(by_class, sizes, seed, classes.normal, purpose="hold out"),
    }
    left = tuple(c for c in classes.reference if c != held_out)
    return Split({role: indices[role] for role in ROLES}, 0), Classes(left, classes.normal, (held_out,))


def to_test_on(normal: int, share: float) -> int:
    """Return how many of so many normal images ``hold_out`` tests on: at least 1, and not all where there are 2."""
    return max(1, min(round(share * normal), normal - 1))


def head_labels(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """Return for each class number in ``labels`` its place among ``classes.seen``; -1 for a class not seen."""
    place = {c: i for i, c in enumerate(classes.seen)}
    return np.array([place.get(int(c), -1) for c in labels], dtype=np.int64)


def _one_of_each_content(pool: Pool, classes: Classes) -> np.ndarray:
    candidate = np.flatnonzero(pool.usable & np.isin(pool.labels, [*classes.seen, *classes.anomalous]))
    if pool.in_test_part is not None:
        candidate = candidate[np.argsort(~pool.in_test_part[candidate], kind="stable")]
    _, first = np.unique(pool.content[candidate], return_index=True)
    return np.sort(candidate[first])


def _parts(
    pool: Pool, kept: np.ndarray, classes: Classes, test_share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if pool.in_test_part is not None:
        in_test = pool.in_test_part[kept]
        return kept[~in_test], kept[in_test]
    test = [kept[np.isin(pool.labels[kept], classes.anomalous)]]
    for c in classes.normal:
        images = _shuffled(kept[pool.labels[kept] == c], seed, c, "part")
        test.append(images[: round(test_share * len(images))])
    test_part = np.sort(np.concatenate(test))
    return np.setdiff1d(kept, test_part), test_part


def _shuffled(images: np.ndarray, seed: int, label: int, purpose: str) -> np.ndarray:
    # One stream a class and purpose, so that changing one role's size does not change another role's images.
    return np.random.default_rng([seed, label, *purpose.encode()]).permutation(images)


def _share_out(
    by_class: list[np.ndarray],
    sizes: dict[str, Size],
    seed: int,
    members: tuple[int, ...],
    *,
    purpose: str = "draw",
) -> dict[str, np.ndarray]:
    """Cut the shuffled images of each class into consecutive pieces, one a role."""
    available = np.array([len(images) for images in by_class], dtype=np.int64)
    counts = _counts(sizes, int(available.sum()))
    shuffled = [_shuffled(images, seed, c, purpose) for images, c in zip(by_class, members, strict=True)]
    taken = np.zeros(len(by_class), dtype=np.int64)
    drawn = {}
    for role, count in counts.items():
        share = _proportional(count, available - taken)
        pieces = [images[t : t + n] for images, t, n in zip(shuffled, taken, share, strict=True)]
        drawn[role] = np.sort(np.concatenate([*pieces, np.empty(0, dtype=np.int64)])).astype(np.int64)
        taken += share
    return drawn


def _counts(sizes: dict[str, Size], available: int) -> dict[str, int]:
    """Turn counts, fractions and None into counts that fit, roles with None last."""
    open_roles = [role for role, size in sizes.items() if size is None]
    if len(open_roles) > 1:
        raise InputError(f"only one of dataset.sizes.{' and dataset.sizes.'.join(open_roles)} can be null (all others)")
    counts: dict[str, int] = {}
    left = available
    for role, size in sizes.items():
        if size is None:
            continue
        if isinstance(size, float) and not 0 <= size <= 1:
            raise InputError(f"dataset.sizes.{role}={size}: a fraction must lie in 0 to 1; write a count without a dot")
        count = round(size * available) if isinstance(size, float) else size
        if isinstance(size, float) and count == left + 1:
            count = left  # rounding up two fractions that share everything can ask for one image too many
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
    """Share ``count`` out over classes in proportion to ``available``, by largest remainder."""
    if not count:
        return np.zeros_like(available)
    share, remainder = np.divmod(count * available, available.sum())
    largest_first = np.argsort(-remainder, kind="stable")
    share[largest_first[: count - int(share.sum())]] += 1
    return share
