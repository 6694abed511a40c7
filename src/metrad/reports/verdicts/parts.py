"""Verdicts on parts: one for all images of a part, by the largest of their scores."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from metrad.data.groups import NUMBER, PARENT, VIEW, Pattern, Size, group_numbers
from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration, alarms, conformal_p_values, largest_by_group
from metrad.reports.verdicts.rows import ANOMALOUS, ERROR, NORMAL, Cells

OPTION = "--group"
SHOWN = 6  # images of the largest part that are named


@dataclass(frozen=True)
class Parts:
    """The part that each image shows.

    Attributes:
        names: name of each part, (P,), each once.
        of: part of each image by the image's name.
    """

    names: list[str]
    of: Mapping[str, int]

    @classmethod
    def by(
        cls,
        wanted: str | Pattern,
        images: Sequence[str],
        below: Sequence[str],
        size_of: Callable[[int], Size] = lambda position: (0, 0),
    ) -> "Parts":
        """Return the parts of images.

        Args:
            wanted: ``parent`` for the folder of an image, a regular expression over its path with named groups, or a
                pattern with settings.
            images: name of each image, (N,).
            below: path of each image below the folder that all are in, with ``/``, (N,).
            size_of: returns the width and height of the image at a position; called only for a pattern with ``size``.

        Raises:
            InputError: the expression cannot be used, or no image matches it.
        """
        try:
            numbers = group_numbers(wanted, below, columns={}, size_of=size_of)
        except InputError as error:
            raise InputError(str(error).replace("dataset.group", OPTION)) from error
        count = int(numbers.max(initial=-1)) + 1
        first = np.full(count, len(numbers))
        np.minimum.at(first, numbers, np.arange(len(numbers)))
        names = _distinct([_title(wanted, below[position]) for position in first])
        return cls(names, dict(zip(images, numbers.tolist(), strict=True)))

    def name_of(self, image: str) -> str:
        """Return the name of the part that ``image`` shows."""
        return self.names[self.of[image]]

    @property
    def views(self) -> np.ndarray:
        """Number of images of each part, (P,)."""
        return np.bincount(list(self.of.values()), minlength=len(self.names))

    @property
    def most_views(self) -> int:
        """Largest number of images of a part."""
        return int(self.views.max(initial=0))

    def described(self) -> str:
        """Return in one line how many parts there are, how many have one image, and the images of the largest part."""
        views, count = self.views, len(self.of)
        largest = int(views.argmax())
        shown = [name for name, part in self.of.items() if part == largest]
        listed = ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
        alone = int((views == 1).sum())
        return (
            f"{count:,} image{'s'[: count != 1]} are {len(views):,} part{'s'[: len(views) != 1]}, {alone:,} of them of "
            f"a single image; the largest part: {listed}"
        )


def calibration_of_parts(calibration: Calibration) -> np.ndarray:
    """Return the largest calibration score of each part, in ascending order, (G,)."""
    return np.sort(largest_by_group(calibration.scores, calibration.groups))


def require_views(calibration: Calibration, parts: Parts) -> str:
    """Return a warning if a part has more views than any calibration part; empty if none has.

    Raises:
        InputError: parts have several views, and the calibration has one image a part.
    """
    groups = calibration.groups
    known = 1 if groups is None else int(np.unique(groups, return_counts=True)[1].max(initial=1))
    most = parts.most_views
    if most > 1 and known == 1:
        raise InputError(
            f"{OPTION}: parts have up to {most} images, and the detector was calibrated with one image a part; the "
            "largest of several scores is larger than one score, so more than the promised share of good parts would "
            "be flagged. Train with dataset.group, so that the calibration has parts too, or leave --group out"
        )
    if most > known:
        return (
            f"a part has {most} images, and the calibration parts have at most {known}; the largest of more scores is "
            "larger, so more than the promised share of such parts is flagged"
        )
    return ""


class PartScores:
    """Collects the scores of images and gives a verdict on each part.

    Args:
        parts: the part of each image.
        calibration: largest score of each calibration part, ascending, (G,).
        threshold: a part is anomalous if its largest score is above it.
    """

    def __init__(self, parts: Parts, calibration: np.ndarray, threshold: float) -> None:
        self.parts, self.calibration, self.threshold = parts, calibration, threshold
        self._worst: dict[int, tuple[float, str]] = {}
        self._images: dict[int, int] = defaultdict(int)
        self._errors: dict[int, int] = defaultdict(int)

    def add(self, image: str, score: float) -> None:
        """Add the score of an image; NaN if it could not be scored."""
        part = self.parts.of[image]
        self._images[part] += 1
        if np.isnan(score):
            self._errors[part] += 1
        elif part not in self._worst or score > self._worst[part][0]:
            self._worst[part] = (score, image)

    def rows(self) -> list[Cells]:
        """Return a row for each part, in the order of the parts: its largest score and the image that has it.

        A part none of whose images could be scored has the verdict ``error``.
        """
        scored = np.array([self._worst[part][0] for part in sorted(self._worst)])
        p_values = conformal_p_values(self.calibration, scored) if len(scored) else scored
        above = alarms(scored, self.threshold)
        found = dict(zip(sorted(self._worst), zip(p_values.tolist(), above.tolist(), strict=True), strict=True))
        return [self._row(part, *found.get(part, (None, None))) for part in sorted(self._images)]

    def _row(self, part: int, p_value: float | None, above: bool | None) -> Cells:
        score, worst = self._worst.get(part, (None, None))
        return {
            "group": self.parts.names[part],
            "images": self._images[part],
            "score": score,
            "p_value": p_value,
            "verdict": ERROR if above is None else ANOMALOUS if above else NORMAL,
            "worst": worst,
            "errors": self._errors[part],
        }


def _title(wanted: str | Pattern, name: str) -> str:
    """Return the name of the part whose first image is ``name``."""
    if wanted == PARENT:
        return str(PurePosixPath(name).parent)
    match = re.search(wanted if isinstance(wanted, str) else wanted.pattern, name)
    texts = match.groupdict() if match else {}
    said = [text for key, text in texts.items() if key not in (NUMBER, VIEW) and text]
    return "/".join(said) or name


def _distinct(titles: Sequence[str]) -> list[str]:
    """Return ``titles`` with a number behind each one that was there before, as ``a (2)``."""
    seen: set[str] = set()
    made = []
    for title in titles:
        name, number = title, 1
        while name in seen:
            number += 1
            name = f"{title} ({number})"
        seen.add(name)
        made.append(name)
    return made
