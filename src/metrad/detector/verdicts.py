"""Verdicts: what a detector says of images, one row an image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from metrad.errors import InputError
from metrad.evaluation.conformal import (
    Calibration,
    alarms,
    calibration_groups_needed,
    confident_threshold,
    conformal_threshold,
    largest_by_group,
)
from metrad.evaluation.planning import needed

if TYPE_CHECKING:  # pandas takes half a second to import
    import pandas as pd


@dataclass(frozen=True)
class Verdicts:
    """The scores of N images, and what follows from them. An image that cannot be read is a row with its error.

    Attributes:
        images: names (N) of the images: their paths, or for pixels their numbers in the order given.
        scores: anomaly scores (N,) float32, higher is more anomalous; NaN where there is an error.
        p_values: conformal p-values (N,) float64; NaN where there is an error, and without calibration images.
        nearest: name (N) of the nearest normal image; empty if the scorer compares with none, and where there is an
            error.
        known: whether the detector was fitted on an image of the same content, (N,) booleans.
        errors: why an image could not be scored (N); empty where it was.
        calibration: scores of the calibration images, which the thresholds come from.
    """

    images: list[str]
    scores: np.ndarray
    p_values: np.ndarray
    nearest: list[str]
    known: np.ndarray
    errors: list[str]
    calibration: Calibration = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def anomalous(self, rate: float = 0.05, confidence: float | None = None) -> np.ndarray:
        """Return whether each image is an alarm, (N,) booleans; False where there is an error.

        Args:
            rate: share of normal images that may be alarms.
            confidence: probability with which the threshold keeps the rate; None for a threshold that keeps it on
                average over calibration sets.

        Raises:
            InputError: there are too few calibration images for the rate, or a number lies outside (0, 1).
        """
        return alarms(self.scores, threshold(self.calibration, rate, confidence))  # NaN is above nothing

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table with a row for each image and the columns image, score, p_value, nearest, known and error."""
        import pandas as pd

        columns = {"image": self.images, "score": self.scores, "p_value": self.p_values, "nearest": self.nearest}
        return pd.DataFrame({**columns, "known": self.known, "error": self.errors})

    @classmethod
    def joined(cls, parts: Sequence[Self], calibration: Calibration) -> Self:
        """Return the rows of ``parts``, one part after another, as one; ``calibration`` is that of all parts."""

        def rows(name: str, dtype: type) -> np.ndarray:
            return np.concatenate([np.empty(0, dtype), *(getattr(part, name) for part in parts)]).astype(dtype)

        def texts(name: str) -> list[str]:
            return [text for part in parts for text in getattr(part, name)]

        return cls(
            images=texts("images"),
            scores=rows("scores", np.float32),
            p_values=rows("p_values", np.float64),
            nearest=texts("nearest"),
            known=rows("known", np.bool_),
            errors=texts("errors"),
            calibration=calibration,
        )


@dataclass(frozen=True)
class Threshold:
    """A score above which an image is an alarm.

    Attributes:
        rate: share of normal images that may be alarms.
        confidence: probability with which the threshold keeps the rate; None if it keeps the rate on average.
        value: the threshold.
    """

    rate: float
    confidence: float | None
    value: float

    @property
    def name(self) -> str:
        """The name, such as "rate 0.05" or "rate 0.05 with confidence 0.95"."""
        return f"rate {self.rate:g}" + ("" if self.confidence is None else f" with confidence {self.confidence:g}")


def threshold(calibration: Calibration, rate: float, confidence: float | None = None) -> float:
    """Return the score above which an image is an alarm; the arguments are those of ``Verdicts.anomalous``.

    Raises:
        InputError: there are too few calibration images for the rate, or a number lies outside (0, 1).
    """
    for name, value in (("rate", rate), ("confidence", confidence)):
        if value is not None and not 0 < value < 1:
            raise InputError(f"{name} must lie between 0 and 1, ends excluded, got {value}")
    scores, groups = calibration.scores, calibration.groups
    there, takes = len(largest_by_group(scores, groups)), calibration_groups_needed(rate, confidence)
    if there < takes:
        counted = "images" if groups is None else "groups of images"
        kept = "" if confidence is None else f" with confidence {confidence:g}"
        raise InputError(
            f"a false-alarm rate of {rate:g}{kept} takes {takes} calibration {counted}, and this detector has "
            f"{there}; ask a higher rate, or {takes_good_parts(rate, confidence)}"
        )
    if confidence is None:
        return conformal_threshold(scores, rate, groups)
    return confident_threshold(scores, rate, confidence, groups)


def takes_good_parts(rate: float, confidence: float | None) -> str:
    """Return in words how many good parts ``metrad fit`` needs for a threshold; the arguments are as for it."""
    asked = "" if confidence is None else f" --confidence {confidence:g}"
    parts = needed(rate, confidence).parts
    return f"fit the detector with at least {parts:,} good parts (metrad plan --rate {rate:g}{asked})"
