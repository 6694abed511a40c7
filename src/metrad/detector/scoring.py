"""Scoring: images are decoded in threads ahead of the model, embedded in blocks of one shape, and scored in order."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from metrad.data.arrays import kept_pixels
from metrad.data.bit_depth import FULL
from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, Decoding, Kept, Reading
from metrad.data.duplicates import digest
from metrad.detector.images import Given
from metrad.errors import InputError, first_line


@dataclass(frozen=True)
class Prepared:
    """One image ready for the model, or the error that it met.

    Attributes:
        name: name of the image.
        pixels: (height, width, channels) uint8, as the training images were kept; None if there is an error.
        key: key of the content, 16 bytes, comparable with those of the images that the detector was fitted on.
        error: why the image cannot be scored; empty if it can.
    """

    name: str
    pixels: np.ndarray | None = None
    key: bytes = b""
    error: str = ""


def reading_of(decoding: Decoding, kept: Kept) -> Reading:
    """Return how image files are read for a detector."""
    return Reading(decoding.decoder, kept.max_megapixels, decoding.range)


def prepared(image: Given, decoding: Decoding, kept: Kept) -> Prepared:
    """Decode and resize one image as the training images were; an image that cannot be read gives its error."""
    try:
        decoded = image.read()
        if kept.as_arrays:
            decoded = _as_array(decoded, kept.channels)
        pixels = kept_pixels(decoded, (kept.height, kept.width), decoding.range or FULL)
    except InputError as error:
        return Prepared(image.name, error=_reason(error))
    return Prepared(image.name, pixels, decoded.digest)


def _as_array(decoded: Decoded, channels: int) -> Decoded:
    """Return an image as an array source holds it: one channel where all are equal and the source has one."""
    pixels = decoded.pixels
    if channels == 1 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., :1]
    return Decoded(pixels, digest(pixels.tobytes()), decoded.white_is_zero)


def _reason(error: InputError) -> str:
    if not isinstance(error, CorruptImageError):
        return first_line(error)
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return f"cannot be read as an image ({cause.strerror})"
    return f"cannot be read as an image ({error.reason})"


def batches(images: Iterator[Given], decoding: Decoding, kept: Kept, size: int) -> Iterator[list[Prepared]]:
    """Yield the images ready for the model in lists of ``size``, in order.

    Threads work on at most two such lists at a time, and ``images`` is read no further ahead.
    """
    with ThreadPoolExecutor(os.cpu_count(), "decode") as pool:

        def begun(count: int) -> Iterator[Future[Prepared]]:
            return (pool.submit(prepared, image, decoding, kept) for image in islice(images, count))

        pending = deque(begun(2 * size))
        try:
            while pending:
                found = [pending.popleft().result() for _ in range(min(size, len(pending)))]
                pending.extend(begun(len(found)))
                yield found
        finally:
            for future in pending:
                future.cancel()
