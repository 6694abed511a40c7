"""The pixels of images and of their nearest good images, for people to look at."""

from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
from PIL import Image

from metrad.data.bit_depth import FULL, to_8_bits
from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, Reading, decode_file
from metrad.detector.core import Detector


class Images:
    """Reads images as the detector does, at their own resolution.

    Args:
        reading: how files are read.
        good: folder that the names of the good images are relative to; None if it is unknown.
        keys: keys of the contents of the images that the detector was fitted on; None if they are unknown.
        bits: bits of the range of images that are no good ones, if they have more than 8; None for that of ``reading``.
    """

    def __init__(
        self, reading: Reading, good: Path | None, keys: frozenset[bytes] | None = None, bits: int | None = None
    ) -> None:
        self.reading, self.good, self.keys, self.bits = reading, good, keys, bits

    @classmethod
    def of(cls, detector: Detector, good: Path | None = None, bits: int | None = None) -> Self:
        """Return the reader of a detector's images; ``good`` is the folder of the good ones, if it was moved."""
        most = detector.kept.max_megapixels if detector.kept else Reading.max_megapixels
        keys = None if detector.fitted_digests is None else frozenset(map(bytes, detector.fitted_digests))
        reading = Reading(detector.decoding.decoder, most, detector.decoding.range)
        return cls(reading, good or detector.root, keys, bits)

    def read(self, path: str | Path) -> Image.Image:
        """Return the image at ``path`` as upright 8-bit RGB.

        Raises:
            CorruptImageError: it cannot be read.
        """
        return _seen(decode_file(Path(path), self.reading), self.bits or self.reading.depth)

    def read_good(self, name: str) -> Image.Image | None:
        """Return the good image ``name``; None if it is not on this disk, or another image is there now.

        The name and the folder come from the detector, which may be from elsewhere. So no file is shown but one whose
        content the detector was fitted on.
        """
        relative = PurePosixPath(name)
        if self.good is None or not name or relative.is_absolute() or ".." in relative.parts:
            return None
        try:
            decoded = decode_file(self.good / relative, self.reading)
        except CorruptImageError:
            return None
        return _seen(decoded, self.reading.depth) if self.keys is None or decoded.digest in self.keys else None


def _seen(decoded: Decoded, depth: int | None) -> Image.Image:
    pixels = to_8_bits(decoded.pixels, depth or FULL, white_is_zero=decoded.white_is_zero)
    return Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())


def bounded(image: Image.Image, side: int) -> Image.Image:
    """Return ``image`` reduced to at most ``side`` pixels in width and height; a smaller one stays as it is."""
    share = side / max(image.size)
    if share >= 1:
        return image
    width, height = (max(1, round(length * share)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
