"""The pixels of images and of their nearest good images, for people to look at."""

from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from metrad.data.bit_depth import FULL, to_8_bits
from metrad.data.decoding import Decoding, Reading, decode_file


class Images:
    """Reads images as the detector does, at their own resolution.

    Args:
        decoding: how the detector's images were decoded.
        good: folder that the names of the good images are relative to; None if it is unknown.
    """

    def __init__(self, decoding: Decoding, good: Path | None) -> None:
        self.decoding, self.good = decoding, good

    @cached_property
    def _reading(self) -> Reading:
        return Reading(self.decoding.decoder)

    def read(self, path: str | Path) -> Image.Image:
        """Return the image at ``path`` as upright 8-bit RGB.

        Raises:
            CorruptImageError: it cannot be read.
        """
        decoded = decode_file(Path(path), self._reading)
        pixels = to_8_bits(decoded.pixels, self.decoding.range or FULL, white_is_zero=decoded.white_is_zero)
        return Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())

    def nearest(self, name: str) -> Path | None:
        """Return the file of the good image ``name``; None if it is not on this disk.

        The name comes from the detector, which may be from elsewhere, so it must not lead out of the folder.
        """
        relative = PurePosixPath(name)
        if self.good is None or not name or relative.is_absolute() or ".." in relative.parts:
            return None
        path = self.good / relative
        try:
            return path if path.is_file() else None
        except (OSError, ValueError):  # a name that can be no file here
            return None


def bounded(image: Image.Image, side: int) -> Image.Image:
    """Return ``image`` reduced to at most ``side`` pixels in width and height; a smaller one stays as it is."""
    share = side / max(image.size)
    if share >= 1:
        return image
    width, height = (max(1, round(length * share)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
