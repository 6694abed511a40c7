"""Colour images of 16 bits a channel, of which Pillow keeps 8: PNG, TIFF and PPM, read whole."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

Open = Callable[[bytes], ImageFile.ImageFile]

_SIZ = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream; the bits of the first channel follow 42 bytes later
_OTHER_BYTE = {"B": "L", "L": "B"}


def is_deep_colour(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Return whether Pillow would keep 8 of more bits a channel of an opened image, whose file holds ``data``."""
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "JPEG2000":
        return data[data.find(_SIZ) + 42] & 0x7F >= 8
    if image.format == "PPM":
        return image.mode == "RGB" and _most(image) > 255
    # the raw mode "BGR;16" of BMP has 16 bits in all
    return image.format in ("PNG", "TIFF") and (
        any(";16" in _raw_mode(tile) for tile in image.tile) or _is_planar(image)
    )


def read_deep_colour(
    image: ImageFile.ImageFile, data: bytes, open_image: Open, upright: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    """Return the channels of an opened image as (height, width, 3 or 4) uint16; the fourth channel is alpha.

    Pillow can be asked for the high byte or the low byte of each value. Both together are the value.

    Args:
        image: opened image, not yet loaded.
        data: content of its file.
        open_image: opens a file's content.
        upright: turns an image upright.

    Raises:
        ValueError: the image is of a kind that cannot be read with all bits.
    """
    if image.format == "PPM":
        return _read_ppm(image, data, open_image)
    modes = {_raw_mode(tile) for tile in image.tile}
    layout, _, order = modes.pop().partition(";16") if len(modes) == 1 else ("", "", "")
    if (
        image.format == "JPEG2000"
        or _is_planar(image)
        or layout not in ("RGB", "RGBA", "RGBX", "LA")
        or order not in ("B", "L", "N")
    ):
        raise ValueError(
            f"{image.format} files with 16 bits a channel are read as grey, RGB or RGB with alpha in pixel order, and "
            f"this one is {image.mode}; convert it to one of these"
        )
    if layout == "LA":  # four bytes a pixel, as RGBA with 8 bits a channel
        both = _with_raw_mode(open_image(data), "RGBA", upright)
        grey, alpha = (both[..., i] * np.uint16(256) + both[..., i + 1] for i in (0, 2))
        return np.stack([grey, grey, grey, alpha], axis=-1)
    order = {"little": "L", "big": "B"}[sys.byteorder] if order == "N" else order
    high = _with_raw_mode(image, f"{layout};16{order}", upright)
    low = _with_raw_mode(open_image(data), f"{layout};16{_OTHER_BYTE[order]}", upright)
    values: np.ndarray = high * np.uint16(256) + low
    return values


def _read_ppm(image: ImageFile.ImageFile, data: bytes, open_image: Open) -> np.ndarray:
    """Read a colour PPM file as a grey one of three times the width, of which Pillow keeps all bits."""
    width, height = image.size
    kind = b"P2" if image.tile[0][0] == "ppm_plain" else b"P5"
    grey = b"%s %d %d %d\n" % (kind, 3 * width, height, _most(image)) + data[image.tile[0][2] :]
    return np.asarray(open_image(grey)).astype(np.uint16).reshape(height, width, 3)


def _with_raw_mode(
    image: ImageFile.ImageFile, raw_mode: str, upright: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    image.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:]))
        for tile in image.tile
    ]
    return np.asarray(upright(image)).astype(np.uint16)


def _raw_mode(tile: tuple[Any, ...]) -> str:
    args = tile[3]
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _most(image: ImageFile.ImageFile) -> int:
    """Return the value that a PPM file declares as its largest."""
    args = image.tile[0][3]
    return int(args[-1]) if isinstance(args, tuple) and isinstance(args[-1], int) else 255


def _is_planar(image: ImageFile.ImageFile) -> bool:
    """Return whether an image has more than 8 bits and its channels stand one after another."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(284) == 2 and max(tags.get(258, (1,))) > 8
