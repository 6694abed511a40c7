"""How many good parts a promised false-alarm rate takes, before any is photographed, and which rates parts allow.

A part is a group of images: all photographs of one part count once. Three equal shares are planned. Calibration parts
decide the thresholds. As many test parts measure the rate: if none of n parts is an alarm, the one-sided interval of
the rate ends at the smallest rate that n calibration parts allow with that confidence. The index has no theory that
says how many parts it needs. Its size decides which defects are found and not the rate, and is at least
``LEAST_INDEX``.
"""

import math
from dataclasses import dataclass

from metrad.errors import InputError
from metrad.evaluation.conformal import calibration_groups_needed

LEAST_INDEX = 30  # parts
SHARES = 3  # calibration, test, index
SETTINGS = "dataset.test_share=0.333 dataset.sizes.calibration=0.5"  # of what is not tested on, half


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
    calibration = calibration_groups_needed(rate, confidence)
    return Needed(rate, confidence, calibration, calibration, max(calibration, LEAST_INDEX))


def calibration_share(parts: int) -> int:
    """Return how many of so many good parts are left for calibration, as many again being tested on.

    Raises:
        InputError: none is left.
    """
    left = min(parts // SHARES, (parts - LEAST_INDEX) // 2)
    if left < 1:
        raise InputError(
            f"--parts must be at least {LEAST_INDEX + 2}, {LEAST_INDEX} of them for the index, got {parts}"
        )
    return left


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
        return "\n".join([*lines, _explained(confidence)])
    left = calibration_share(parts)
    lines += [
        "",
        f"{parts:,} good parts leave {left:,} for calibration, {left:,} for testing, {parts - 2 * left:,} for",
    ]
    lines[-1] += " the index. The smallest false-alarm rates that can be promised:"
    lines += [f"  {_kind(kind):<22} {_percent(_up(smallest_rate(left, kind)))}" for kind in (None, confidence)]
    for one in rows:
        answer = "can" if one.calibration <= left else "cannot"
        lacking = "" if answer == "can" else f"; {_enough(one):,} parts can"
        lines.append(f"  {_percent(one.rate)} {_kind(one.confidence)}: {answer} be promised{lacking}")
    return "\n".join([*lines, _explained(confidence)])


def _explained(confidence: float) -> str:
    return f"""
on average: the mean over calibration sets is at most the rate; about half of the sets do worse.
with a confidence: that share of calibration sets keeps the rate, for the share of parts with any alarm.
test: as many again. No alarm among them confirms, with confidence {confidence:g}, the rate of a row with a confidence,
and {-math.log1p(-confidence):.1f} times the rate of a row on average.
index: no theory; as many again, at least {LEAST_INDEX}. Settings for these shares: {SETTINGS}"""


def _enough(one: Needed) -> int:
    """Return the smallest number of good parts whose calibration share is enough."""
    return max(SHARES * one.calibration, 2 * one.calibration + LEAST_INDEX)


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
