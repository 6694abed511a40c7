"""Decoding: an image file as upright RGB uint8, the hash of its content, and the error that names it."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from metrad.errors import InputError

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """One decoded image and the hash of its content.

    Attributes:
        pixels: (height, width, channels) uint8, channels 1 or 3.
        digest: hash of the file's bytes, or of the pixels if there is no file.
    """

    pixels: np.ndarray
    digest: bytes


class CorruptImageError(InputError):
    """An image cannot be decoded."""


def corrupt_image(name: str, cause: Exception) -> CorruptImageError:
    """Return the error for the image ``name`` (a path or number) whose decoder raised ``cause``."""
    lines = str(cause).splitlines() or [type(cause).__name__]
    reason = "not an image" if isinstance(cause, UnidentifiedImageError) else lines[0]
    return CorruptImageError(
        f"{name} cannot be read as an image ({reason}); replace or remove it, "
        "or set dataset.on_corrupt=skip to leave such files out"
    )


def decode_file(path: Path) -> Decoded:
    """Return an image file as upright RGB, with the hash of its bytes.

    Raises:
        CorruptImageError: the file is truncated or not an image; the message names it.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return Decoded(np.asarray(to_rgb(image)), digest(data))
    except Exception as error:  # decoders raise unrelated types: struct.error, SyntaxError, RuntimeError, …
        raise corrupt_image(str(path), error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` as 8-bit RGB, rotated upright by its EXIF orientation.

    16-bit grey is scaled to 8 bits, not clipped. Transparent pixels are laid over white, as image viewers do.

    Raises:
        ValueError: the values have no fixed range (floating point, or integers outside 16 bits).
    """
    # ImageOps.exif_transpose also rewrites all tags, which fails on tags it does not know.
    image.load()  # Pillow rotates TIFF files upright here and drops the tag
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"grey values from {values.min()} to {values.max()} do not fit 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; convert them to 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def digest(data: bytes) -> bytes:
    """Return a 16-byte hash of ``data``."""
    return hashlib.blake2b(data, digest_size=16).digest()
