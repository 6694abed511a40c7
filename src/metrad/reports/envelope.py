"""The operating envelope of a run in words and tables, for the terminal and for a report."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from metrad.evaluation import plots
from metrad.reports.page.html import Fold, Group, Picture, Section
from metrad.reports.page.tables import table
from metrad.runs.directory import Run

DOUBLED = "The first step tried at which false alarms reach twice the promised rate"
UNCHANGED = (
    "Unchanged, the calibration images are no measurement: the thresholds are scores of these very images, so their "
    "share above a threshold follows from the promised rate and their number alone. Kinds of change are not combined."
)


def counted(found: Mapping[str, Any]) -> str:
    """Return what an envelope is about: the images, their groups and the intervals."""
    groups = f" of {found['groups']:,} groups" if "groups" in found else ""
    level = f"{100 * found['level']:g} %"
    return f"False alarms in % on {found['images']:,} calibration images{groups} after a change, with {level} intervals"


def step_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each step of each change, the unchanged images first, with a column for each threshold."""
    titles = [_title(each) for each in found["thresholds"]]
    unchanged = [f"{100 * each['unchanged']:.1f}" for each in found["thresholds"]]
    rows = [{"change": "unchanged", "step": "-", **dict(zip(titles, unchanged, strict=True))}]
    for change in found["changes"]:
        for step in change["steps"]:
            cells = map(_cell, step["false_alarm_rates"], step["intervals"])
            named = {"change": change["change"], "step": _stepped(step["strength"], change["unit"])}
            rows.append({**named, **dict(zip(titles, cells, strict=True))})
    return rows


def doubled_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each change with the step at which the false alarms of each threshold double."""
    titles = [_title(each) for each in found["thresholds"]]
    return [
        {
            "change": change["change"],
            **{
                title: "not reached" if strength is None else _stepped(strength, change["unit"])
                for title, strength in zip(titles, change["doubled_at"], strict=True)
            },
        }
        for change in found["changes"]
    ]


def section(run: Run) -> list[Section]:
    """Return the section of the operating envelope; none if ``metrad envelope`` has not been called for the run.

    Raises:
        InputError: ``envelope.json`` cannot be read or has changed.
    """
    if not run.has(run.envelope):
        return []
    found = run.enveloped()
    doubled = table(DOUBLED, pd.DataFrame(doubled_rows(found)))
    steps = table(counted(found), pd.DataFrame(step_rows(found)))
    alt = f"False alarms by kind and strength of change. {doubled.caption}: the table below has them."
    picture = Picture(alt, "", plots.envelope(found), wide=True)
    group = Group(pictures=[picture], tables=[doubled], folds=[Fold("Every step", steps)])
    text = f"The calibration images again, changed as a camera or a line may change them. {UNCHANGED}"
    return [Section("envelope", "Operating envelope", text, [group])]


def _title(threshold: Mapping[str, Any]) -> str:
    confidence = f", confidence {threshold['confidence']:g}" if "confidence" in threshold else ""
    return f"for {100 * threshold['false_alarm_rate']:g} %{confidence}"


def _cell(share: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _stepped(strength: float, unit: str) -> str:
    return f"{strength:.3g} {unit}"
