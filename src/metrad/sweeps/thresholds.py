"""The runs of a sweep that have too few calibration images for any threshold, told in one line."""

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from metrad.data.sizing import AUTO
from metrad.errors import InputError
from metrad.evaluation.conformal import DEFAULT_RATES, calibration_groups_needed
from metrad.runs.config.stored import inert
from metrad.runs.directory import Run

RATE = max(DEFAULT_RATES)  # the one that takes the fewest images


def lacking(runs: Sequence[Run]) -> str:
    """Return a line on the finished runs that have a threshold for no default rate; empty if there are none.

    Runs that ask for rates of their own have a threshold for each.
    """
    takes = calibration_groups_needed(RATE)
    measured = [(run, run.figures() or {}) for run in runs]
    few = [(_size(run), *_calibration(metrics)) for run, metrics in measured if metrics.get("thresholds") == []]
    short = [(size, count, noun) for size, count, noun in few if size is not None and count < takes]
    if not short:
        return ""
    sizes, counts, noun = {size for size, *_ in short}, sorted({count for _, count, _ in short}), short[0][2]
    there = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"no threshold for {100 * RATE:g} % in {len(short):,} {'run' if len(short) == 1 else 'runs'}: {there} "
        f"calibration {noun}, {takes} needed; "
        + (f"add good {noun}" if sizes == {AUTO} else f"dataset.sizes.calibration={AUTO}")
    )


def _calibration(metrics: dict[str, Any]) -> tuple[int, str]:
    """Return the number of calibration groups, or images without groups, with its noun."""
    counts, noun = (metrics["groups"], "groups") if "groups" in metrics else (metrics.get("sizes", {}), "images")
    return int(counts.get("calibration", 0)), noun


def _size(run: Run) -> str | None:
    """Return ``dataset.sizes.calibration`` of a run; None if it asks for rates of its own, or cannot be read."""
    try:
        cfg = inert(run.load_config())
    except InputError:
        return None
    if OmegaConf.select(cfg, "evaluation.false_alarm_rates") is not None:
        return None
    return str(OmegaConf.select(cfg, "dataset.sizes.calibration"))
