"""Tables of a report: their headings, the format of their numbers, and the numbers that sort them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from metrad.evaluation.metrics import DETECTED, FALSE_ALARMS, by_name
from metrad.reports.cells import Flat, common

Format = Callable[[float], str]


@dataclass(frozen=True)
class Entry:
    """A cell of a table: its text, and the number that sorts it, if it holds one."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: caption, with the units.
        columns: headings of the columns.
        rows: rows with an entry for each column; the first entry is the heading of the row.
    """

    caption: str
    columns: list[str]
    rows: list[list[Entry]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [any(row[i].number is not None for row in self.rows) for i in range(len(self.columns))]


def rate(value: float) -> str:
    """Return a metric as text."""
    return f"{value:.4f}"


def difference(value: float) -> str:
    """Return a difference of metrics as text, with its sign."""
    return f"{value:+.4f}"


def probability(value: float) -> str:
    """Return a p-value as text."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def detectable(value: float) -> str:
    """Return a detectable difference as text: ``none`` if it is infinite."""
    return "none" if math.isinf(value) else rate(value)


def seconds(value: float) -> str:
    """Return a time in seconds as text."""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


COLUMNS: dict[str, tuple[str, Format | None]] = {
    "run": ("Run", None),
    "state": ("State", None),
    "error": ("Reason", None),
    "log": ("Log", None),
    "image": ("Image", None),
    "role": ("Role", None),
    "class": ("Class", None),
    "score": ("Score", lambda value: f"{value:.4g}"),
    "p_value": ("p-value", probability),
    "nearest": ("Nearest normal image", None),
    "dataset": ("Dataset", None),
    "head": ("Head", None),
    "seed": ("Seed", None),
    "seconds": ("Seconds", seconds),
    "runs": ("Runs", None),
    "unfinished": ("Unfinished", None),
    "mean": ("Mean", rate),
    "median": ("Median", rate),
    "std": ("Standard deviation", rate),
    "interval": ("Interval", rate),
    "interval_of_mean": ("Interval of the mean", rate),
    "against": ("Against", None),
    "pairs": ("Pairs", None),
    "difference": ("Mean difference", difference),
    "interval_of_difference": ("Interval of the difference", difference),
    "p": ("p", probability),
    "p_holm": ("p (Holm)", probability),
    "effect": ("Effect size", lambda value: f"{value:+.2f}"),
    "wins": ("Wins", None),
    "ties": ("Ties", None),
    "losses": ("Losses", None),
    "detectable": ("Detectable difference", detectable),
    "false_alarm_rate": ("False alarms asked for", lambda value: f"{value:g}"),
    "detected": ("Anomalies found", rate),
    "worst_kind": ("Worst kind", None),
    "of_worst_kind": ("Found of the worst kind", rate),
    "images": ("Good images", None),
    "draws": ("Draws", None),
    "mean_rank": ("Mean rank", lambda value: f"{value:.2f}"),
}


def column(name: str) -> tuple[str, Format | None]:
    """Return heading and format of a column; the heading of an unknown column is its name."""
    metric = by_name().get(name)
    for prefix, words in ((FALSE_ALARMS, "False alarms"), (DETECTED, "Anomalies found")):
        if name.startswith(prefix):
            return f"{words} at {100 * float(name.removeprefix(prefix)):g} %", rate
    return COLUMNS.get(name, (name, None)) if metric is None else (metric.title, rate)


def table(caption: str, frame: pd.DataFrame, rates: Sequence[str] = ()) -> Table:
    """Return ``frame`` as a table; its columns ``low`` and ``high`` become one column, an interval.

    Args:
        caption: caption of the table.
        frame: the data; names of columns that ``column`` does not know become headings.
        rates: columns of metrics that ``column`` does not know.
    """
    keys = [key for key in frame.columns if key != "high"]
    renamed = "interval_of_mean" if "mean" in frame else "interval"
    renamed = "interval_of_difference" if "difference" in frame else renamed
    names = [renamed if key == "low" else key for key in keys]
    headings = [column(str(name))[0] for name in names]
    formats = [rate if name in rates else column(str(name))[1] for name in names]
    rows = []
    for _, row in frame.iterrows():
        entries = []
        for key, form in zip(keys, formats, strict=True):
            ends = [row["low"], row["high"]] if key == "low" else [row[key]]
            entries.append(_entry(ends, form))
        rows.append(entries)
    return Table(caption, headings, rows)


def settings_tables(named: Sequence[tuple[str, str, Flat]], what: str) -> tuple[Flat, Table | None]:
    """Return the common settings of all runs, and a table of differing settings, with equal runs in one row.

    Args:
        named: name, seed and settings of each run; the seed does not count as a difference.
        what: kind of the settings, for the caption.
    """
    shared, differing = common([settings for _, _, settings in named])
    differing = [key for key in differing if key != "seed"]
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name, seed, settings in named:
        values = tuple(settings.get(key, "–") for key in differing)
        groups.setdefault(values, {}).setdefault(name, []).append(seed)
    if not differing:
        return shared, None
    rows = []
    for values, members in groups.items():
        which = "; ".join(f"{name} (seed {', '.join(seeds)})" for name, seeds in members.items())
        rows.append([Entry(which), *(Entry(value) for value in values)])
    return shared, Table(f"{what}: what differs between runs, beside the seed", ["Runs", *differing], rows)


def _entry(values: list[Any], form: Format | None) -> Entry:
    if any(value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) for value in values):
        return Entry("–")
    if any(isinstance(value, float) and math.isinf(value) for value in values):
        return Entry("none" if form is detectable else "∞", float(values[0]))
    number = _number(values[0])
    if number is None:
        return Entry(" ".join(str(values[0]).split()))
    written = [str(value) if form is None else form(float(value)) for value in values]
    return Entry(" to ".join(written), number)


def _number(value: Any) -> float | None:
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None
