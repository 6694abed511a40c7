"""Where pictures, links and copies of images go, so that two images never share a place."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from metrad.data.sources import IMAGE_ENDINGS
from metrad.errors import InputError

_LONGEST = 200  # bytes of a file name that leave room for endings and a temporary name; file systems allow 255


def common_folder(paths: Sequence[str]) -> str:
    """Return the deepest folder that all ``paths`` lie below."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])  # noqa: PTH100, PTH120
    except ValueError as error:
        raise InputError(f"the images have no folder in common ({error}); give the images of one disk") from error


def below(path: str, folder: str) -> str:
    """Return ``path`` relative to ``folder``, which it lies below."""
    return os.path.relpath(os.path.abspath(path), folder)  # noqa: PTH100


def picture_place(relative: str, ending: str) -> str:
    """Return the path of the picture of the image at ``relative``, whose file ends with ``ending``, such as ``.jpg``.

    An image with this ending has a picture of its name. Other images keep their own ending before it: ``x.png`` has
    ``x.png.jpg``, and ``x.png.jpg`` has ``x.png.jpg.jpg``. So no two images share a place. Names that are too long for
    a further ending are cut, and a digest keeps them apart.
    """
    folder, name = os.path.split(relative)
    data = os.fsencode(name)
    stem, own = os.path.splitext(name)  # noqa: PTH122
    if len(data) > _LONGEST:
        name = f"{os.fsdecode(data[: _LONGEST - 20]).encode('utf-8', 'ignore').decode()}-{key_of(name)}{ending}"
    elif not _is_image(name):
        name += 2 * ending
    elif own.lower() != ending or _is_image(stem):
        name += ending
    return os.path.join(folder, name)  # noqa: PTH118


def _is_image(name: str) -> bool:
    """Return whether ``name`` has an ending of images."""
    return os.path.splitext(name)[1].lower().removeprefix(".") in IMAGE_ENDINGS  # noqa: PTH122


def key_of(name: str) -> str:
    """Return a file name for what belongs to ``name``: 16 hexadecimal digits."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def require_fresh(option: str, path: Path, *, resume: bool) -> None:
    """Raise ``InputError`` if ``path`` exists and is no empty folder, unless the call goes on with an earlier one."""
    if resume or not (path.exists() or path.is_symlink()):
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    raise InputError(f"{option}: {path} exists; give another name, or remove it first")
