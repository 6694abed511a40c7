"""The tables of the kinds of anomalies: the compared metric of each anomalous class, and the detection of the worst."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from metrad.reports.cells import Cell, cells
from metrad.reports.comparison.statistics import Comparison


def kinds(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each cell and anomalous class: condition, the compared choice, kind, runs and mean.

    The mean is that of the compared metric over the runs, each against all normal test images. There are no rows for
    runs with one anomalous class. The kind with the worst mean comes first in its cell.

    Raises:
        InputError: a file of a run cannot be read.
    """
    found = cells(comparison.runs, comparison.by, comparison.conditions, comparison.metric)
    rows = [row for cell in found for row in _rows(cell, comparison)]
    return pd.DataFrame(rows)


def _rows(cell: Cell, comparison: Comparison) -> list[dict[str, Any]]:
    values: dict[str, list[float]] = {}
    for run in cell.runs:
        for kind, entry in run.measured().get("per_class", {}).items():
            if entry.get(comparison.metric) is not None:
                values.setdefault(kind, []).append(entry[comparison.metric])
    means = {kind: statistics.mean(members) for kind, members in values.items()}
    worst_first = sorted(means, key=lambda kind: means[kind], reverse=not comparison.higher_is_better)
    where = {"condition": cell.condition, comparison.by: cell.choice}
    return [{**where, "kind": kind, "runs": len(values[kind]), "mean": means[kind]} for kind in worst_first]


def detection(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each cell and false-alarm rate: how many anomalous test images are found above its threshold.

    The columns are the condition, the compared choice, ``false_alarm_rate``, ``runs``, ``detected``, and, if a run has
    several kinds of anomalies, ``worst_kind``, the one with the lowest mean, and ``of_worst_kind``, its mean. Means are
    over the runs of the cell. Runs without anomalous test images are left out, and runs that lack the detection of
    each kind count for ``detected`` alone. The thresholds are those that keep their rate on average.

    Raises:
        InputError: a file of a run cannot be read.
    """
    found = cells(comparison.runs, comparison.by, comparison.conditions, comparison.metric)
    rows = [row for cell in found for row in _detected(cell, comparison)]
    return pd.DataFrame(rows)


def _detected(cell: Cell, comparison: Comparison) -> list[dict[str, Any]]:
    by_rate: dict[float, list[dict[str, Any]]] = {}
    for run in cell.runs:
        for entry in run.measured().get("thresholds", []):
            if entry["test_detection_rate"] is not None:
                by_rate.setdefault(entry["false_alarm_rate"], []).append(entry)
    where = {"condition": cell.condition, comparison.by: cell.choice}
    return [
        {
            **where,
            "false_alarm_rate": rate,
            "runs": len(entries),
            "detected": statistics.mean(entry["test_detection_rate"] for entry in entries),
            **_worst(entries),
        }
        for rate, entries in by_rate.items()
    ]


def _worst(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the kind with the lowest mean detection, and that mean; empty if no run has several kinds."""
    rates: dict[str, list[float]] = {}
    for entry in entries:
        for name, kind in entry.get("by_kind", {}).items():
            rates.setdefault(name, []).append(kind["rate"])
    means = {name: statistics.mean(values) for name, values in rates.items()}
    worst = min(means, key=lambda name: means[name], default=None)
    return {} if worst is None else {"worst_kind": worst, "of_worst_kind": means[worst]}
