"""Automatic sizes: how many groups of normal images are kept for testing and for calibration."""

from dataclasses import dataclass

FEWEST = 10  # groups of normal images, below which nothing useful could be kept for three roles
AUTO = "auto"


@dataclass(frozen=True)
class Automatic:
    """A size that follows from the number of groups of normal images.

    A fifth of the groups are tested on. Of the others, as many are calibrated on as the best threshold takes that
    leaves at least half as many for training. If no threshold can be had, two thirds of them are calibrated on. With
    very many groups it is a quarter of them.

    Attributes:
        steps: numbers of calibration groups that thresholds take, rising, such as 19, 59, 99 and 299.
    """

    steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the value of the setting."""
        return AUTO

    def to_test_on(self, groups: int) -> int:
        """Return how many of ``groups`` groups of normal images are tested on."""
        return max(1, round(groups / 5))

    def to_calibrate_on(self, groups: int) -> int:
        """Return how many of ``groups`` groups, those that are not tested on, are calibrated on."""
        most = 2 * groups // 3
        return max(groups // 4, max((step for step in self.steps if step <= most), default=most))
