"""The images that a user gives, one after another: paths, folders, patterns, arrays and PIL images, however nested."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, Reading, decode_file, decode_image
from metrad.data.duplicates import content_key
from metrad.data.listing import image_files
from metrad.errors import InputError, first_line

Images = Any  # a path, a folder, a pattern, a PIL image, an array, or an iterable of these
ACCEPTED = (
    "a path, a folder, a pattern such as 'parts/*.jpg', a PIL image, an array (H, W), (H, W, C) or (N, H, W, C) of "
    "uint8 or uint16, or a list or iterator of these"
)


@dataclass(frozen=True)
class Given:
    """One image as the user gave it.

    Attributes:
        name: its path, or its number in the order given.
        read: returns the decoded image; raises ``InputError`` where it cannot.
        path: its file; None for pixels.
    """

    name: str
    read: Callable[[], Decoded]
    path: Path | None = None


class _Asked(NamedTuple):
    """How the images of one call are read, and the numbers of those that are no files."""

    reading: Reading
    patterns: Sequence[str] | None
    numbers: "count[int]"


def given(images: Images, reading: Reading, patterns: Sequence[str] | None = None) -> Iterator[Given]:
    """Yield the images one after another; an iterator is read no further than needed.

    Args:
        images: a path, a folder, a pattern, a PIL image, an array, or an iterable of these.
        reading: how files are read.
        patterns: shell patterns that the name of an image in a folder matches; None for the usual endings of images.

    Raises:
        InputError: ``images`` itself is of another kind, or a folder or a pattern without images. Inside a list or an
            iterator, that is an image whose ``read`` raises the error.
    """
    asked = _Asked(reading, patterns, count())
    return _each(images, asked) if _is_several(images) else _one(images, asked)


def _is_several(images: Images) -> bool:
    single = isinstance(images, str | os.PathLike | np.ndarray | Image.Image | bytes | dict)
    return isinstance(images, Iterable) and not single and not hasattr(images, "__array__")


def _each(images: Iterable[Images], asked: _Asked) -> Iterator[Given]:
    for item in images:
        if _is_several(item):
            yield from _each(item, asked)
            continue
        try:
            found = _one(item, asked)
        except InputError as error:
            name = str(item) if isinstance(item, str | os.PathLike) else str(next(asked.numbers))
            yield Given(name, _raising(error))
        else:
            yield from found


def _raising(error: InputError) -> Callable[[], Decoded]:
    def read() -> Decoded:
        raise error

    return read


def _one(item: Images, asked: _Asked) -> Iterator[Given]:
    """Return the images that one path, array or PIL image stands for.

    Raises:
        InputError: ``item`` is of another kind, or a folder or a pattern without images.
    """
    if isinstance(item, str | os.PathLike):
        return (_file(path, asked.reading) for path in _paths(os.fspath(item), asked.patterns))
    if isinstance(item, Image.Image):
        return iter([Given(str(next(asked.numbers)), lambda: _from_pil(item, asked.reading))])
    if isinstance(item, np.ndarray):
        return _arrays(item, asked.reading, asked.numbers)
    kind = f"{type(item).__module__}.{type(item).__qualname__}".removeprefix("builtins.")
    advice = "; give its numpy array with the channels last" if hasattr(item, "__array__") else ""
    raise InputError(f"images must be {ACCEPTED}, got {kind}{advice}")


def _file(path: str, reading: Reading) -> Given:
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return Given(name, lambda: decode_file(Path(path), reading), Path(path))


def _paths(text: str, patterns: Sequence[str] | None) -> list[str]:
    """Return the image files of a path, a folder or a pattern; a path that leads nowhere stays itself."""
    if os.path.isdir(text) or (not os.path.lexists(text) and glob.has_magic(text)):  # noqa: PTH112 - keeps a leading ./
        return image_files([text], patterns=patterns).paths
    return [text]


def _arrays(array: np.ndarray, reading: Reading, numbers: "count[int]") -> Iterator[Given]:
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(f"an array of images must be uint8 or uint16, got {array.dtype}; scale it to 0 to 255 first")
    channels = array.shape[-1] if array.ndim > 2 else 1
    if array.ndim not in (2, 3, 4) or channels not in (1, 3, 4) or 0 in array.shape[-3 if array.ndim > 2 else 0 :]:
        raise InputError(
            f"an array of images must be (H, W), (H, W, C) or (N, H, W, C) with C of 1, 3 or 4, got {array.shape}; "
            "grey images are (N, H, W, 1)"
        )
    stack = array.reshape(1, *array.shape[:2], channels) if array.ndim < 4 else array
    return (Given(str(next(numbers)), _reading_array(pixels, reading)) for pixels in stack)


def _reading_array(pixels: np.ndarray, reading: Reading) -> Callable[[], Decoded]:
    return lambda: _from_array(pixels, reading)


def _from_array(pixels: np.ndarray, reading: Reading) -> Decoded:
    """Return an array (H, W, C) as the decoder would return its file: RGB, transparent pixels over white."""
    if pixels.shape[2] == 4:
        if pixels.dtype != np.uint8:
            raise InputError("an array of 16 bits must have 1 or 3 channels, got 4; lay it over a background first")
        return _from_pil(Image.fromarray(pixels, "RGBA"), reading)
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    megapixels = rgb.shape[0] * rgb.shape[1] / 1e6
    if megapixels > reading.max_megapixels:
        raise InputError(f"it has {megapixels:.1f} megapixels, and at most {reading.max_megapixels:g} are read")
    return Decoded(rgb, content_key(rgb))


def _from_pil(image: Image.Image, reading: Reading) -> Decoded:
    try:
        return decode_image(image, reading)
    except Exception as error:  # Pillow's decoders raise unrelated types
        raise CorruptImageError(first_line(error), first_line(error)) from error
