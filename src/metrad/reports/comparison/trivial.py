"""The table of the best trivial property beside each compared choice: what one number an image tells alone."""

import statistics
from typing import Any

import pandas as pd

from metrad.data.properties import title_of
from metrad.reports.cells import Cell, cells
from metrad.reports.comparison.statistics import Comparison


def beside_trivial(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each cell: its runs with properties, their mean AUROC, the best property and its mean AUROC.

    There are no rows if a metric other than the AUROC is compared, or for runs of versions without properties.

    Raises:
        InputError: a file of a run cannot be read.
    """
    if comparison.metric != "auroc":
        return pd.DataFrame()
    found = cells(comparison.runs, comparison.by, comparison.conditions, comparison.metric)
    return pd.DataFrame([row for cell in found for row in _rows(cell, comparison.by)])


def _rows(cell: Cell, by: str) -> list[dict[str, Any]]:
    measured = [metrics for run in cell.runs if (metrics := run.measured()).get("trivial")]
    if not measured:
        return []
    names = dict.fromkeys(name for metrics in measured for name in metrics["trivial"])
    # Images that do not differ in a property have no entry, which is an AUROC of one half.
    means = {name: statistics.mean(metrics["trivial"].get(name, 0.5) for metrics in measured) for name in names}
    best = max(means, key=lambda name: means[name])
    return [
        {
            **({"condition": cell.condition} if cell.condition else {}),
            by: cell.choice,
            "runs": len(measured),
            "mean_auroc": statistics.mean(metrics["auroc"] for metrics in measured),
            "best_property": title_of(best),
            "trivial_auroc": means[best],
        }
    ]
