"""Scoring: images are decoded in threads ahead of the model, embedded in blocks of one shape, and scored in order."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from metrad.data.arrays import kept_pixels
from metrad.data.bit_depth import FULL, peak, usual_depth
from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, Decoding, Kept, Reading
from metrad.data.duplicates import digest
from metrad.detector.images import Given
from metrad.errors import InputError, first_line

log = logging.getLogger(__name__)

DOUBTFUL = 12  # bits; where all images of 16 bits have values below these, white is hardly 65535


@dataclass(frozen=True)
class Prepared:
    """One image ready for the model, or the error that it met.

    Attributes:
        name: name of the image.
        pixels: (height, width, channels) uint8, as the training images were kept; None if there is an error.
        key: key of the content, 16 bytes, comparable with those of the images that the detector was fitted on.
        error: why the image cannot be scored; empty if it can.
        peak: its largest value if it has more than 8 bits; 0 otherwise.
    """

    name: str
    pixels: np.ndarray | None = None
    key: bytes = b""
    error: str = ""
    peak: int = 0


def scaled_by(bits: int | None, decoding: Decoding) -> Decoding:
    """Return how images are decoded whose white is the largest value of ``bits`` bits; None for what is recorded.

    Raises:
        InputError: ``bits`` lies outside 8 to 16, or the detector's decoder knows 16 bits alone.
    """
    if bits is None:
        return decoding
    if not isinstance(bits, int | np.integer) or isinstance(bits, bool) or not 8 <= bits <= FULL:
        raise InputError(f"bits must be a whole number from 8 to {FULL}, got {bits!r}")
    if decoding.decoder == 1 and bits != FULL:
        raise InputError(
            f"a detector of a run from before version 0.2 scales images by {FULL} bits, got bits={bits}; train it "
            "again, or give images of 8 bits"
        )
    return replace(decoding, range=int(bits))


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
    return Prepared(image.name, pixels, decoded.digest, peak=peak(decoded.pixels))


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
    known = decoding.range is not None
    with ThreadPoolExecutor(os.cpu_count(), "decode") as pool:

        def begun(count: int) -> Iterator[Future[Prepared]]:
            return (pool.submit(prepared, image, decoding, kept) for image in islice(images, count))

        pending = deque(begun(2 * size))
        try:
            while pending:
                found = [pending.popleft().result() for _ in range(min(size, len(pending)))]
                pending.extend(begun(len(found)))
                known = known or _told(found)
                yield found
        finally:
            for future in pending:
                future.cancel()


def _told(found: Sequence[Prepared]) -> bool:
    """Return whether there are images of more than 8 bits; warn if the values of all leave their range in doubt."""
    largest = max(one.peak for one in found)
    if 0 < largest < 1 << DOUBTFUL:
        log.warning(
            "the first images of more than 8 bits have values up to %d. They are scored with %d as white, since the "
            "detector was fitted on images of 8 bits; if that is too much, say so: metrad predict --bits %d, or "
            "bits=%d in Python",
            largest,
            (1 << FULL) - 1,
            *[usual_depth(largest)] * 2,
        )
    return largest > 0
