"""What remains to be told of a sweep without anomalous test images: the false alarms on normal test images."""

from pathlib import Path

import pandas as pd

from metrad.reports.comparison.input import read_sweep
from metrad.runs.directory import Run


def false_alarms(folder: Path, by: str) -> str:
    """Return a table of the false alarms of the finished runs in ``folder``: a row for each value and threshold.

    The columns are the conditions, ``by``, the false-alarm rate asked for, the confidence of the threshold (a dash if
    it keeps its rate on average), the number of runs, and mean, lowest and highest rate on the normal test images.

    Raises:
        InputError: a file of a run cannot be read.
    """
    table = read_sweep(folder, by)
    keys = [*table.conditions, by]
    rows = [
        {
            **{key: row[key] for key in keys},
            "asked_for": entry["false_alarm_rate"],
            "confidence": f"{entry['confidence']:g}" if "confidence" in entry else "-",
            "measured": entry["test_false_alarm_rate"],
        }
        for row in table.runs[table.runs["state"] == "finished"].to_dict("records")
        for entry in _thresholds(Run(row["folder"]))
    ]
    if not rows:
        return "No run has a threshold; dataset.sizes.calibration decides for which rates there are enough images."
    groups = pd.DataFrame(rows).groupby([*keys, "asked_for", "confidence"], sort=False)["measured"]
    found = groups.agg(runs="count", mean="mean", lowest="min", highest="max").reset_index()
    return f"False alarms on normal test images, by threshold:\n{found.to_string(index=False)}"


def _thresholds(run: Run) -> list[dict[str, float]]:
    metrics = run.measured()
    return [*metrics.get("thresholds", []), *metrics.get("confident_thresholds", [])]
