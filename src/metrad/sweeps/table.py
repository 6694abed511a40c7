"""Tables of the runs of a sweep, finished or not: a row for each run, and means over seeds."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metrad.errors import InputError
from metrad.evaluation.metrics import DETECTED, FALSE_ALARMS, by_name, shown_in
from metrad.runs.contents import UNMEASURED, is_unmeasured
from metrad.runs.directory import Run
from metrad.runs.saved import read_yaml

Row = dict[str, Any]


def collect(folder: str | Path) -> list[Row]:
    """Return a row for each run below ``folder``: its name, state, differing overrides, metrics and error.

    Differing overrides are those that are not the same in all runs. A metric is None if the run did not finish, was
    made by an older version that lacks the metric, or has no anomalous test images; ``error`` then says the last. If
    there is such a run, each row also has the false alarms on normal test images, as ``evaluation_row`` has them.
    """
    runs = [Run(path.parent) for path in sorted(Path(folder).glob("*/status.json"))]
    overrides = [_overrides(run) for run in runs]
    keys = dict.fromkeys(key for one in overrides for key in one)
    differing = [key for key in keys if len({one.get(key) for one in overrides}) > 1]
    settings = [{key: own.get(key, "") for key in differing} for own in overrides]
    order = sorted(range(len(runs)), key=lambda i: [_rank(value) for value in settings[i].values()])
    rows = [_row(runs[i], settings[i]) for i in order]
    if not any(row["error"] == UNMEASURED for row in rows):
        return rows
    alarms = [_false_alarms(_measured(runs[i])) for i in order]
    rates = dict.fromkeys(name for found in alarms for name in found)
    return [{**row, **{rate: found.get(rate) for rate in rates}} for row, found in zip(rows, alarms, strict=True)]


def summarise(rows: list[Row]) -> list[Row]:
    """Return a row for each setting in ``rows`` of ``collect``: mean and standard deviation of the AUROC over seeds.

    ``runs`` is the number of finished runs, from which both are computed, and ``unfinished`` the number of all other
    runs. The standard deviation of one run is None. A finished run without anomalous test images counts among ``runs``
    and not for the AUROC; if there is one, the mean of each false-alarm rate on normal test images is added.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    own = ("run", "state", "seed", "error", *by_name())
    for row in rows:
        setting = tuple((key, value) for key, value in row.items() if key not in own and not _is_alarm(key))
        groups.setdefault(setting, []).append(row)
    summary = []
    for setting, members in groups.items():
        aurocs = [row["auroc"] for row in members if row["auroc"] is not None]
        finished = len(aurocs) + sum(row["error"] == UNMEASURED for row in members)
        alarms = {f"{key}_mean": _mean([row[key] for row in members]) for key in members[0] if _is_alarm(key)}
        spread = statistics.stdev(aurocs) if len(aurocs) > 1 else None
        over_seeds = {"auroc_mean": _mean(aurocs), "auroc_std": spread, **alarms, "runs": finished}
        summary.append({**dict(setting), **over_seeds, "unfinished": len(members) - finished})
    return summary


def _mean(values: list[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.mean(found) if found else None


def _is_alarm(key: str) -> bool:
    return key.startswith(FALSE_ALARMS)


def evaluation_row(run: str, overrides: list[str], metrics: dict[str, Any]) -> Row:
    """Return a row of the table of evaluations: AUROC with its interval, other metrics, false alarms, seconds.

    ``false_alarms_at_RATE`` is the share of normal test images above the threshold for this false-alarm rate,
    ``detected_at_RATE`` that of anomalous ones with its interval, and ``worst_kind_at_RATE`` names the least detected
    of several kinds of anomalies, with the same. Without anomalous test images, AUROC and the other metrics are None,
    and nothing is said of detection.
    """
    ends = metrics["intervals"]["auroc_delong"]
    return {
        "run": run,
        "changes": " ".join(overrides),
        "auroc": metrics["auroc"],
        f"interval_{metrics['intervals']['level']:g}": None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
        **{metric.name: metrics[metric.name] for metric in shown_in("evaluations")},
        **_false_alarms(metrics),
        **_detected(metrics),
        "seconds": round(sum(metrics["seconds"].values()), 2),
    }


def table_text(rows: list[Row]) -> str:
    """Return ``rows`` as a text of aligned columns, with a dash for a missing value."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _row(run: Run, setting: dict[str, str]) -> Row:
    state = run.state
    metrics = _measured(run) if state == "finished" else {}
    measured = {name: metrics.get(name) for name in by_name()}
    error = UNMEASURED if is_unmeasured(metrics) else run.noted().get("error", "")
    return {"run": run.path.name, "state": state, **setting, **measured, "error": error}


def _measured(run: Run) -> dict[str, Any]:
    """Return the content of ``metrics.json``; empty if it holds no metrics, as before the end of a run."""
    return run.figures() or {}


def _false_alarms(metrics: dict[str, Any]) -> Row:
    entries = metrics.get("thresholds", [])
    return {f"{FALSE_ALARMS}{entry['false_alarm_rate']:g}": entry["test_false_alarm_rate"] for entry in entries}


def _detected(metrics: dict[str, Any]) -> Row:
    row: Row = {}
    for entry in metrics.get("thresholds", []):
        share, ends, kinds = entry["test_detection_rate"], entry["test_detection_interval"], entry.get("by_kind")
        if share is not None:
            row[f"{DETECTED}{entry['false_alarm_rate']:g}"] = _with_ends(share, ends)
        if kinds:
            worst = kinds[entry["worst_kind"]]
            text = f"{entry['worst_kind']} {_with_ends(worst['rate'], worst['interval'])}"
            row[f"worst_kind_at_{entry['false_alarm_rate']:g}"] = text
    return row


def _with_ends(share: float, ends: Sequence[float]) -> str:
    return f"{share:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"


def _overrides(run: Run) -> dict[str, str]:
    try:
        overrides: Any = OmegaConf.to_container(read_yaml(run.overrides))  # unresolved: it may hold ${oc.env:…}
    except InputError:  # refused before they were saved, or a broken file
        return {}
    items = (str(item).lstrip("+").partition("=") for item in overrides)
    return {key: value for key, _, value in items}


def _rank(value: str) -> tuple[float, str]:
    """Return a sort key that puts words first, then numbers by size."""
    try:
        return float(value), value
    except ValueError:
        return -math.inf, value


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else f"{value:.4f}" if isinstance(value, float) else str(value)
