"""The comparison of runs that differ in one choice, from a sweep's folder or from a CSV."""

import dataclasses
from pathlib import Path

from metrad.reports.comparison.from_csv import read_csv
from metrad.reports.comparison.input import RunTable, read_sweep
from metrad.reports.comparison.notes import notes
from metrad.reports.comparison.tables import Comparison, tabulate


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
        metric: the name of the metric to compare.
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


def _compared(table: RunTable, baseline: str | None, metric: str, unpaired: bool) -> Comparison:
    comparison = tabulate(table, baseline=baseline, metric=metric, unpaired=unpaired)
    origin = table.notes if comparison.paired or not table.paired else []
    return dataclasses.replace(comparison, notes=[*notes(comparison), *origin])
