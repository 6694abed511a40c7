"""Several arrays of images, indexed as one."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np


class Joined:
    """Several arrays of images, indexed as one. They are not concatenated, which would double their memory.

    Args:
        arrays: each (n, height, width, channels) uint8; all have the same height, width and channels.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays
        self.starts = [0, *accumulate(map(len, arrays))]

    def __getitem__(self, index: np.ndarray | int) -> np.ndarray:
        """Return the images at the positions ``index`` (B,) as (B, height, width, channels); for an integer, one image.

        Raises:
            IndexError: a position is negative, or not below the number of images.
        """
        low, high = (index.min(initial=0), index.max(initial=0)) if isinstance(index, np.ndarray) else (index, index)
        if low < 0 or high >= self.starts[-1]:
            raise IndexError(f"there are {self.starts[-1]} images, counted from 0; got positions {low} to {high}")
        if not isinstance(index, np.ndarray):
            part = bisect_right(self.starts, index) - 1
            image: np.ndarray = self.arrays[part][index - self.starts[part]]
            return image
        images = np.empty((len(index), *self.arrays[0].shape[1:]), dtype=np.uint8)
        for array, start in zip(self.arrays, self.starts[:-1], strict=True):
            here = (index >= start) & (index < start + len(array))
            images[here] = array[index[here] - start]
        return images
