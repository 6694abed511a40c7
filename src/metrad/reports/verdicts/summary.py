"""What a batch of verdicts amounts to: counts, and what is to be expected of as many good images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from metrad.data.ungrouped import UngroupedViews
from metrad.evaluation.foreseen import most_false_alarms
from metrad.reports.verdicts.rows import ANOMALOUS, ERROR, Cells, Row

PROBABILITY = 0.95  # of the foreseen number of false alarms, if no confidence is asked for


@dataclass(frozen=True)
class Promise:
    """What a threshold promises, and the scores that it comes from.

    Attributes:
        rate: share of good images or parts that may be flagged.
        confidence: probability with which the threshold keeps the rate; None if it keeps it on average.
        threshold: a score above it is flagged.
        independent: calibration scores of parts that are independent of each other, (G,); None if several scores are of
            one part, so that the number of false alarms has no known distribution.
        ungrouped: the detector's images that seem to show one part several times without being grouped; the promise
            then does not hold for new parts. None if there are none.
    """

    rate: float
    confidence: float | None
    threshold: float
    independent: np.ndarray | None
    ungrouped: UngroupedViews | None = None

    @property
    def words(self) -> str:
        """The promise in words, such as "rate 0.05"."""
        return f"rate {self.rate:g}" + ("" if self.confidence is None else f" with confidence {self.confidence:g}")

    def foreseen(self, count: int, kind: str) -> str:
        """Return in words how many of ``count`` good images or parts would be flagged."""
        good, expected = _of(count, f"good {kind}"), self.rate * count
        shown = f"{expected:,.0f}" if expected >= 100 else f"{expected:.3g}"
        about = f"about {shown} would be flagged"
        if self.independent is None:
            return f"of {good} {'' if self.confidence is None else 'at most '}{about}"
        probability = self.confidence or PROBABILITY
        most = most_false_alarms(self.independent, self.threshold, count, probability)
        if self.confidence is not None:
            return f"of {good} no more than {most:,} would be flagged with probability {probability:g}"
        return f"of {good} {about}, and with probability {probability:g} no more than {most:,}"

    @property
    def caution(self) -> str:
        """Why the promise does not hold for new parts, in words; empty if it does."""
        if self.ungrouped is None:
            return ""
        return (
            f"the detector was fitted without groups, and {self.ungrouped.words}: {self.words} is promised for new "
            "images of the same parts, and new parts give more false alarms; fit it with --group auto (train.py: "
            "dataset.group=auto)"
        )


@dataclass
class Tally:
    """Counts of the images of a call.

    Attributes:
        images: number of images with a verdict or an error, those kept from an earlier call included.
        kept: number of images kept from an earlier call.
        errors: number of images that could not be scored.
        flagged: number of anomalous images.
        fitted_on: number of images that the detector was fitted on.
        first_error: the first image that could not be scored, and why; empty if all were.
        parts: number of parts by verdict; empty without groups.
        seconds: time that scoring took.
    """

    images: int = 0
    kept: int = 0
    errors: int = 0
    flagged: int = 0
    fitted_on: int = 0
    first_error: str = ""
    parts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, rows: Sequence[Row]) -> None:
        """Count ``rows``."""
        failed = [row for row in rows if row.verdict == ERROR]
        self.images += len(rows)
        self.errors += len(failed)
        self.flagged += sum(row.verdict == ANOMALOUS for row in rows)
        self.fitted_on += sum(row.fitted_on for row in rows)
        if failed and not self.first_error:
            self.first_error = f"{failed[0].image} ({failed[0].error})"

    def add_parts(self, rows: Sequence[Cells]) -> None:
        """Count the verdicts on parts."""
        for row in rows:
            self.parts[row["verdict"]] = self.parts.get(row["verdict"], 0) + 1

    @property
    def anything_flagged(self) -> bool:
        """Whether a part is anomalous, or an image if there are no parts."""
        return bool(self.parts.get(ANOMALOUS, 0) if self.parts else self.flagged)

    def lines(self, promise: Promise, of_parts: Promise | None = None) -> list[str]:
        """Return the lines that a call ends with.

        Args:
            promise: what the threshold of images promises.
            of_parts: what that of parts promises; None without groups.
        """
        new = self.images - self.kept
        kept = f" ({self.kept:,} kept from before)" if self.kept else ""
        speed = f"{self.seconds:.1f} s ({new / max(self.seconds, 1e-9):.1f} images/s)"
        counted = f"{_of(self.errors, 'errors')}, {self._flagged(promise)}"
        lines = [f"{_of(new, 'images')} scored in {speed}{kept}, {counted}", *self._judged(promise, of_parts)]
        if self.fitted_on:
            lines.append(
                f"the detector was fitted on {self.fitted_on:,} of these images: their scores say nothing about "
                "new ones"
            )
        if self.first_error:
            lines.append(f"{_of(self.errors, 'images')} could not be scored, the first: {self.first_error}")
        return lines

    def heads(self, promise: Promise, of_parts: Promise | None = None) -> list[str]:
        """Return the lines at the top of a page: what is flagged, and what would be of good images or parts."""
        judged = self._judged(promise, of_parts)
        return judged if of_parts is not None else [self._flagged(promise), *judged]

    def _flagged(self, promise: Promise) -> str:
        return f"{self.flagged:,} of {self.images:,} flagged at {promise.words}"

    def _judged(self, promise: Promise, of_parts: Promise | None) -> list[str]:
        """Return the lines on parts, and on what would be flagged of good images or parts."""
        caution = [promise.caution] if promise.caution else []
        if of_parts is None:
            unseen = self.images - self.errors - self.fitted_on
            return caution or ([promise.foreseen(unseen, "images")] if unseen else [])
        judged = sum(self.parts.values()) - self.parts.get(ERROR, 0)
        flagged = f"{self.parts.get(ANOMALOUS, 0):,} of {_of(judged, 'parts')} flagged at {of_parts.words}"
        if judged and not caution:
            return [f"{flagged}; {of_parts.foreseen(judged, 'parts')}"]
        return [flagged, *caution]


def _of(count: int, what: str) -> str:
    """Return a count with its noun, which loses its ``s`` where the count is 1."""
    return f"{count:,} {what.removesuffix('s') if count == 1 else what}"
