"""Decoding: an image file as upright RGB pixels of 8 or 16 bits, and the key of its content."""

import contextlib
import importlib.util
import io
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from metrad.data import deep_colour, png_checks
from metrad.data.broken_images import corrupt_image
from metrad.data.duplicates import content_key, digest
from metrad.data.properties import FileFacts

DECODER_VERSION = 2  # increase it when the same file decodes to other pixels or another key
KNOWN_VERSIONS = (1, DECODER_VERSION)  # of earlier versions those that runs can have
# Formats that Pillow decodes by itself and in full. It would hand PostScript, for one, to Ghostscript.
FORMATS = (
    *("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM", "GIF", "TGA", "PCX", "JPEG2000"),
    *(("AVIF",) if importlib.util.find_spec("PIL.AvifImagePlugin") else ()),
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC, _BITS, _PLANES, _SAMPLE_FORMAT, _KIND_OF_PAGE, _OLD_KIND_OF_PAGE = 262, 258, 284, 339, 254, 255  # TIFF
_pillows_limit = threading.Lock()


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Attributes:
        version: version of the decoder; 1 reads files as metrad 0.1 did, for its runs.
        max_megapixels: largest image that is decoded, in million pixels.
        depth: bits of the range that images of more than 8 bits are scaled by; None for the smallest usual number that
            holds the largest value of the training images.
    """

    version: int = DECODER_VERSION
    max_megapixels: float = 256.0
    depth: int | None = None


@dataclass(frozen=True)
class Decoding:
    """How the images of a run were decoded, which later images must share.

    Attributes:
        decoder: version of the decoder.
        range: bits of the range that images of more than 8 bits were scaled by; None if there were none. Files to come
            of more than 8 bits are then scaled by 16, and arrays are refused unless the caller says their bits.
    """

    decoder: int = 1
    range: int | None = None


@dataclass(frozen=True)
class Kept:
    """How the images of a run were kept between decoding and the model, which later images must share.

    Attributes:
        height: their height in pixels.
        width: their width in pixels.
        channels: 1 for a source of grey arrays, else 3.
        as_arrays: whether the source held arrays; the key of such an image is the hash of its values alone.
        max_megapixels: largest image that was decoded, in million pixels.
        root: absolute folder that the images' names are relative to; None if the images were no files.
        patterns: shell patterns that image files had to match; None for the usual image endings.
    """

    height: int
    width: int
    channels: int = 3
    as_arrays: bool = False
    max_megapixels: float = Reading.max_megapixels
    root: str | None = None
    patterns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Decoded:
    """One decoded image and the key of its content.

    Attributes:
        pixels: (height, width, channels) uint8, or uint16 if the file has more bits; channels 1 or 3.
        digest: key of the content, 16 bytes.
        white_is_zero: the values of uint16 pixels rise from white to black.
        facts: what the image's file says beside its pixels; None for an image that is no file.
    """

    pixels: np.ndarray
    digest: bytes
    white_is_zero: bool = False
    facts: FileFacts | None = None


def decode_file(path: Path, reading: Reading | None = None) -> Decoded:
    """Return an image file as upright RGB, with the key of its content.

    Raises:
        CorruptImageError: the file is damaged, no image, larger than ``reading`` allows, or of a kind that would not be
            read whole, such as several pictures in one file; the message names it.
    """
    reading = reading or Reading()
    try:
        data = _content(path)
        with _opened(data, reading) as image:
            if reading.version == 1:
                decoded = Decoded(np.asarray(first_rgb(image)), digest(data))
            else:
                decoded = _decoded(image, data)
            return replace(decoded, facts=_facts(image, len(data), path))
    except Exception as error:  # decoders raise unrelated types: struct.error, SyntaxError, RuntimeError, …
        raise corrupt_image(str(path), error) from error


def _facts(image: ImageFile.ImageFile, size: int, path: Path) -> FileFacts:
    """Return what the file of a decoded image of ``size`` bytes says; tags that cannot be read count as missing."""
    camera, exposure = "", None
    with contextlib.suppress(Exception):  # some cameras write tags that Pillow cannot read
        tags = image.getexif()
        names = (tags.get(ExifTags.Base.Make), tags.get(ExifTags.Base.Model))
        camera = " ".join(str(name).strip("\0 ") for name in names if name)
        exposure = _seconds(tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ExposureTime)) if tags else None
    return FileFacts(size, image.format or "", path.stat().st_mtime, camera, exposure)


def _seconds(exposure: Any) -> float | None:
    seconds = 0.0 if exposure is None else float(exposure)
    return seconds if 0 < seconds < float("inf") else None


def size_in_header(path: Path, reading: Reading) -> tuple[int, int]:
    """Return the width and height of an image file in pixels, without decoding it; (0, 0) if it is broken."""
    try:
        with _opened(_content(path), reading) as image:
            width, height = image.size
    except Exception:  # decoders raise unrelated types; decoding the image names the fault
        return 0, 0
    return width, height


def decode_image(image: Image.Image, reading: Reading) -> Decoded:
    """Return an image that another library opened as upright RGB, with the key of its content.

    Raises:
        ValueError: the image is too large, or its values have no fixed range.
    """
    _require_size(image.size, reading)
    if reading.version == 1:
        pixels = np.asarray(first_rgb(image))
        return Decoded(pixels, content_key(pixels))
    pixels = _pixels(upright(image))
    return Decoded(pixels, content_key(pixels))


@contextlib.contextmanager
def own_limit() -> Iterator[None]:
    """Lift Pillow's limit on the size of images in this context; ``Reading.max_megapixels`` is metrad's own limit."""
    with _pillows_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def upright(image: Image.Image) -> Image.Image:
    """Return ``image`` rotated and mirrored as its EXIF orientation says."""
    if image.format == "TIFF" and isinstance(image, ImageFile.ImageFile) and image.tile:
        with own_limit():
            image.load_prepare()  # Pillow checks the size of TIFF files here
    # ImageOps.exif_transpose also rewrites all tags, which fails on tags it does not know.
    image.load()  # Pillow rotates TIFF files upright here and drops the tag
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def first_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` as 8-bit RGB, as metrad 0.1 read it; 16 bits are scaled to 8.

    Raises:
        ValueError: the values have no fixed range (floating point, or integers outside 16 bits).
    """
    image = upright(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(((_integers(image).astype(np.int64) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise _no_range()
    return _over_white(image)


def _content(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
        raise ValueError("not a regular file")
    return path.read_bytes()


def _opened(data: bytes, reading: Reading) -> ImageFile.ImageFile:
    with own_limit():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    _require_size(image.size, reading)
    return image


def _require_size(size: tuple[int, int], reading: Reading) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > reading.max_megapixels:
        raise ValueError(
            f"{size[0]} by {size[1]} pixels are {megapixels:.1f} megapixels, and dataset.max_megapixels is "
            f"{reading.max_megapixels:g}; to read it, set dataset.max_megapixels={int(megapixels) + 1}"
        )


def _decoded(image: ImageFile.ImageFile, data: bytes) -> Decoded:
    if image.format == "PNG":
        png_checks.require_checksums(data)
    _require_one_picture(image)
    if image.format == "TIFF":
        _require_readable_tiff(image)
    white_is_zero = image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    if deep_colour.is_deep_colour(image, data):
        transparent = image.info.get("transparency")
        channels = deep_colour.read_deep_colour(image, data, lambda content: _opened(content, _UNLIMITED), upright)
        pixels = _deep_over_white(channels, transparent)
    else:
        fast = _jpeg_pixels(image, data)
        pixels = _pixels(upright(image)) if fast is None else fast
    if image.format == "PNG" and (png_checks.is_interlaced(data) or not _has_last_pixel(image)):
        png_checks.require_rows(data)
    return Decoded(pixels, content_key(pixels, white_is_zero=white_is_zero), white_is_zero)


def _jpeg_pixels(image: ImageFile.ImageFile, data: bytes) -> np.ndarray | None:
    """Return a grey or colour JPEG as torchvision decodes it, (height, width, 3) uint8; None if Pillow is to decode it.

    Both use libjpeg-turbo and give the same values. torchvision takes about half the time, and lets other threads run
    meanwhile. What it refuses, Pillow decodes or refuses with its own words.
    """
    decode = _torchvisions_decoder() if image.format == "JPEG" and image.mode in ("RGB", "L") else None
    if decode is None:
        return None
    try:
        pixels = decode(data)
    except RuntimeError:
        return None
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation not in _UPRIGHT:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_UPRIGHT[orientation]))


@cache
def _torchvisions_decoder() -> Callable[[bytes], np.ndarray] | None:
    """Return torchvision's decoder, from the content of a JPEG file to (height, width, 3) uint8; None if it has none.

    The operator is called without the function around it, which warns that torchvision 0.29 is among the last to have
    it. Later versions decode with Pillow.
    """
    import torch  # refusing files takes none
    from torchvision.io import ImageReadMode

    if not hasattr(torch.ops.image, "decode_jpeg"):
        return None

    def decode(data: bytes) -> np.ndarray:
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: np.ndarray = (
            torch.ops.image.decode_jpeg(content, ImageReadMode.RGB.value, False).permute(1, 2, 0).numpy()
        )
        return pixels

    return decode


_UNLIMITED = Reading(max_megapixels=float("inf"))


def _require_one_picture(image: ImageFile.ImageFile) -> None:
    """Refuse animations and files of several pages. Previews and masks beside the picture are ignored."""
    if image.format == "MPO":  # a photograph; the other pictures are previews or further views
        return
    count = getattr(image, "n_frames", 1)
    if count > 1 and not (image.format == "TIFF" and _all_but_first_are_aside(image, count)):
        raise ValueError(f"it holds {count} pictures; save each one as a file of its own")


def _all_but_first_are_aside(image: ImageFile.ImageFile, count: int) -> bool:
    """Return whether the later pages of a TIFF file are reduced versions or masks of the first page."""
    aside = []
    for page in range(count):
        image.seek(page)
        tags = image.tag_v2  # type: ignore[attr-defined]
        aside.append(bool(tags.get(_KIND_OF_PAGE, 0) & 0b101) or tags.get(_OLD_KIND_OF_PAGE) == 2)
    image.seek(0)
    return not aside[0] and all(aside[1:])


def _require_readable_tiff(image: ImageFile.ImageFile) -> None:
    """Refuse TIFF files that Pillow misreads: signed bytes, and files that lack strips or tiles."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if 2 in tags.get(_SAMPLE_FORMAT, ()) and max(tags.get(_BITS, (1,))) <= 8:
        raise ValueError("its values are signed bytes; convert them to unsigned ones")
    planes = len(image.getbands()) if tags.get(_PLANES) == 2 and len(image.tile) > 1 else 1
    boxes = [tile[1] for tile in image.tile if tile[1]]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if covered < image.size[0] * image.size[1] * planes:
        raise ValueError("the file is truncated: strips or tiles of the image are missing")


def _has_last_pixel(image: Image.Image) -> bool:
    """Return whether the last pixel of a loaded image is other than 0, which missing rows are filled with."""
    width, height = image.size
    return bool(np.any(image.getpixel((width - 1, height - 1))))


def _pixels(image: Image.Image) -> np.ndarray:
    """Return an upright image as (height, width, 3) uint8, or uint16 if it has more than 8 bits.

    Transparent pixels are laid over white, as image viewers do.

    Raises:
        ValueError: the values have no fixed range (floating point, or integers outside 16 bits).
    """
    if image.mode == "F":
        raise _no_range()
    if image.mode.startswith("I"):
        grey = _integers(image)
        return _deep_over_white(np.stack([grey, grey, grey], axis=-1), image.info.get("transparency"))
    return np.asarray(_over_white(image))


def _integers(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"grey values from {values.min()} to {values.max()} do not fit 16 bits")
    return values.astype(np.uint16)


def _no_range() -> ValueError:
    return ValueError("floating-point pixels have no fixed range; convert them to 8 or 16 bits")


def _over_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _deep_over_white(channels: np.ndarray, transparent: int | tuple[int, ...] | None) -> np.ndarray:
    """Lay (height, width, 3 or 4) uint16 over white; pixels of the value ``transparent`` become white."""
    pixels = channels[..., :3]
    if channels.shape[2] == 4:
        alpha = channels[..., 3:].astype(np.uint64)
        if (alpha == 0xFFFF).all():
            return pixels
        laid: np.ndarray = (pixels * alpha + 0xFFFF * (0xFFFF - alpha) + 0x7FFF) // 0xFFFF
        return laid.astype(np.uint16)
    if transparent is None:
        return pixels
    return np.where((pixels == transparent).all(axis=-1, keepdims=True), np.uint16(0xFFFF), pixels)
