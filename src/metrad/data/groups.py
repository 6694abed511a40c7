"""Groups of images that show the same part, batch, day or patient: one number an image, read from names.

Images of one group resemble each other more than the next part will. So a split keeps a group together, and thresholds
count groups instead of images.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from metrad.errors import InputError

log = logging.getLogger(__name__)

PARENT, AUTO = "parent", "auto"
OWN_GROUP = "group"  # column of a table that says the groups unless ``dataset.group`` does
NUMBER, VIEW = "number", "view"  # named groups of a pattern with a meaning of their own
Size = tuple[int, int]  # width and height of an image in pixels


@dataclass(frozen=True)
class Pattern:
    r"""A regular expression over the path of an image, and what it takes for running numbers to be one group.

    Images whose named groups have equal texts are one group, as with ``(?P<part>\w+)_\d+``. Two names have a meaning
    of their own. ``number`` is a running number: images of one group follow each other in it. ``view`` is a position
    in the series of a part, such as the exposure: it rises within a group.

    Attributes:
        pattern: the regular expression, with at least one named group.
        gap: largest difference of the running numbers of two images that follow each other in a group.
        size: largest difference of the widths and of the heights of these two images, as a share of the larger one;
            None to ignore sizes.
    """

    pattern: str
    gap: int = 1
    size: float | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: a setting cannot be used.
        """
        try:
            names = re.compile(self.pattern).groupindex
        except re.error as error:
            raise InputError(f"dataset.group={self.pattern} is no regular expression ({error})") from error
        if not names:
            raise InputError(
                f"dataset.group={self.pattern} has no named group; write auto, {PARENT}, or "
                r"a pattern such as '(?P<part>\d+)_\d+'"
            )
        if self.gap < 1:
            raise InputError(f"dataset.group.gap must be at least 1, got {self.gap}")
        if self.size is not None and not 0 <= self.size < 1:
            raise InputError(f"dataset.group.size must lie in 0 to 1, 1 excluded, or be null, got {self.size}")


def group_numbers(
    wanted: str | Pattern | None,
    names: Sequence[str],
    *,
    columns: Mapping[str, Sequence[str]],
    size_of: Callable[[int], Size],
) -> np.ndarray:
    """Return the group of each image as a number from 0, (N,), in order of first appearance.

    Args:
        wanted: ``parent`` for the folder of an image, the name of a column, a pattern, or None for a group an image.
            ``auto`` is not known here, since it needs the images: see ``found_groups``.
        names: path of each image below the root of the dataset, with ``/``, or another name.
        columns: further texts of each image by the name of the column, from a manifest.
        size_of: returns the width and height of the image at a position; called only for a pattern with ``size``.

    Raises:
        InputError: there is no such column, or no image matches the pattern.
    """
    if wanted is None:
        return np.arange(len(names))
    if isinstance(wanted, str) and wanted in columns:
        # an empty cell says nothing, so the image is alone
        return _numbered([text or position for position, text in enumerate(columns[wanted])])
    if wanted == PARENT:
        return _numbered([str(PurePosixPath(name).parent) for name in names])
    if isinstance(wanted, str) and columns and "(?P<" not in wanted:
        raise InputError(
            f"dataset.group={wanted} is no column of these images, which have {', '.join(columns)}; write one "
            rf"of these, {PARENT}, or a pattern with a named group such as '(?P<part>\d+)_\d+'"
        )
    pattern = Pattern(wanted) if isinstance(wanted, str) else wanted
    return _by_pattern(pattern, names, size_of)


def _numbered(keys: Sequence[object]) -> np.ndarray:
    places: dict[object, int] = {}
    return np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)


def _by_pattern(pattern: Pattern, names: Sequence[str], size_of: Callable[[int], Size]) -> np.ndarray:
    found = [re.search(pattern.pattern, name) for name in names]
    alone = [name for name, match in zip(names, found, strict=True) if match is None]
    if len(alone) == len(names):
        raise InputError(f"dataset.group={pattern.pattern} matches none of {len(names)} images, such as {names[0]}")
    if alone:
        log.warning(
            "dataset.group matches all but %d of %d images, such as %s; each of these is a group of its own",
            *(len(alone), len(names), alone[0]),
        )
    texts = [None if match is None else match.groupdict() for match in found]
    keys: list[object] = [
        position if text is None else tuple(text[name] for name in text if name not in (NUMBER, VIEW))
        for position, text in enumerate(texts)
    ]
    if any(text is not None and NUMBER in text for text in texts):
        keys = _in_series(keys, [text or {} for text in texts], pattern, size_of)
    return _numbered(keys)


def _in_series(
    keys: Sequence[object], texts: Sequence[Mapping[str, str]], pattern: Pattern, size_of: Callable[[int], Size]
) -> list[object]:
    """Return ``keys`` with the series of running numbers added: a new series wherever none before goes on."""
    numbers = [_whole(text.get(NUMBER), NUMBER) for text in texts]
    views = [_whole(text.get(VIEW), VIEW) for text in texts]
    sizes = {}
    open_series: dict[object, list[list[int]]] = defaultdict(list)
    made = list(keys)
    for position in sorted(range(len(keys)), key=lambda i: (numbers[i], views[i])):
        if pattern.size is not None:
            sizes[position] = size_of(position)
        near = [s for s in open_series[keys[position]] if numbers[position] - numbers[s[-1]] <= pattern.gap]
        fitting = (s for s in reversed(near) if _goes_on(s, position, views, sizes, pattern.size))
        series = next(fitting, None)
        if series is None:
            series = []
            near.append(series)
        series.append(position)
        open_series[keys[position]] = near
        made[position] = (keys[position], series[0])
    return made


def _goes_on(
    series: Sequence[int], position: int, views: Sequence[int], sizes: Mapping[int, Size], share: float | None
) -> bool:
    """Return whether the image at ``position`` can follow the last one of ``series``."""
    last = series[-1]
    if views[position] >= 0 and views[position] <= views[last]:
        return False
    if share is None:
        return True
    return all(abs(a - b) <= share * max(a, b) for a, b in zip(sizes[last], sizes[position], strict=True))


def _whole(text: str | None, name: str) -> int:
    """Return the whole number in ``text``; -1 for None."""
    if text is None:
        return -1
    if not text.isdecimal():
        raise InputError(f"dataset.group: (?P<{name}>…) must match whole numbers, got {text!r}")
    return int(text)
