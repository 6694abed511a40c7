"""Images of a detector without groups that seem to show one part several times, so that new parts break the promise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metrad.errors import InputError


@dataclass(frozen=True)
class UngroupedViews:
    """What ``dataset.group=auto`` finds among the images of a run that has no groups.

    Thresholds then hold for new images of the same parts. New parts give more false alarms.

    Attributes:
        images: number of images that were looked at.
        groups: number of groups among them, an image alone counted as one.
    """

    images: int
    groups: int

    @classmethod
    def of(cls, entry: Any, place: str) -> "UngroupedViews | None":
        """Return the record that ``entry`` holds; None for None, as in the records of older detectors.

        Args:
            entry: the numbers by name, as ``dataclasses.asdict`` gives them.
            place: where the entry stands, for messages.

        Raises:
            InputError: the entry is damaged.
        """
        if entry is None:
            return None
        numbers = entry.values() if isinstance(entry, Mapping) and set(entry) == {"images", "groups"} else ()
        if not numbers or not all(type(number) is int for number in numbers):  # True is an int too
            raise InputError(f"{place} does not hold the two numbers images and groups; create it again")
        found = cls(**entry)
        if not 1 <= found.groups < found.images:
            raise InputError(f"{place} has numbers out of range: {found.groups} groups of {found.images} images")
        return found

    @property
    def words(self) -> str:
        """The record in words, such as "300 images seem to show 62 parts"."""
        return f"{self.images:,} images seem to show {self.groups:,} parts"
