"""Roles of classes: the user's class names, resolved to class numbers."""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metrad.data.good_folder import is_good
from metrad.data.groups import Pattern
from metrad.data.splits import Classes, Share, Size, SyntheticFold
from metrad.errors import InputError
from metrad.quoting import setting

ClassNames = str | int | Sequence[str | int]
HeldOut = tuple[str, float] | SyntheticFold
PART_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


@dataclass(frozen=True)
class Roles:
    """The user's choice of classes and sizes.

    Attributes:
        normal: classes of the normal images, by name or number; None for all remaining classes. Only one of ``normal``,
            ``anomalous`` and ``reference`` can be None.
        anomalous: classes of the anomalous test images, possibly none; None as above.
        reference: classes of the reference images, possibly none; None as above.
        sizes: for each role a count, a fraction, or None for all remaining images; an automatic size for calibration.
        test_share: share of the normal images set aside for testing if the source has no test part, or an automatic
            size.
        group: which images are one group, as in ``groups.group_numbers``.
        rotations: train on each image four times, rotated by 0, 90, 180 and 270 degrees; each rotation of a class is a
            class of its own for the head.
        held_out: what plays anomalous in a training of a selection, in place of all calibration and test images: the
            name of a reference class, and the share of the normal images to test on; or a fold of normal images with
            synthetic defects. None outside a selection.
    """

    normal: ClassNames | None
    anomalous: ClassNames | None
    reference: ClassNames | None
    sizes: dict[str, Size]
    test_share: Share
    group: str | Pattern | None = None
    rotations: bool = False
    held_out: HeldOut | None = None


def resolve_classes(roles: Roles, names: list[str], trainable: frozenset[int] | None = None) -> Classes:
    """Return the classes of each role as numbers.

    A number means a class by its position in ``names``, or by its name if all class names are numbers. Zeros in front
    are part of a name.

    Args:
        roles: the user's choice.
        names: class names by label.
        trainable: numbers of the classes that have training images; None for all.

    Raises:
        InputError: a class does not exist, has two roles or has no training images; the message names it.
    """
    trainable = frozenset(range(len(names))) if trainable is None else trainable
    wanted = {"normal": roles.normal, "anomalous": roles.anomalous, "reference": roles.reference}
    numbers = {
        role: class_numbers(f"dataset.{role}", chosen, names) for role, chosen in wanted.items() if chosen is not None
    }
    left = [i for i in range(len(names)) if not any(i in chosen for chosen in numbers.values())]
    for role in wanted.keys() - numbers.keys():
        numbers[role] = tuple(i for i in left if role == "anomalous" or i in trainable)
    normal, anomalous, reference = (numbers[role] for role in wanted)
    if not normal:
        raise InputError(f"dataset.normal names no class; there are {', '.join(names)}")
    if not anomalous and roles.anomalous is None:
        raise InputError(
            f"dataset.anomalous names no class, since every class has a role; there are {', '.join(names)}; without "
            "images of defects, set dataset.anomalous=[]"
        )
    everyone = [*reference, *normal, *anomalous]
    twice = sorted({names[i] for i in everyone if everyone.count(i) > 1})
    if twice:
        raise InputError(
            f"dataset: {', '.join(twice)} plays two roles; list each class in one of reference, normal and anomalous"
        )
    untrainable = [names[i] for i in (*reference, *normal) if i not in trainable]
    if untrainable:
        raise InputError(f"dataset: {', '.join(untrainable)} has no training images, so it can only be anomalous")
    return Classes(reference, normal, anomalous)


def class_numbers(key: str, wanted: ClassNames, names: list[str]) -> tuple[int, ...]:
    """Return the numbers of the classes that the setting ``key`` lists by name, pattern or number.

    In a pattern, ``*`` stands for any text, as in ``mnist/*``. A class of exactly this name goes before a pattern.

    Raises:
        InputError: a class does not exist or is listed twice; the message names the class and ``key``.
    """
    chosen = [wanted] if isinstance(wanted, str | int) else list(wanted)
    numbers: list[int] = []
    for number in (number for item in chosen for number in _numbers_of(key, item, names)):
        if number in numbers:
            raise InputError(f"{key} lists {names[number]} twice; remove the duplicate")
        numbers.append(number)
    return tuple(numbers)


def _numbers_of(key: str, item: str | int, names: list[str]) -> Iterator[int]:
    """Yield the number of the class ``item``, or of each class that matches the pattern ``item``."""
    if not isinstance(item, str) or "*" not in item or _composed(item) in map(_composed, names):
        yield _class_number(key, item, names)
        return
    pattern = re.compile(".*".join(map(re.escape, _composed(item).split("*"))), re.DOTALL)
    matching = [i for i, name in enumerate(names) if pattern.fullmatch(_composed(name))]
    if not matching:
        raise InputError(f"{key}: no class matches {item!r}; there are {', '.join(names)}")
    yield from matching


def _class_number(key: str, item: str | int, names: list[str]) -> int:
    """Return the number of one class. A letter with an accent is the same whether it is written as one sign or two."""
    found = [i for i, name in enumerate(names) if _composed(name) == _composed(str(item))]
    if len(found) > 1:
        raise InputError(f"{key}: {len(found)} folders are called {item} and encode its accents differently; join them")
    if found:
        return found[0]
    decimal = all(name.isdecimal() for name in names)
    if isinstance(item, int) and not decimal and 0 <= item < len(names):
        return item
    padded = [name for name in names if decimal and isinstance(item, int) and int(name) == item]
    if padded:
        raise InputError(
            f"{key}: the number {item} is no class, but '{padded[0]}' is; a name with zeros in front needs quotes, "
            f"since YAML reads 010 as 8: {setting(key, padded)}"
        )
    line = f"{key}: no class {item!r}; there are {', '.join(names)}"
    if {name.lower() for name in names} <= PART_NAMES:
        line += (
            ". These are parts of a dataset and not classes: metrad knows the parts train and test, and val beside "
            "train, each with one folder a class; rename the folders, or set dataset.source.root to one part"
        )
    meant = _meant(str(item), names)
    raise InputError(f"{line}; did you mean {setting(key, [meant])}?" if meant else line)


def _meant(item: str, names: list[str]) -> str | None:
    """Return the class that ``item`` probably means: a name for good parts, or a similar name; None for none."""
    good = [name for name in names if is_good(name) and is_good(item)]
    close = difflib.get_close_matches(item, names, n=1, cutoff=0.75)
    alike = [name for name in names if name.lower() == item.lower()]
    return next(iter([*alike, *good, *close]), None)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
