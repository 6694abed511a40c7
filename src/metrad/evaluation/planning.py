"""How many good parts a promised false-alarm rate takes, before any is photographed, and which rates parts allow.

A part is a group of images: all photographs of one part count once. Parts are shared out as ``metrad fit`` does it
(``data/sizing.py``). Calibration parts decide the thresholds, test parts measure the rate. The index has no theory that
says how many parts it needs: its size decides which defects are found, and not the rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from metrad.data.sizing import FEWEST, Automatic
from metrad.errors import InputError
from metrad.evaluation.conformal import calibration_groups_needed


@dataclass(frozen=True)
class Needed:
    """Good parts that a false-alarm rate takes.

    Attributes:
        rate: the false-alarm rate.
        confidence: probability that a threshold keeps it over calibration sets; None for a threshold that keeps it on
            average.
        calibration: parts that the threshold is computed from.
        test: parts that the rate is measured on.
        index: parts that the detector is fitted on.
    """

    rate: float
    confidence: float | None
    calibration: int
    test: int
    index: int

    @property
    def parts(self) -> int:
        """Number of good parts in all."""
        return self.calibration + self.test + self.index


def needed(rate: float, confidence: float | None = None) -> Needed:
    """Return the good parts that a rate takes; ``confidence`` as in ``Needed``.

    Raises:
        InputError: the rate or the confidence is outside (0, 1).
    """
    require_share("--rate", rate, 0.05)
    if confidence is not None:
        require_share("--confidence", confidence, 0.95)
    step = calibration_groups_needed(rate, confidence)
    # two thirds of the four fifths that are not tested on are calibrated on, rounded down
    least = max(FEWEST, 15 * step // 8 - 8)
    parts = next(parts for parts in count(least) if shares(parts, [step]).calibration >= step)
    found = shares(parts, [step])
    return Needed(rate, confidence, found.calibration, found.test, found.index)


def needed_beside_test(step: int) -> int:
    """Return the fewest good parts, without those tested on, of which at least ``step`` are calibrated on."""
    rule = Automatic((step,))
    return next(parts for parts in count(step) if rule.to_calibrate_on(parts) >= step)


@dataclass(frozen=True)
class Shares:
    """Numbers of good parts for calibration, for testing and for the index."""

    calibration: int
    test: int
    index: int


def shares(parts: int, steps: Sequence[int]) -> Shares:
    """Return how ``metrad fit`` shares out so many good parts.

    Args:
        parts: number of good parts.
        steps: numbers of calibration parts that the wanted thresholds take.

    Raises:
        InputError: there are too few parts.
    """
    if parts < FEWEST:
        raise InputError(f"--parts must be at least {FEWEST}, got {parts}")
    rule = Automatic(tuple(sorted(steps)))
    test = rule.to_test_on(parts)
    calibration = rule.to_calibrate_on(parts - test)
    return Shares(calibration, test, parts - test - calibration)


def smallest_rate(calibration: int, confidence: float | None = None) -> float:
    """Return the smallest rate that a threshold from so many calibration parts keeps; ``confidence`` as in ``Needed``.

    On average it is 1 / (n + 1); with the confidence C it is 1 - (1 - C)^(1 / n), the upper Clopper-Pearson bound of no
    alarm among n parts.
    """
    if confidence is None:
        return 1 / (calibration + 1)
    require_share("--confidence", confidence, 0.95)
    return -math.expm1(math.log1p(-confidence) / calibration)


def require_share(option: str, value: float, example: float) -> None:
    """Raise ``InputError`` if the ``value`` of an option is outside (0, 1); the line has an ``example``."""
    if not 0 < value < 1:
        raise InputError(f"{option} must lie between 0 and 1, ends excluded, such as {example}, got {value:g}")


def plan(rates: list[float], confidence: float, parts: int | None) -> str:
    """Return the plan in words: what each rate takes and, for a number of good parts, which rates they allow.

    Raises:
        InputError: a rate or the confidence is outside (0, 1), or the parts are too few.
    """
    lines = ["good parts needed (all photographs of one part count once):"]
    lines += [_row(("false alarms", "holds", "calibration", "test", "index", "together"))]
    rows = [needed(rate, kind) for rate in rates for kind in (None, confidence)]
    lines += [
        _row((_percent(one.rate), _kind(one.confidence), one.calibration, one.test, one.index, one.parts))
        for one in rows
    ]
    if parts is None:
        return "\n".join([*lines, _explained()])
    steps = [calibration_groups_needed(one.rate, one.confidence) for one in rows]
    share = shares(parts, steps)
    lines += [
        "",
        f"{parts:,} good parts: {share.calibration:,} for calibration, {share.test:,} for testing, {share.index:,} for "
        "the index. The smallest false-alarm rates that can be promised:",
    ]
    lines += [
        f"  {_kind(kind):<22} {_percent(_up(smallest_rate(share.calibration, kind)))}" for kind in (None, confidence)
    ]
    for one, step in zip(rows, steps, strict=True):
        answer = "can be promised" if step <= share.calibration else f"cannot be promised; {one.parts:,} parts can"
        lines.append(f"  {_percent(one.rate)} {_kind(one.confidence)}: {answer}")
    return "\n".join([*lines, _explained()])


def _explained() -> str:
    return """
on average: the mean over calibration sets is at most the rate; about half of the sets do worse.
with a confidence: that share of calibration sets keeps the rate, for the share of parts with any alarm.
index: no theory says how many it takes; at least half as many as for calibration are left. metrad fit shares out so."""


def _up(rate: float) -> float:
    """Return ``rate`` rounded up to three digits, since a smaller one could not be promised."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return math.ceil(rate / unit) * float(unit)


def _row(cells: tuple[object, ...]) -> str:
    first, second, *others = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
    return f"  {first:<14} {second:<22}" + "".join(f"{other:>13}" for other in others)


def _percent(rate: float) -> str:
    return f"{100 * rate:.4g} %"


def _kind(confidence: float | None) -> str:
    return "on average" if confidence is None else f"with confidence {confidence:g}"
