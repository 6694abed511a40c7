"""Where the good images lie in a folder that a user calls good: in it, below it, or in its subfolder for good parts."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from metrad.data.sources import ImageFolder
from metrad.errors import InputError
from metrad.quoting import argument

# Usual names of a folder of good parts, in small letters and without signs.
GOOD_NAMES = frozenset(
    {"good", "ok", "okay", "io", "normal", "nominal", "pass", "passed", "flawless", "intact", "defectfree", "nodefect"}
)
TRAINING = "train"  # the part of the data whose good images are taken if a test part has some too
HERE = "."
MASKS = "ground_truth"  # the folder of masks in MVTec's layout
LISTED = 8  # folders that a message names


@dataclass(frozen=True)
class GoodFolder:
    """A folder of good images.

    Attributes:
        path: the folder, absolute.
        unused: number of images of each folder beside it that are not taken, by its path below the folder searched.
    """

    path: Path
    unused: Mapping[str, int] = field(default_factory=dict)


def absolute(path: str | Path) -> Path:
    """Return an absolute path without ``..``; links stay."""
    return Path(os.path.normpath(Path(path).expanduser().absolute()))


def find_good(path: str | Path, pattern: str | Sequence[str] | None = None, *, all_good: bool = False) -> GoodFolder:
    """Return the folder of good images at ``path``.

    It is ``path`` itself if all its images lie directly in it or in one subfolder, or if it is called ``good``, ``ok``
    or the like. Otherwise it is the one subfolder that is called so. Of ``train/good`` and ``test/good`` it is the
    first.

    Args:
        path: the folder to search.
        pattern: shell patterns of image files, as for ``ImageFolder``.
        all_good: take all images below ``path`` if no subfolder is called good.

    Raises:
        InputError: there is no such folder, it has no images, or it does not say which of its images are good.
    """
    folder = absolute(path)
    if not folder.is_dir():
        what = "is a file; give the folder it lies in" if folder.exists() else "is no folder"
        raise InputError(f"{path} {what}")
    paths = ImageFolder(folder.parent, pattern=pattern, folders=[folder.name]).paths
    counts, pictures = _counts(folder, paths), _counts(folder, [path for path in paths if not _is_mask(folder, path)])
    named = [name for name in counts if is_good(PurePosixPath(name).name)]
    trained = [name for name in named if PurePosixPath(name).parts[0].lower() == TRAINING]
    if len(trained) == 1:
        named = trained
    if len(named) == 1 and not is_good(folder.name):
        return GoodFolder(folder / named[0], {name: count for name, count in pictures.items() if name != named[0]})
    if all_good or len(counts) == 1 or (is_good(folder.name) and not named):
        return GoodFolder(folder)
    raise InputError(_ambiguous(path, pictures if len(pictures) > 1 else counts, named))


def is_good(name: str) -> bool:
    """Return whether ``name`` is a usual name of a folder of good parts, such as ``Good``, ``OK`` or ``i.O.``."""
    return re.sub(r"[^a-z]", "", name.lower()) in GOOD_NAMES


def _is_mask(folder: Path, path: str) -> bool:
    """Return whether a file is a mask by its name, such as ``000_mask.png``, or lies in a folder ``ground_truth``."""
    below = Path(path).relative_to(folder)
    return MASKS in below.parts[:-1] or below.stem.lower().endswith("_mask")


def _counts(folder: Path, paths: Iterable[str]) -> Counter[str]:
    """Return the number of images by folder: ``HERE``, each subfolder, and each subfolder of ``train`` and ``test``."""
    counts: Counter[str] = Counter()
    for path in paths:
        parts = Path(path).relative_to(folder).parts[:-1]
        split = bool(parts) and parts[0].lower() in (TRAINING, "test")
        counts["/".join(parts[: 2 if split else 1]) or HERE] += 1
    return counts


def _ambiguous(path: str | Path, counts: Counter[str], named: Sequence[str]) -> str:
    named_so = f"{len(named)} of them are called good" if named else "none of them is called good or ok"
    places = sorted(counts, key=lambda name: (name not in named, -counts[name], name))
    listed = ", ".join(f"{'itself' if name == HERE else name} ({counts[name]:,})" for name in places[:LISTED])
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    first = next(name for name in places if name != HERE)
    return (
        f"{path} has images in several folders, and {named_so}: {listed}{more}. Give the folder of the good ones, as "
        f"in: metrad fit {argument(Path(path) / first)}; or, if all are good and each folder is one group, such as a "
        f"day: metrad fit {argument(path)} --group parent"
    )
