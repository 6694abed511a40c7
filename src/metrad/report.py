"""The report of a comparison or of one run: which parts it has, in which order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from metrad import report_plots
from metrad.errors import InputError
from metrad.report_data import Cell, Comparison, cells, condition_name
from metrad.report_page import Fold, Group, Picture, Section, write_page
from metrad.report_sections import by_condition, of_runs, of_settings, styles_of, unfinished
from metrad.report_tables import COLUMNS, Table, rate, table
from metrad.runs import Run, read_json

FIGURES = ("auroc", "average_precision", "fpr_at_95_tpr", "partial_auroc", "seconds")


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the report of a comparison to ``path``, all or nothing.

    Runs without a directory, as of a table from elsewhere, have no part in the panels that are drawn from directories.

    Raises:
        InputError: a file of a run cannot be read, or the report cannot be written.
    """
    runs = comparison.runs if "folder" in comparison.runs else comparison.runs.assign(folder="")
    runs = runs.assign(folder=runs["folder"].fillna(""))
    names = [
        (condition_name(row, comparison.conditions), str(row[comparison.by]))
        for _, row in comparison.summary.iterrows()
    ]
    order = {name: number for number, name in enumerate(names)}
    parts = cells(runs, comparison.by, comparison.conditions, comparison.metric)
    parts.sort(key=lambda cell: order.get((cell.condition, cell.choice), len(order)))
    done = runs[comparison.metric].notna()
    facts = [f"{len(runs)} runs, {int(done.sum())} finished", *_best(comparison), *comparison.notes]
    sections = [
        _results(comparison, parts),
        *_costs(comparison, parts),
        *of_runs(parts),
        _all_runs(comparison, runs, path.parent),
        *of_settings(runs, [comparison.by, *comparison.conditions]),
    ]
    write_page(path, f"Comparison of {_label(comparison.by).lower()}s", facts, sections)


def write_run_report(folder: Path, path: Path | None = None) -> Path:
    """Write the report of the finished run in ``folder``, all or nothing, and return where.

    Args:
        folder: the run's directory.
        path: where to; ``report.html`` in ``folder`` if not given.

    Raises:
        InputError: it is no finished run, one of its files cannot be read, or the report cannot be written.
    """
    run = Run(folder)
    if not run.status.exists() and any(folder.glob("*/status.json")):
        raise InputError(f"{folder} is a sweep; the report of a sweep is made by: metrad compare {folder}")
    run, path = Run.finished(folder), run.path / "report.html" if path is None else path
    metrics, cfg = read_json(run.metrics), run.load_config()
    name, choice = run.path.resolve().name, str(cfg.get("head", {}).get("_target_", "head")).rpartition(".")[2]
    try:
        seconds = float(metrics["seconds"].get("total", sum(metrics["seconds"].values())))
        tables = [_figures_table(metrics), _thresholds_table(metrics)]
        auroc = float(metrics["auroc"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{run.metrics} holds no figures of a run ({error!r})") from error
    row = {"folder": str(run.path.resolve()), "run": name, "head": choice, "seed": cfg.get("seed"), "auroc": auroc}
    runs = pd.DataFrame([row])
    facts = [f"head {choice}, seed {cfg.get('seed')}: AUROC {rate(auroc)} in {seconds:,.0f} s"]
    text = "Measured on test images that fed no choice. Intervals are about these images and this model."
    results = Section("results", "Results", text, [Group(tables=[each for each in tables if each.rows])])
    parts = cells(runs, "head", [], "auroc")
    write_page(path, f"Run {name}", facts, [results, *of_runs(parts), *of_settings(runs, ["head"])])
    return path


def _best(comparison: Comparison) -> list[str]:
    """Return for each condition which choice has the best mean; a lead, not a proof."""
    summary = comparison.summary[comparison.summary["mean"].notna()]
    if summary.empty:
        return []
    names = pd.Series([condition_name(row, comparison.conditions) for _, row in summary.iterrows()], summary.index)
    lower_is_better = comparison.metric.startswith("fpr")
    facts = []
    for name, rows in summary.groupby(names, sort=False):
        best = rows.loc[rows["mean"].idxmin() if lower_is_better else rows["mean"].idxmax()]
        of = f"{_label(comparison.metric)} {rate(best['mean'])} over {best['runs']} seeds"
        facts.append(f"Best mean{name and ', '}{name}: {best[comparison.by]}, {of}")
    return facts


def _results(comparison: Comparison, parts: Sequence[Cell]) -> Section:
    label, styles = _label(comparison.metric), styles_of(parts)
    pictures = []
    for condition, members in by_condition(parts, lambda cell: cell.condition).items():
        means = "; ".join(f"{cell.choice} {rate(cell.rows[cell.metric].mean())}" for cell in members)
        alt = f"Box plots of {label}{condition and ', '}{condition}. Means: {means}."
        pictures.append(Picture(alt, condition, report_plots.boxes(members, styles, label)))
    key = [comparison.by, *comparison.conditions]
    first = [*key, "mean", "low", "high", "std", "median"]
    tables = [table(f"{label} over seeds", _led_by(comparison.summary, first))]
    if len(comparison.pairs):
        tables.append(
            table(
                f"{label} compared in pairs of runs with the same seed",
                _scored(_led_by(comparison.pairs, [key[0], "against", *key[1:]])),
            )
        )
    if comparison.overall is not None and len(comparison.overall):
        tables.append(table("Mean rank over all conditions; 1 is best", comparison.overall))
    text = (
        "Every dot is a run. A box spans the quartiles around the median; whiskers reach up to 1.5 box lengths further."
    )
    return Section("results", "Results", text, [Group(pictures=pictures, tables=tables)])


def _costs(comparison: Comparison, parts: Sequence[Cell]) -> list[Section]:
    if "seconds" not in comparison.runs:
        return []
    label, styles = _label(comparison.metric), styles_of(parts)
    pictures = []
    for condition, members in by_condition(parts, lambda cell: cell.condition).items():
        timed = [cell for cell in members if cell.rows["seconds"].notna().any()]
        if timed:
            means = "; ".join(f"{cell.choice} {cell.rows['seconds'].mean():.1f} s" for cell in timed)
            alt = f"Seconds a run against {label}{condition and ', '}{condition}. Mean seconds: {means}."
            pictures.append(Picture(alt, condition, report_plots.costs(timed, styles, label)))
    text = "Small markers are runs, large ones the mean of each choice. Seconds are of a whole run, on its own machine."
    return [Section("cost", f"Cost against {label}", text, [Group(pictures=pictures)])] if pictures else []


def _all_runs(comparison: Comparison, runs: pd.DataFrame, base: Path) -> Section:
    """Return the table of all runs, and of those that did not finish with their reasons."""
    settings = [key for key in runs.columns if key not in ("folder", "run", "state", "error", *FIGURES)]
    first = [comparison.by, *(key for key in settings if key != comparison.by)]
    done = runs[comparison.metric].notna()
    figures = [key for key in FIGURES if key in runs]
    tables = [table("Finished runs", runs.loc[done, [*first, *figures, *(["run"] if "run" in runs else [])]])]
    left = unfinished(runs[~done], base)
    text = "All runs finished." if left is None else f"{int((~done).sum())} of {len(runs)} runs did not finish."
    holes = [Fold(f"Runs missing in the grid: {len(comparison.holes)}", "\n".join(comparison.holes))]
    group = Group(tables=[left, *tables] if left else tables, folds=holes if comparison.holes else [])
    return Section("runs", "Runs", text, [group])


def _figures_table(metrics: Mapping[str, Any]) -> Table:
    level, bootstrap = float(metrics["intervals"]["level"]), metrics["intervals"]["bootstrap"]
    rows = [
        {"Figure": _label(name), "Value": rate(metrics[name]), "low": bootstrap[name][0], "high": bootstrap[name][1]}
        for name in FIGURES
        if name in bootstrap
    ]
    low, high = metrics["intervals"]["auroc_delong"]
    rows.insert(1, {"Figure": "AUROC (DeLong)", "Value": rate(metrics["auroc"]), "low": low, "high": high})
    return table(f"Figures, with intervals of {100 * level:g} % by bootstrap or DeLong", pd.DataFrame(rows))


def _thresholds_table(metrics: Mapping[str, Any]) -> Table:
    rows = [
        {
            "False alarms asked for, %": 100 * entry["false_alarm_rate"],
            "Threshold": f"{entry['threshold']:.4g}",
            "False alarms on test images, %": _percent(
                entry["test_false_alarm_rate"], entry["test_false_alarm_interval"]
            ),
            "Anomalous test images found, %": _percent(entry["test_detection_rate"], entry["test_detection_interval"]),
        }
        for entry in metrics["thresholds"]
    ]
    return table("Thresholds from the calibration images, and what they did", pd.DataFrame(rows))


def _percent(share: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _led_by(frame: pd.DataFrame, first: Sequence[str]) -> pd.DataFrame:
    """Return ``frame`` with the columns ``first`` in front, which a phone shows without scrolling."""
    return frame[[*first, *(key for key in frame.columns if key not in first)]]


def _scored(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return ``pairs`` with wins, ties and losses in one column."""
    counts = ["wins", "ties", "losses"]
    if not set(counts) <= set(pairs.columns):
        return pairs
    together = pairs[counts].astype(str).agg(" / ".join, axis=1)
    others = pairs.drop(columns=counts)
    others.insert(list(pairs.columns).index("wins"), "Wins / ties / losses", together)
    return others


def _label(key: str) -> str:
    return COLUMNS.get(key, (key, None))[0]
