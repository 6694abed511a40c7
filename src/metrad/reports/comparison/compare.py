"""The comparison of runs that differ in one choice, from a sweep's folder or from a CSV."""

import dataclasses
from pathlib import Path

from metrad.reports.comparison.from_csv import read_csv
from metrad.reports.comparison.input import RunTable, read_sweep
from metrad.reports.comparison.notes import notes
from metrad.reports.comparison.statistics import Comparison, tabulate


def compare(
    folder: Path, *, by: str = "head", baseline: str | None = None, metric: str = "auroc", unpaired: bool = False
) -> Comparison:
    """Compare the runs of the sweep in ``folder``, finished or not, that differ in ``by``.

    Runs with the same seed and conditions are paired. Conditions are the dataset and everything else that was swept
    over. If a setting below ``by`` differs too, such as head.margin, it is part of the value: "arcface margin=0.1".

    Args:
        folder: the folder of the sweep, with a directory for each run.
        by: the compared choice or setting.
        baseline: the value of ``by`` to compare all other values with; None compares all pairs of values.
        metric: the name of the metric to compare.
        unpaired: whether to use the Mann-Whitney test and not pair runs by seed.

    Raises:
        InputError: ``by``, ``baseline`` or ``metric`` is not in the runs, a file cannot be read, or runs differ in
            other settings.
    """
    return _compared(read_sweep(Path(folder), by), baseline, metric, unpaired)


def compare_csv(
    file: Path, *, by: str = "head", baseline: str | None = None, metric: str = "auroc", unpaired: bool = False
) -> Comparison:
    """Compare the rows of a CSV with columns ``by``, ``metric``, and, to pair runs, ``seed``.

    Every other column is a condition. The other arguments are those of ``compare``.

    Raises:
        InputError: as in ``compare``.
    """
    return _compared(read_csv(Path(file), by, metric), baseline, metric, unpaired)


def _compared(table: RunTable, baseline: str | None, metric: str, unpaired: bool) -> Comparison:
    comparison = tabulate(table, baseline=baseline, metric=metric, unpaired=unpaired)
    pairing = [table.pairing] if table.pairing and comparison.paired else []
    return dataclasses.replace(comparison, notes=[*notes(comparison), *pairing, *table.notes])
