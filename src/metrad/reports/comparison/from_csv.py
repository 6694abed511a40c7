"""The runs to compare from a CSV: a user's own metrics, or the ``runs.csv`` of a sweep."""

import io
import math
from pathlib import Path

import pandas as pd

from metrad.errors import InputError
from metrad.evaluation.metrics import FALSE_ALARMS, ROUNDING, by_name
from metrad.files import read_bytes
from metrad.reports.comparison.input import RunTable, own_columns, require_metric
from metrad.runs.contents import UNMEASURED
from metrad.runs.directory import STATES

BY_POSITION = (
    "The file does not say whether runs of one seed used the same images, so they are paired by their number alone; "
    "where the images were drawn anew for each run, the unpaired test is the right one (--unpaired)."
)
TAKEN = (  # columns of the tables of a comparison, which a condition of the same name would hide
    *("table", "runs", "unfinished", "mean", "median", "std", "low", "high", "against", "pairs", "difference"),
    *("p", "p_holm", "effect", "wins", "ties", "losses", "detectable", "mean_rank"),
)
KNOWN_STATES = (*STATES, "new")  # "new" is in the table of a sweep if status.json has no state
BREAKS = r"[\t-\r\x85]+"
CONTROLS = r"[\x00-\x1f\x7f-\x9f]"  # no font has these characters, and a terminal executes them
ADVICE = "cells are parted by commas, and numbers have a point"
WITHOUT_SEED = "The file has no column seed, so nothing can be paired and the tests are unpaired."
WITHOUT_DATASET = (
    "The file has no column dataset, which says what conditions share images, so its conditions count as one block."
)


def read_csv(file: Path, by: str, metric: str) -> RunTable:
    """Return the runs in a CSV with columns ``by``, ``metric``, and, to pair runs, ``seed``.

    Columns such as ``head.margin`` belong to the value of ``head`` if ``by`` is ``head``. The columns ``state`` and
    ``split`` (a hash of the images used) may be missing. Every other column is a condition.

    Raises:
        InputError: the file cannot be read, lacks a column or has a reserved one, a metric is no number from 0 to 1, or
            runs to pair have different splits.
    """
    require_metric(metric)
    rows = _read(file)
    for name in (by, metric):
        if name not in rows.columns:
            advice = f"; {ADVICE}" if len(rows.columns) == 1 else ""
            raise InputError(f"{file} has no column {name}; it has {', '.join(rows.columns)}{advice}")
    if by in own_columns():
        raise InputError(f"by={by} compares nothing: give a choice such as head")
    paired = "seed" in rows.columns
    below = [name for name in rows.columns if name.startswith(f"{by}.")]
    others = (name for name in rows.columns if name not in (*own_columns(), by, *below))
    conditions = [name for name in others if not name.startswith(FALSE_ALARMS)]
    _require_groups(file, rows, by, conditions)
    runs = pd.DataFrame({"folder": "", "run": rows.get("run", [f"row {line}" for line in rows.index])}, rows.index)
    runs["state"] = rows.get("state", "finished")
    _require_states(file, runs["state"])
    runs["error"] = rows.get("error", "")
    seeds = rows["seed"] if paired else rows.groupby([by, *below, *conditions]).cumcount()
    runs["seed"] = pd.to_numeric(seeds) if seeds.astype(str).str.fullmatch(r"-?\d+").all() else seeds
    runs[conditions] = rows[conditions]
    runs[by] = [_named(row, by, below) for row in rows.to_dict("records")]
    for name in (*by_name(), "seconds"):
        runs[name] = pd.to_numeric(rows[name], errors="coerce") if name in rows else math.nan
    _require_numbers(file, rows, runs, metric)
    pairing = _check_images(file, rows, [*conditions, "seed"]) if paired else None
    notes = [] if paired else [WITHOUT_SEED]
    if conditions and "dataset" not in rows and len(rows[conditions].drop_duplicates()) > 1:
        notes.append(WITHOUT_DATASET)
    return RunTable(runs, by, conditions, _origins(rows), paired=paired, notes=notes, pairing=pairing)


def _origins(rows: pd.DataFrame) -> list[frozenset[str]]:
    """Return the names of the images of each row: its dataset, or unknown, and the hash of its split."""
    datasets = rows.get("dataset", pd.Series("unknown", rows.index))
    splits = rows.get("split", pd.Series("", rows.index))
    return [
        frozenset([f"dataset {dataset}", *([f"split {split}"] if split else [])])
        for dataset, split in zip(datasets, splits, strict=True)
    ]


def _read(file: Path) -> pd.DataFrame:
    """Return the cells as text, indexed by the number of the line, with the names of the columns."""
    form = {"header": None, "dtype": str, "keep_default_na": False, "skipinitialspace": True, "skip_blank_lines": False}
    content = read_bytes(file)
    try:
        lines = pd.read_csv(io.BytesIO(content), **form)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{file} cannot be read as CSV ({' '.join(str(error).split())}); {ADVICE}") from error
    lines.index += 1
    lines = lines.fillna("").apply(lambda column: _printable(file, column))
    names = [name or f"column {1 + i}" for i, name in enumerate(lines.iloc[0])]
    taken = [name for name in names if name in TAKEN]
    if taken:
        raise InputError(f"{file}: {taken[0]} is a column that the comparison makes itself; rename it or leave it out")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{file} has two columns {twice[0]}; leave one out")
    rows = lines.iloc[1:].set_axis(names, axis=1)
    rows = rows[(rows != "").any(axis=1)]
    if rows.empty:
        raise InputError(f"{file} has no rows below its first line, which names the columns")
    return rows


def _printable(file: Path, column: pd.Series) -> pd.Series:
    """Return the cells of ``column`` without line breaks; refuse control characters, but drop them from errors."""
    cells = column.str.replace(BREAKS, " ", regex=True).str.strip()
    if cells.iloc[0] == "error":
        return cells.str.replace(CONTROLS, "", regex=True)
    bad = cells.str.contains(CONTROLS, regex=True)
    if bad.any():
        line = bad.idxmax()
        raise InputError(f"{file}, line {line}: {cells[line]!r} has a control character; leave it out")
    return cells


def _require_groups(file: Path, rows: pd.DataFrame, by: str, conditions: list[str]) -> None:
    if (rows[by] == "").any():
        raise InputError(f"{file}, line {(rows[by] == '').idxmax()}: {by} is empty")
    if conditions and len(rows) > 1 and not rows.duplicated(conditions).any():
        raise InputError(
            f"{file}: no two rows share a condition ({', '.join(conditions)}); leave out columns that number the rows"
        )


def _named(row: dict[str, str], by: str, below: list[str]) -> str:
    return " ".join([row[by], *(f"{key.removeprefix(f'{by}.')}={row[key]}" for key in below if row[key])])


def _require_states(file: Path, states: pd.Series) -> None:
    unknown = ~states.isin(KNOWN_STATES)
    if unknown.any():
        line = unknown.idxmax()
        raise InputError(f"{file}, line {line}: state must be one of {', '.join(KNOWN_STATES)}, got {states[line]!r}")


def _require_numbers(file: Path, rows: pd.DataFrame, runs: pd.DataFrame, metric: str) -> None:
    finished = runs["state"] == "finished"
    bad = finished & ~runs[metric].between(0, 1 + ROUNDING) & (runs["error"] != UNMEASURED)
    if bad.any():
        line = bad.idxmax()
        raise InputError(f"{file}, line {line}: {metric} must be a number from 0 to 1, got {rows[metric][line]!r}")
    runs.loc[~finished, list(by_name())] = math.nan


def _check_images(file: Path, rows: pd.DataFrame, keys: list[str]) -> str | None:
    """Refuse to pair runs with different images; return a note if the file has no column ``split``."""
    if "split" not in rows.columns:
        return BY_POSITION
    known = rows[rows["split"] != ""]
    different = known.groupby(keys)["split"].nunique()
    if (different > 1).any():
        place = different.idxmax()
        where = ", ".join(map(str, place)) if isinstance(place, tuple) else str(place)
        raise InputError(f"{file}: runs of {', '.join(keys)} = {where} have different split, so they are no pair")
    return None
