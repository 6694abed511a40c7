"""Arrays of images by position, in memory or decoded on demand; and resizing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from metrad.data.bit_depth import to_8_bits
from metrad.data.decoding import Decoded
from metrad.errors import InputError


class Indexable(Protocol):
    """Images by position. An index array gives (len(index), height, width, channels) uint8."""

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the images at the positions ``index``."""


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return ``pixels`` (height, width, channels) uint8 at the (height, width) ``size``, bilinear with antialiasing."""
    if pixels.shape[:2] == size:
        return pixels
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    resized: torch.Tensor = transforms.resize(image, list(size), antialias=True)
    return resized.permute(1, 2, 0).contiguous().numpy()


@dataclass(frozen=True)
class OnDemand:
    """Images that are decoded at each access, for sources too large to keep.

    Attributes:
        read: function from a position to the decoded image; safe to call from several processes.
        size: height and width in pixels that every image is resized to.
        depth: bits of the range that images of more than 8 bits are scaled by.
        digests: key of each image's content when it was first decoded, (N, 16) uint8.
        names: path or number of each image.
    """

    read: Callable[[int], Decoded]
    size: int
    depth: int
    digests: np.ndarray
    names: Sequence[str]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the images at ``index`` as (len(index), size, size, 3) uint8.

        Raises:
            InputError: the content of an image is not the one that was first decoded.
        """
        images = np.empty((len(index), self.size, self.size, 3), dtype=np.uint8)
        for image, i in zip(images, index.tolist(), strict=True):
            decoded = self.read(i)
            if decoded.digest != self.digests[i].tobytes():
                raise changed_image(self.names[i])
            image[:] = kept_pixels(decoded, (self.size, self.size), self.depth)
        return images


def kept_pixels(image: Decoded, size: tuple[int, int], depth: int) -> np.ndarray:
    """Return a decoded image as it is kept: 8 bits, resized to the (height, width) ``size``.

    Training and scoring share this function, so an image has the same pixels in both.
    """
    return resize(to_8_bits(image.pixels, depth, white_is_zero=image.white_is_zero), size)


def changed_image(name: str) -> InputError:
    """Return the error for an image whose content changed while the run used it."""
    return InputError(
        f"{name} has changed since this run first read it, so its figures would be of no one set of images; "
        "let the images rest and train again"
    )
