"""The images that a user gives, one after another: paths, folders, patterns, arrays and PIL images, however nested."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import Image

from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, Reading, decode_file, decode_image
from metrad.data.duplicates import content_key
from metrad.data.listing import image_files
from metrad.data.walking import readable
from metrad.errors import InputError, first_line

#: A path, a folder, a pattern such as ``parts/*.jpg``, an array or a PIL image.
Single: TypeAlias = str | os.PathLike[str] | np.ndarray | Image.Image
#: What ``Detector.score`` takes: one of ``Single``, or an iterable of these, which may be nested.
Images: TypeAlias = Union[Single, Iterable["Images"]]  # noqa: UP007 - a name in quotes has no operator |
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
        reading: how files are read; ``depth`` of None refuses pixels of more than 8 bits that are no file, since their
            range is unknown.
        patterns: shell patterns that the name of an image in a folder matches; None for the usual endings of images.

    Raises:
        InputError: ``images`` itself is of another kind, or a folder or a pattern without images, or pixels of a type,
            shape or depth that is not accepted. Inside a list or an iterator, that is an image whose ``read`` raises
            the error.
    """
    asked = _Asked(reading, patterns, count())
    return _each(images, asked) if _is_several(images) else _one(images, asked)


def _is_several(images: object) -> TypeGuard[Iterable[object]]:
    single = isinstance(images, str | os.PathLike | np.ndarray | Image.Image | bytes | dict)
    return isinstance(images, Iterable) and not single and not hasattr(images, "__array__")


def _each(images: Iterable[object], asked: _Asked) -> Iterator[Given]:
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


def _one(item: object, asked: _Asked) -> Iterator[Given]:
    """Return the images that one path, array or PIL image stands for.

    Raises:
        InputError: as for ``given``.
    """
    if isinstance(item, str | os.PathLike):
        return (_file(path, asked.reading) for path in _paths(os.fspath(item), asked.patterns))
    if isinstance(item, Image.Image):
        _require_mode(item, asked.reading)
        return iter([Given(str(next(asked.numbers)), lambda: _from_pil(item, asked.reading))])
    if isinstance(item, np.ndarray):
        return _arrays(item, asked.reading, asked.numbers)
    kind = f"{type(item).__module__}.{type(item).__qualname__}".removeprefix("builtins.")
    advice = "; give its numpy array with the channels last" if hasattr(item, "__array__") else ""
    raise InputError(f"images must be {ACCEPTED}, got {kind}{advice}")


def _file(path: str, reading: Reading) -> Given:
    return Given(readable(path), lambda: decode_file(Path(path), reading), Path(path))


def _paths(text: str, patterns: Sequence[str] | None) -> list[str]:
    """Return the image files of a path, a folder or a pattern; a path that leads nowhere stays itself."""
    if os.path.isdir(text) or (not os.path.lexists(text) and glob.has_magic(text)):  # noqa: PTH112 - keeps a leading ./
        return image_files([text], patterns=patterns).paths
    return [text]


def _arrays(array: np.ndarray, reading: Reading, numbers: "count[int]") -> Iterator[Given]:
    if array.ndim < 4 and array.size == 0:
        raise InputError(f"an array of the shape {array.shape} has no pixels; no images are [] or (0, H, W, C)")
    _require_dtype(array.dtype, reading)
    _require_shape(array.shape)
    if array.dtype.itemsize == 2 and array.ndim > 2 and array.shape[-1] == 4:
        raise InputError("an array of uint16 must have 1 or 3 channels, got 4; lay it over a background first")
    stack = array.reshape(1, *array.shape[:2], -1) if array.ndim < 4 else array
    return (Given(str(next(numbers)), _reading_array(pixels, reading)) for pixels in stack)


# What to do with an array of another type, by the kind of its type.
_CURES = {
    "b": "for a black-and-white image give array.astype('uint8') * 255",
    "i": "if its values lie from 0 to 255, give array.astype('uint8')",
    "u": "if its values lie from 0 to 255, give array.astype('uint8')",
    "f": "if its values lie from 0 to 1, give (array * 255).round().astype('uint8')",
    "U": "for paths give a list: array.tolist()",
    "O": "for images of several sizes give a list: list(array)",
}


def _require_dtype(dtype: np.dtype, reading: Reading) -> None:
    if dtype.kind != "u" or dtype.itemsize > 2:
        cure = _CURES.get(dtype.kind, "convert it first")
        raise InputError(f"an array of images must be uint8 or uint16, got {dtype}; {cure}")
    if dtype.itemsize == 2:
        _require_depth(f"an array of {dtype.name}", reading)


def _require_mode(image: Image.Image, reading: Reading) -> None:
    if image.mode == "F":
        raise InputError(
            "a PIL image of the mode F has floating-point pixels without a fixed range; convert it to 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        _require_depth(f"a PIL image of the mode {image.mode}", reading)


def _require_depth(what: str, reading: Reading) -> None:
    """Raise ``InputError`` if the range of pixels of more than 8 bits is not known, or not used."""
    if reading.depth is None:
        raise InputError(
            f"{what} has more than 8 bits, and this detector was fitted on images of 8, so the value of white is not "
            "known; say it in bits, such as bits=12 for values from 0 to 4095"
        )


def _require_shape(shape: tuple[int, ...]) -> None:
    """Raise ``InputError`` unless ``shape`` is that of an image or of several."""
    if len(shape) == 2 or (len(shape) in (3, 4) and shape[-1] in (1, 3, 4)):
        if 0 in shape[-3:]:
            raise InputError(f"images of the shape {shape} have no pixels")
        return
    kinds = "an array of images must be (H, W), (H, W, C) or (N, H, W, C) with C of 1, 3 or 4"
    raise InputError(f"{kinds}, got {shape}{_advice(shape)}")


def _advice(shape: tuple[int, ...]) -> str:
    """Return what to give instead of an array whose last axis is not of 1, 3 or 4 channels."""
    if len(shape) not in (3, 4):
        return ""
    cures = []
    if shape[-3] in (1, 3, 4):
        axes = "1, 2, 0" if len(shape) == 3 else "0, 2, 3, 1"
        cures.append(f"where channels come first give array.transpose({axes})")
    if len(shape) == 3 and shape[-1] > 4:
        cures.append("grey images are (N, H, W, 1): give array[..., None]")
    return "; " + "; ".join(cures or [f"it has {shape[-1]} channels"])


def _reading_array(pixels: np.ndarray, reading: Reading) -> Callable[[], Decoded]:
    return lambda: _from_array(pixels, reading)


def _from_array(pixels: np.ndarray, reading: Reading) -> Decoded:
    """Return an array (H, W, C) as the decoder would return its file: RGB, transparent pixels over white."""
    if pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.uint16)  # in the byte order of this machine
    if pixels.shape[2] == 4:
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
