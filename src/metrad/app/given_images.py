"""Good images that a program holds as pixels or as a list: written to files, from which a run reads them."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import numpy as np
from PIL import Image

from metrad.data.decoding import Reading
from metrad.detector.images import Given, Images, given
from metrad.errors import InputError

_READING = Reading(depth=16)


def is_folder(good: object) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether ``good`` is a path, and not images."""
    return isinstance(good, str | os.PathLike)


@contextmanager
def written(
    images: Images, out: Path, parts: Sequence[object] | np.ndarray | None = None
) -> Iterator[tuple[Path, int]]:
    """Write images to a folder beside the directory ``out`` of a run, and yield the folder and the number of images.

    The folder is removed if the block raises.

    Raises:
        InputError: as for ``write_images``, or the folder exists.
    """
    folder = out.with_name(f"{out.name}_images")
    if os.path.lexists(folder):
        raise InputError(f"{folder} is there already, where the images of out={out} are to be written; remove it")
    try:
        place = folder / "good"
        yield place, write_images(images, place, parts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_images(images: Images, folder: Path, parts: Sequence[object] | np.ndarray | None = None) -> int:
    """Write images as PNG files with the pixels that ``Detector.score`` sees, and return the number of images.

    A file is called by the number of its image, in the order given, and also by the file that it was read from, if any.
    With ``parts``, the images of one part lie in a folder of their own.

    Args:
        images: as for ``Detector.score``, of 8 bits.
        folder: where to write; it is made.
        parts: a label for each image, of the part that it shows; None if each image shows another part.

    Raises:
        InputError: an image cannot be read or has more than 8 bits, there are none, or not as many labels as images.
    """
    folder.mkdir(parents=True)
    folders: dict[str, Path] = {}
    count = 0
    for image in given(images, _READING):
        place = folder
        if parts is not None:
            label = str(parts[count]) if count < len(parts) else ""
            place = folders.setdefault(label, folder / f"part_{len(folders):06d}")
            place.mkdir(exist_ok=True)
        _write(image, place, count)
        count += 1
    if count == 0:
        raise InputError("no good images were given; give an array, a list of images, or a folder")
    if parts is not None and len(parts) != count:
        raise InputError(f"group must have a label for each of the {count:,} images, got {len(parts):,}")
    return count


def _write(image: Given, folder: Path, number: int) -> None:
    try:
        pixels = image.read().pixels
    except InputError as error:
        raise InputError(f"good image {number}: {error}") from error
    if pixels.dtype != np.uint8:
        raise InputError(
            f"good image {number} has more than 8 bits; save such images as PNG or TIFF files, and give their folder"
        )
    name = f"{number:06d}_{image.path.name}" if image.path else f"{number:06d}"
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    Image.fromarray(rgb).save(folder / f"{name}.png", compress_level=1)
