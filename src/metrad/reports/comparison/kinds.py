"""The table of the kinds of anomalies: the compared metric of each anomalous class, where runs have several."""

import statistics
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
