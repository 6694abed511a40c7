"""Pixels: any image file to uint8, and many of them to one array, decoded once."""

import hashlib
import io
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

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
_LOOKAHEAD = 64  # images decoded ahead of the one being stored; bounds memory


class Indexable(Protocol):
    """Images by position: an index array gives (len(index), height, width, channels) uint8."""

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the images at the positions ``index``."""


@dataclass(frozen=True)
class Decoded:
    """One image and what identifies its content.

    Attributes:
        pixels: (height, width, channels) uint8, channels 1 or 3.
        digest: hash of the file's bytes, or of the pixels where there is no file.
    """

    pixels: np.ndarray
    digest: bytes


class CorruptImageError(InputError):
    """An image that cannot be decoded."""


def corrupt_image(name: str, cause: Exception) -> CorruptImageError:
    """Return the error for the image ``name`` (a path or number) that a decoder failed on with ``cause``."""
    lines = str(cause).splitlines() or [type(cause).__name__]
    reason = "not an image" if isinstance(cause, UnidentifiedImageError) else lines[0]
    return CorruptImageError(
        f"{name} cannot be read as an image ({reason}); replace or remove it, "
        "or set dataset.on_corrupt=skip to leave such files out"
    )


def decode_file(path: Path) -> Decoded:
    """Read one image file as RGB, upright, with the hash of its bytes.

    Raises:
        CorruptImageError: the file is truncated or no image; the message names it.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return Decoded(np.asarray(to_rgb(image)), digest(data))
    except Exception as error:  # the decoders' errors share no base: struct.error, SyntaxError, RuntimeError, …
        raise corrupt_image(str(path), error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` as 8-bit RGB, turned upright by its EXIF orientation.

    16-bit grey is scaled to 8 bits, not cut off; transparency is laid over white, as image viewers show it.

    Raises:
        ValueError: the mode has no fixed range of values (floating point, or integers above 16 bits).
    """
    # ImageOps.exif_transpose does the same and then writes all tags anew, which fails on tags it does not know.
    image.load()  # TIFF turns itself upright here and drops the tag
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


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return ``pixels`` (height, width, channels) uint8 as (size, size, channels), bilinear with antialiasing."""
    if pixels.shape[:2] == (size, size):
        return pixels
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    resized: torch.Tensor = transforms.resize(image, [size, size], antialias=True)
    return resized.permute(1, 2, 0).contiguous().numpy()


def digest(data: bytes) -> bytes:
    """Return a 16-byte hash of ``data``: equal for equal content."""
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass(frozen=True)
class OnDemand:
    """Images that are decoded each time they are asked for, for sources too large to keep.

    Attributes:
        read: position to decoded image; safe to call from several processes.
        size: height and width every image is brought to.
    """

    read: Callable[[int], Decoded]
    size: int

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the images at ``index`` as (len(index), size, size, 3) uint8."""
        images = np.empty((len(index), self.size, self.size, 3), dtype=np.uint8)
        for image, i in zip(images, index, strict=True):
            image[:] = resize(self.read(int(i)).pixels, self.size)
        return images


class Joined:
    """Arrays of images one behind the other, as they are: one array of them all would take as much memory again.

    Args:
        arrays: each (n, height, width, channels) uint8, all of the same height, width and channels.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays
        self.starts = [0, *accumulate(map(len, arrays))]

    def __getitem__(self, index: np.ndarray | int) -> np.ndarray:
        """Return the images at the positions ``index`` (B,) as (B, height, width, channels); of a scalar, that image.

        Raises:
            IndexError: a position is none of 0 to N - 1; none counts from the end.
        """
        low, high = (index.min(initial=0), index.max(initial=0)) if isinstance(index, np.ndarray) else (index, index)
        if low < 0 or high >= self.starts[-1]:
            raise IndexError(f"there are {self.starts[-1]} images, and a position is below 0 or past them")
        if not isinstance(index, np.ndarray):
            part = bisect_right(self.starts, index) - 1
            image: np.ndarray = self.arrays[part][index - self.starts[part]]
            return image
        images = np.empty((len(index), *self.arrays[0].shape[1:]), dtype=np.uint8)
        for array, start in zip(self.arrays, self.starts[:-1], strict=True):
            here = (index >= start) & (index < start + len(array))
            images[here] = array[index[here] - start]
        return images


@dataclass(frozen=True)
class Scan:
    """What one pass over all images found.

    Attributes:
        digests: 16 bytes an image, (N, 16) uint8.
        corrupt: messages of the images that could not be decoded, by position.
    """

    digests: np.ndarray
    corrupt: dict[int, str]


def scan(
    read: Callable[[int], Decoded],
    count: int,
    keep: Callable[[int, np.ndarray], None],
    *,
    threads: bool,
    skip_corrupt: bool,
) -> Scan:
    """Decode every image once, with a progress bar.

    Args:
        read: position to decoded image.
        count: how many images there are.
        keep: called with position and pixels of each image, in order.
        threads: decode several images at a time.
        skip_corrupt: note an image that cannot be decoded instead of raising.

    Raises:
        CorruptImageError: an image cannot be decoded and ``skip_corrupt`` is False.
    """
    digests = np.zeros((count, 16), dtype=np.uint8)
    corrupt: dict[int, str] = {}

    def attempt(position: int) -> Decoded | CorruptImageError:
        try:
            return read(position)
        except CorruptImageError as error:
            return error

    results = _in_threads(attempt, range(count)) if threads else map(attempt, range(count))
    bar = tqdm(results, "decoding images", count, leave=False, delay=1, disable=None)
    for position, result in enumerate(bar):
        if isinstance(result, Decoded):
            digests[position] = np.frombuffer(result.digest, np.uint8)
            keep(position, result.pixels)
        elif skip_corrupt:
            corrupt[position] = str(result)
        else:
            raise result
    return Scan(digests, corrupt)


def _in_threads(
    work: Callable[[int], Decoded | CorruptImageError], positions: Sequence[int]
) -> Iterator[Decoded | CorruptImageError]:
    """Map in order, at most ``_LOOKAHEAD`` images ahead of the one that is taken."""
    upcoming = iter(positions)
    with ThreadPoolExecutor() as pool:
        pending = deque(pool.submit(work, i) for i in islice(upcoming, _LOOKAHEAD))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, i) for i in islice(upcoming, 1))
            yield result


def content_numbers(digests: np.ndarray) -> np.ndarray:
    """Return for each row of ``digests`` (N, 16) a number that is equal exactly for equal rows, (N,)."""
    rows = np.ascontiguousarray(digests).view(np.dtype((np.void, digests.shape[1]))).ravel()
    return np.unique(rows, return_inverse=True)[1]
