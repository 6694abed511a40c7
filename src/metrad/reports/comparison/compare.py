"""What a sweep came to: its runs in one table, finished or not, and the comparison of what they differ in."""

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from metrad.reports.comparison.from_csv import read_csv
from metrad.reports.comparison.input import FIGURES, Table, read_sweep
from metrad.reports.comparison.notes import notes
from metrad.reports.comparison.tables import Comparison, tabulate
from metrad.runs.directory import Run

__all__ = ["Comparison", "as_text", "collect", "compare", "compare_csv", "evaluation_row", "summarise"]
Row = dict[str, Any]


def compare(
    folder: Path, *, by: str = "head", baseline: str | None = None, metric: str = "auroc", unpaired: bool = False
) -> Comparison:
    """Compare the runs of the sweep in ``folder``, finished or not, that differ in ``by``.

    Runs are paired that have the conditions (what else was swept over) and the seed in common. A setting below
    ``by`` that differs too, such as head.margin, makes another value of it: "arcface margin=0.1".

    Args:
        folder: holds a run directory per run.
        by: the compared choice or setting.
        baseline: the value of it to compare the others with; None compares each with each.
        metric: the figure of ``metrics.json`` to compare.
        unpaired: do not pair runs of one seed, and use the Mann-Whitney test.

    Raises:
        InputError: what was asked for is not there, a file cannot be read, or runs differ in more than they may.
    """
    return _compared(read_sweep(Path(folder), by), baseline, metric, unpaired)


def compare_csv(
    file: Path, *, by: str = "head", baseline: str | None = None, metric: str = "auroc", unpaired: bool = False
) -> Comparison:
    """Compare the rows of a CSV, which has a column ``by``, one ``metric``, and ``seed`` if runs are to be paired.

    Every other column is a condition. The arguments are those of ``compare``.

    Raises:
        InputError: as ``compare``.
    """
    return _compared(read_csv(Path(file), by, metric), baseline, metric, unpaired)


def _compared(table: Table, baseline: str | None, metric: str, unpaired: bool) -> Comparison:
    comparison = tabulate(table, baseline=baseline, metric=metric, unpaired=unpaired)
    origin = table.notes if comparison.paired or not table.paired else []
    return dataclasses.replace(comparison, notes=[*notes(comparison), *origin])


def collect(folder: str | Path) -> list[Row]:
    """Return a row for each run below ``folder``: its name and state, what sets it apart, its figures, its error.

    What sets runs apart are the overrides that not all have in common. Figures of runs that did not finish are None.
    """
    runs = [Run(path.parent) for path in sorted(Path(folder).glob("*/status.json"))]
    overrides = [_overrides(run) for run in runs]
    keys = dict.fromkeys(key for one in overrides for key in one)
    differing = [key for key in keys if len({one.get(key) for one in overrides}) > 1]
    settings = [{key: own.get(key, "") for key in differing} for own in overrides]
    order = sorted(range(len(runs)), key=lambda i: [_rank(value) for value in settings[i].values()])
    return [_row(runs[i], settings[i]) for i in order]


def summarise(rows: list[Row]) -> list[Row]:
    """Return a row for each setting in ``rows`` of ``collect``, over all seeds: AUROC's mean and standard deviation.

    ``runs`` counts the finished ones, which the figures are of, and ``unfinished`` the others. The deviation of one
    run is None.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    own = ("run", "state", "seed", "error", *FIGURES)
    for row in rows:
        groups.setdefault(tuple((key, value) for key, value in row.items() if key not in own), []).append(row)
    summary = []
    for setting, members in groups.items():
        aurocs = [row["auroc"] for row in members if row["auroc"] is not None]
        spread = statistics.stdev(aurocs) if len(aurocs) > 1 else None
        mean = statistics.mean(aurocs) if aurocs else None
        figures = {"auroc_mean": mean, "auroc_std": spread, "runs": len(aurocs)}
        summary.append({**dict(setting), **figures, "unfinished": len(members) - len(aurocs)})
    return summary


def evaluation_row(run: str, overrides: list[str], metrics: dict[str, Any]) -> Row:
    """Return the row of a table of evaluations: AUROC with its interval, FPR at 95 % TPR, false alarms, seconds.

    ``false_alarms`` is the share of normal test images above the threshold of each false-alarm rate.
    """
    low, high = metrics["intervals"]["auroc_delong"]
    alarms = {entry["false_alarm_rate"]: entry["test_false_alarm_rate"] for entry in metrics["thresholds"]}
    return {
        "run": run,
        "changes": " ".join(overrides),
        "auroc": metrics["auroc"],
        f"interval_{metrics['intervals']['level']:g}": f"{low:.3f} to {high:.3f}",
        "fpr_at_95_tpr": metrics["fpr_at_95_tpr"],
        **{f"false_alarms_at_{rate:g}": share for rate, share in alarms.items()},
        "seconds": round(sum(metrics["seconds"].values()), 2),
    }


def as_text(rows: list[Row]) -> str:
    """Return ``rows`` as a table of aligned columns; a row that lacks one has a dash there."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _row(run: Run, setting: dict[str, str]) -> Row:
    state = run.state
    metrics = (run.figures() or {}) if state == "finished" else {}
    figures = {name: metrics.get(name) for name in FIGURES}
    return {"run": run.path.name, "state": state, **setting, **figures, "error": run.noted().get("error", "")}


def _overrides(run: Run) -> dict[str, str]:
    try:
        overrides = OmegaConf.load(run.overrides)
    except (OSError, ValueError, YAMLError):  # it was refused before its configuration was saved, or that is broken
        return {}
    items = (str(item).lstrip("+").partition("=") for item in overrides)
    return {key: value for key, _, value in items}


def _rank(value: str) -> tuple[float, str]:
    """Return what puts numbers in the order of their size, behind words."""
    try:
        return float(value), value
    except ValueError:
        return -math.inf, value


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else f"{value:.4f}" if isinstance(value, float) else str(value)
