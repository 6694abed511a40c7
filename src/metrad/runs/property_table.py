"""The file ``properties.csv`` of a run: trivial properties of its test images, and of those they are compared with."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from metrad.data.properties import NAMES, Table
from metrad.errors import InputError
from metrad.files import rows_of
from metrad.runs.directory import Run

ROLES = ("test_normal", "test_anomalous", "normal", "calibration")


def rows_to_write(table: Table) -> list[dict[str, Any]]:
    """Return the rows of ``properties.csv``; a number that is not known, and a group where there are none, is empty."""
    groups = [""] * len(table.images) if table.groups is None else table.groups.tolist()
    return [
        {"image": image, "role": role, "group": group, **dict(zip(NAMES, map(_text, values), strict=True))}
        for image, role, group, values in zip(table.images, table.roles, groups, table.values.tolist(), strict=True)
    ]


def _text(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def read(run: Run, split: Mapping[str, Any]) -> Table | None:
    """Return the properties that a run saved; None for a run without, such as one of an earlier version.

    Args:
        run: the run.
        split: the content of its ``split.json``.

    Raises:
        InputError: the file cannot be read, has changed, holds a value that is no finite number, or lists other images
            than the split.
    """
    if not run.has(run.properties):
        return None
    columns: dict[str, Callable[[str], Any]] = {
        "image": str,
        "role": str,
        "group": _group,
        **dict.fromkeys(NAMES, _number),
    }
    rows = rows_of(run.read(run.properties), run.properties, columns)
    _require_images(rows, run, split)
    groups = np.array([row["group"] for row in rows], dtype=np.int64)
    if len({group < 0 for group in groups.tolist()}) > 1:
        raise InputError(f"{run.properties}: group must be empty in all rows or in none; copy or create it again")
    return Table(
        images=[row["image"] for row in rows],
        roles=[row["role"] for row in rows],
        groups=None if not len(groups) or groups[0] < 0 else groups,
        values=np.array([[row[name] for name in NAMES] for row in rows]).reshape(-1, len(NAMES)),
    )


def _require_images(rows: list[dict[str, Any]], run: Run, split: Mapping[str, Any]) -> None:
    listed: dict[str, list[str]] = {role: [] for role in ROLES}
    for row in rows:
        if row["role"] not in listed:
            raise InputError(f"{run.properties}: role must be one of {', '.join(ROLES)}, got {row['role'][:40]!r}")
        listed[row["role"]].append(row["image"])
    for role, images in listed.items():
        whole = split["images"][role]
        if images != whole if role.startswith("test_") else not {*images} <= {*whole}:
            raise InputError(f"{run.properties} lists other {role} images than {run.split}; copy or create it again")


def _group(cell: str) -> int:
    """Return a group number; -1 for an empty cell."""
    if cell and not (cell.isdecimal() and len(cell) < 18):
        raise ValueError(f"group must be a whole number or empty, got {cell[:40]!r}")
    return int(cell) if cell else -1


def _number(cell: str) -> float:
    """Return a number; NaN for an empty cell."""
    value = float(cell) if cell else math.nan
    if cell and not math.isfinite(value):
        raise ValueError(f"a property must be a finite number or empty, got {cell[:40]!r}")
    return value
