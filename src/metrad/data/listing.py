"""The image files that paths, folders and shell patterns stand for, each once and in a stable order."""

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from metrad.data.sources import IMAGE_ENDINGS, listed
from metrad.errors import InputError
from metrad.quoting import argument

_PATTERN = re.compile(r"[*?\[]")
_USUAL = tuple(f"*.{ending}" for ending in IMAGE_ENDINGS)


@dataclass(frozen=True)
class Listing:
    """Image files, each once.

    Attributes:
        paths: their paths, as they were given or below the folder as it was given.
        left_out: number of files in folders and of patterns that are no images, by their ending.
    """

    paths: list[str]
    left_out: Mapping[str, int]


def image_files(
    items: Iterable[str], streamed: Iterable[str] = (), *, patterns: Sequence[str] | None = None
) -> Listing:
    """Return the images that ``items`` and then ``streamed`` stand for, each file once.

    A folder stands for all images below it, links followed, hidden files and folders left out. A shell pattern, such
    as ``line/*.png`` or ``**/top.jpg``, stands for the folders that match it and the files with the usual endings of
    images. Images of a folder or pattern are in natural order, ``9.png`` before ``10.png``. A file that is named stands
    for itself whatever its ending.

    Args:
        items: files, folders and patterns, which must exist.
        streamed: files and folders, as another program lists them. One that does not exist stands for itself: it may
            have been removed meanwhile, and then it is one broken image among others.
        patterns: shell patterns that the name of an image in a folder matches, case ignored; None for the usual endings
            of images.

    Raises:
        InputError: an item does not exist, a pattern matches nothing, a folder cannot be read, or there are no images.
    """
    wanted = _Wanted(_USUAL if patterns is None else tuple(patterns))
    matching = _Wanted(_USUAL, wanted.left_out)
    found: dict[str, str] = {}  # path as the user gave it, by absolute path
    given = 0
    for strict, names in ((True, items), (False, streamed)):
        for item in names:
            given += 1
            for path in _stands_for(item, wanted, matching, strict=strict):
                found.setdefault(os.path.abspath(path), path)  # noqa: PTH100 - resolves no links, and is fast
    if not found:
        others = f"; there are {listed(wanted.left_out)}" if wanted.left_out else ""
        paths = "1 path" if given == 1 else f"{given:,} paths"
        raise InputError(f"no images in the {paths} given{others}; names of images match {', '.join(wanted.patterns)}")
    return Listing(list(found.values()), wanted.left_out)


class _Wanted:
    """Says which files are images by their names, and counts the others by ending."""

    def __init__(self, patterns: tuple[str, ...], left_out: Counter[str] | None = None) -> None:
        self.patterns = patterns
        self.left_out: Counter[str] = Counter() if left_out is None else left_out
        self._matches = re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns)).match

    def is_image(self, name: str) -> bool:
        if self._matches(name.lower()):
            return True
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
        self.left_out[ending if ending.isprintable() and ending else "no ending"] += 1
        return False


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that orders the numbers in names by their values."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() and len(part) < 20 else (1, part) for part in parts]


def _stands_for(item: str, wanted: _Wanted, matching: _Wanted, *, strict: bool) -> Iterator[str]:
    if os.path.isdir(item):  # noqa: PTH112 - os.path answers for names that can be no file, too
        yield from _below(item, wanted)
    elif os.path.lexists(item) or not strict:
        yield item
    elif _PATTERN.search(item):
        yield from _matching(item, wanted, matching)
    else:
        raise InputError(f"no file or folder {argument(item)}; give files, folders, or patterns such as 'line/*.png'")


def _matching(pattern: str, wanted: _Wanted, matching: _Wanted) -> Iterator[str]:
    matches = sorted(glob.iglob(pattern, recursive=True), key=natural)  # noqa: PTH207 - may be absolute
    if not matches:
        raise InputError(f"nothing matches {argument(pattern)}; ** stands for folders at any depth")
    for path in matches:
        if os.path.isdir(path):  # noqa: PTH112
            yield from _below(path, wanted)
        elif matching.is_image(os.path.basename(path)):  # noqa: PTH119
            yield path


def _below(top: str, wanted: _Wanted) -> Iterator[str]:
    """Yield the images below the folder ``top``; a link back to a folder above is not followed."""
    found, seen = [], set()
    for folder, folders, files in os.walk(top, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [os.path.join(folder, name) for name in files if name[0] != "." and wanted.is_image(name)]  # noqa: PTH118
    yield from sorted(found, key=natural)


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"the folder {error.filename} cannot be read ({error.strerror}), so its images would be missing; make it "
        "readable or leave it out"
    ) from error
