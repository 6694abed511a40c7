"""The image files that paths, folders and shell patterns stand for, each once and in a stable order."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NoReturn

from metrad.data.sources import IMAGE_ENDINGS, listed
from metrad.errors import InputError
from metrad.quoting import argument

_PATTERN = re.compile(r"[*?\[]")
_ENDINGS = frozenset(f".{ending}" for ending in IMAGE_ENDINGS)


def image_files(items: Iterable[str], streamed: Iterable[str] = ()) -> list[str]:
    """Return the paths of the images that ``items`` and then ``streamed`` stand for, each file once.

    A folder stands for all images below it, links followed, hidden files and folders left out. A shell pattern, such
    as ``line/*.png`` or ``**/top.jpg``, stands for the images and folders that match it. Images of a folder or pattern
    have the usual endings and are in natural order, ``9.png`` before ``10.png``. A file that is named stands for
    itself whatever its ending.

    Args:
        items: files, folders and patterns, which must exist.
        streamed: files and folders, as another program lists them. One that does not exist stands for itself: it may
            have been removed meanwhile, and then it is one broken image among others.

    Raises:
        InputError: an item does not exist, a pattern matches nothing, a folder cannot be read, or there are no images.
    """
    left_out: Counter[str] = Counter()
    found: dict[str, str] = {}  # path as the user gave it, by absolute path
    given = 0
    for strict, names in ((True, items), (False, streamed)):
        for item in names:
            given += 1
            for path in _stands_for(item, left_out, strict=strict):
                found.setdefault(os.path.abspath(path), path)  # noqa: PTH100 - resolves no links, and is fast
    if not found:
        others = f"; there are {listed(left_out)}" if left_out else ""
        endings = ", ".join(sorted(_ENDINGS))
        raise InputError(f"no images in the {given} paths given{others}; endings of images are {endings}")
    return list(found.values())


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that orders the numbers in names by their values."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() and len(part) < 20 else (1, part) for part in parts]


def _stands_for(item: str, left_out: Counter[str], *, strict: bool) -> Iterator[str]:
    if os.path.isdir(item):  # noqa: PTH112 - os.path answers for names that can be no file, too
        yield from _below(item, left_out)
    elif os.path.lexists(item) or not strict:
        yield item
    elif _PATTERN.search(item):
        yield from _matching(item, left_out)
    else:
        raise InputError(
            f"IMAGES: no file or folder {argument(item)}; give files, folders, patterns, or - for names on stdin"
        )


def _matching(pattern: str, left_out: Counter[str]) -> Iterator[str]:
    matches = sorted(glob.iglob(pattern, recursive=True), key=natural)  # noqa: PTH207 - may be absolute
    if not matches:
        raise InputError(f"IMAGES: nothing matches {argument(pattern)}; ** stands for folders at any depth")
    for path in matches:
        if os.path.isdir(path):  # noqa: PTH112
            yield from _below(path, left_out)
        elif _is_image(path, left_out):
            yield path


def _below(top: str, left_out: Counter[str]) -> Iterator[str]:
    """Yield the images below the folder ``top``; a link back to a folder above is not followed."""
    found, seen = [], set()
    for folder, folders, files in os.walk(top, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [os.path.join(folder, name) for name in files if name[0] != "." and _is_image(name, left_out)]  # noqa: PTH118
    yield from sorted(found, key=natural)


def _is_image(name: str, left_out: Counter[str]) -> bool:
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if ending in _ENDINGS:
        return True
    left_out[ending if ending.isprintable() and ending else "no ending"] += 1
    return False


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"the folder {error.filename} cannot be read ({error.strerror}), so its images would be missing; make it "
        "readable or leave it out"
    ) from error
