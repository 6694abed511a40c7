"""The image files that paths, folders and shell patterns stand for, each once and in a stable order."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from metrad.data.sources import listed, usual_patterns
from metrad.data.walking import ImageNames, folders_below
from metrad.errors import InputError
from metrad.quoting import argument


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
    wanted = ImageNames(usual_patterns() if patterns is None else patterns)
    matching = ImageNames(usual_patterns(), wanted.left_out)
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


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that orders the numbers in names by their values."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() and len(part) < 20 else (1, part) for part in parts]


def _stands_for(item: str, wanted: ImageNames, matching: ImageNames, *, strict: bool) -> Iterator[str]:
    if os.path.isdir(item):  # noqa: PTH112 - os.path answers for names that can be no file, too
        yield from _below(item, wanted)
    elif os.path.lexists(item) or not strict:
        yield item
    elif glob.has_magic(item):
        yield from _matching(item, wanted, matching)
    else:
        raise InputError(f"no file or folder {argument(item)}; give files, folders, or patterns such as 'line/*.png'")


def _matching(pattern: str, wanted: ImageNames, matching: ImageNames) -> Iterator[str]:
    matches = sorted(glob.iglob(pattern, recursive=True), key=natural)  # noqa: PTH207 - may be absolute
    if not matches:
        raise InputError(f"nothing matches {argument(pattern)}; ** stands for folders at any depth")
    for path in matches:
        if os.path.isdir(path):  # noqa: PTH112
            yield from _below(path, wanted)
        elif matching.include(os.path.basename(path)):  # noqa: PTH119
            yield path


def _below(top: str, wanted: ImageNames) -> Iterator[str]:
    """Yield the images below the folder ``top``."""
    found: list[str] = []
    for folder, files in folders_below(top, _refuse, sort=True):
        found += [os.path.join(folder, name) for name in files if wanted.include(name)]  # noqa: PTH118
    yield from sorted(found, key=natural)


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"the folder {error.filename} cannot be read ({error.strerror}), so its images would be missing; make it "
        "readable or leave it out"
    ) from error
