"""Folders of files: each folder below another, and which files are images by their names."""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


def folders_below(
    top: str | Path, refuse: Callable[[OSError], None], *, sort: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield ``top`` and each folder below it, with the names of its files.

    Links are followed, but not back to a folder above. Hidden files and folders are left out.

    Args:
        top: the folder to begin with.
        refuse: called with the error of a folder that cannot be read; it raises.
        sort: whether folders come in the order of their names.
    """
    seen = set()
    for folder, folders, files in os.walk(top, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        shown = [name for name in folders if name[0] != "."]
        folders[:] = sorted(shown) if sort else shown
        yield folder, [name for name in files if name[0] != "."]


class ImageNames:
    """Says which files are images by their names, and counts the others by ending.

    Args:
        patterns: shell patterns that the name of an image matches; case is ignored.
        left_out: counts to add to; new ones if not given.

    Attributes:
        left_out: number of files that match none, by their ending.
    """

    def __init__(self, patterns: Sequence[str], left_out: Counter[str] | None = None) -> None:
        self.patterns = patterns
        self.left_out: Counter[str] = Counter() if left_out is None else left_out
        self._matches = re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns)).match

    def include(self, name: str) -> bool:
        """Return whether the file called ``name`` is an image; if not, count it."""
        if self._matches(name.lower()):
            return True
        self.left_out[readable(Path(name).suffix.lower()) or "no ending"] += 1
        return False


def readable(name: str) -> str:
    """Return a file name as printable text, even if its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
