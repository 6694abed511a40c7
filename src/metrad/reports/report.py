"""The report of a comparison or of one run: its sections and their order."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from metrad.data.properties import title_of
from metrad.data.ungrouped import UngroupedViews
from metrad.errors import InputError
from metrad.evaluation import audit
from metrad.evaluation.conformal import DEFAULT_RATES, calibration_groups_needed
from metrad.evaluation.metrics import by_name
from metrad.evaluation.trivial import not_beyond
from metrad.quoting import argument
from metrad.reports import envelope
from metrad.reports.cells import Cell, cells, condition_name
from metrad.reports.comparison import plots as comparison_plots
from metrad.reports.comparison.input import FROZEN
from metrad.reports.comparison.kinds import detection
from metrad.reports.comparison.notes import ONE_POOL
from metrad.reports.comparison.statistics import Comparison
from metrad.reports.comparison.trivial import beside_trivial
from metrad.reports.facts import facts_of, head_of
from metrad.reports.page import plots as page_plots
from metrad.reports.page.html import Fold, Group, Picture, Section, opened, write_page
from metrad.reports.page.sections import (
    by_condition,
    named,
    of_good_images,
    of_pictures,
    of_runs,
    of_settings,
    styles_of,
    unfinished,
)
from metrad.reports.page.tables import Table, column, rate, table
from metrad.runs.config.stored import inert
from metrad.runs.contents import BY_KIND_SINCE, UNMEASURED, is_unmeasured, lacks_kinds
from metrad.runs.directory import Run

MOST_NOTES = 20  # further notes are folded
UNVERIFIED = "unverified: the run is from before runs had a manifest, so a changed figure would not be noticed"
MOST_BOXES = 12  # number of box plots that a phone shows without scrolling


def write_report(comparison: Comparison, path: Path) -> Path:
    """Write the report of a comparison to ``path``, all or nothing, and return ``path``.

    Runs without a directory, such as those of a CSV, are left out of the sections that are drawn from directories.

    Raises:
        InputError: a file of a run cannot be read, or the report cannot be written.
    """
    runs, summary = comparison.runs, comparison.summary
    names = [(condition_name(row, comparison.conditions), str(row[comparison.by])) for _, row in summary.iterrows()]
    parts = cells(runs, comparison.by, comparison.conditions, comparison.metric)
    parts.sort(key=lambda cell: names.index((cell.condition, cell.choice)))
    each = [] if comparison.many else parts
    sections = [
        _results(comparison, each),
        *_costs(comparison, each),
        *of_runs(each),
        _all_runs(comparison, path.parent),
        *of_settings(runs, [comparison.by, *comparison.conditions]),
    ]
    facts = [_counted(comparison), *_best(comparison)]
    write_page(path, f"Comparison by {comparison.by}", facts, sections)
    return path


def write_run_report(folder: Path, path: Path | None = None) -> Path:
    """Write the report of the finished run in ``folder``, all or nothing, and return its path.

    Args:
        folder: the directory of the run.
        path: file to write; None for ``report.html`` in ``folder``.

    Raises:
        InputError: ``folder`` is no finished run, one of its files cannot be read, or the report cannot be written.
    """
    run = Run(folder)
    inside = [] if run.status.exists() else sorted(path.parent for path in folder.glob("*/status.json"))
    if inside and (folder / "multirun.yaml").exists():
        raise InputError(f"{folder} is a sweep; make its report by: metrad compare {argument(folder)}")
    if inside:
        held = "a run" if len(inside) == 1 else f"{len(inside):,} runs"
        raise InputError(
            f"{folder} holds {held}; name one, as in: metrad report {argument(inside[-1])}; "
            f"or compare them: metrad compare {argument(folder)}"
        )
    run, path = Run.finished(folder), run.path / "report.html" if path is None else path
    metrics, cfg = run.shown(), inert(run.load_config())
    name, choice, seed = run.path.resolve().name, head_of(cfg), cfg.get("seed")
    seconds = float(metrics["seconds"].get("total", sum(metrics["seconds"].values())))
    tables = [_metrics_table(metrics), *_classes_tables(metrics), _thresholds_table(metrics), _kinds_table(metrics)]
    tables.append(_trivial_table(metrics))
    row = {"folder": str(run.path.resolve()), "run": name, "head": choice, "seed": seed, "seconds": seconds}
    runs = pd.DataFrame([row])
    trained = "features as the weights come, no head" if choice == FROZEN else f"head {choice}"
    found = UNMEASURED if is_unmeasured(metrics) else f"AUROC {rate(metrics['auroc'])}"
    facts = [f"{trained}, seed {seed}: {found} in {seconds:,.0f} s", *facts_of(run, cfg, metrics)]
    facts += [] if run.verified else [UNVERIFIED]
    text = "Measured on test images that fed no choice. Intervals are about these images and this model."
    lines = [
        *_cautions(run, metrics),
        *_lacking(metrics),
        *_without_threshold(metrics, OmegaConf.select(cfg, "evaluation.false_alarm_rates")),
        *too_few(metrics, OmegaConf.select(cfg, "evaluation.confidence")),
    ]
    folds = [] if is_unmeasured(metrics) else [_explained(metrics)]
    group = Group(tables=[each for each in tables if each.rows], lines=lines, folds=folds)
    results = Section("results", "Results", text, [group])
    parts = cells(runs, "head", [], "seconds")  # every run has seconds
    drawn = [*of_runs(parts), *envelope.section(run), *of_pictures(run), *of_good_images(run)]
    write_page(path, f"Run {name}", facts, [results, *drawn, *of_settings(runs, ["head"])])
    return path


def _counted(comparison: Comparison) -> str:
    runs, holes = comparison.runs, len(comparison.holes)
    finished = int((runs["state"] == "finished").sum())
    return f"{len(runs)} runs, {finished} finished" + (f", {holes} holes in the grid" if holes else "")


def _best(comparison: Comparison) -> list[str]:
    """Return a line for each condition on the values with the best and the second-best mean.

    For many conditions, return one line on the means over the conditions in which all values have runs. A better mean
    is no proof of a difference.
    """
    label, facts = _label(comparison.metric), []
    if comparison.many:
        table = comparison.by_condition[comparison.compared].dropna()
        means = table.mean().sort_values(ascending=not comparison.higher_is_better, kind="stable")
        listed = ", then ".join(f"{value} ({rate(mean)})" for value, mean in means.items())
        return [f"Best mean {label} over {len(table)} conditions: {listed}"] if len(table) else []
    rows = comparison.summary[comparison.summary["mean"].notna()].sort_values(
        "mean", ascending=not comparison.higher_is_better, kind="stable"
    )
    names = pd.Series([condition_name(row, comparison.conditions) for _, row in rows.iterrows()], rows.index, str)
    for name in dict.fromkeys(condition_name(row, comparison.conditions) for _, row in comparison.summary.iterrows()):
        ranked = [f"{row[comparison.by]} ({rate(row['mean'])})" for _, row in rows[names == name].iterrows()]
        if ranked:
            facts.append(f"Best mean {named(label, name)}: {', then '.join(ranked[:2])}")
    return facts


def _results(comparison: Comparison, parts: Sequence[Cell]) -> Section:
    """Return the section of box plots, tables, tests and conclusions."""
    label = _label(comparison.metric)
    pictures = []
    for condition, members in by_condition(parts, lambda cell: cell.condition).items():
        place = [members[0].rows[key].iloc[0] for key in comparison.conditions]
        means = "; ".join(f"{cell.choice} {rate(cell.rows[cell.metric].mean())}" for cell in members)
        alt = f"{named(f'Box plots of {label}', condition)}. Means: {means}."
        drawn = page_plots.boxes(comparison, place, label)
        pictures.append(Picture(alt, condition, drawn, wide=len(comparison.compared) > MOST_BOXES))
    for title, found in comparison_plots.of_classes(comparison).items():
        alt = f"{label} by normal and anomalous class, {title}: {rate(np.nanmin(found))} to {rate(np.nanmax(found))}."
        caption = f"{title}: {label} from {comparison_plots.darkest(comparison.metric):g} (dark) to 1 (light)"
        pictures.append(Picture(alt, caption, page_plots.classes(found, comparison.metric)))
    more = [*_detection(comparison), *_beside(comparison)]
    tables, folds = opened([*_means(comparison, label), _summary(comparison, label), *more])
    groups = [Group(pictures=pictures, tables=tables, folds=folds), _differences(comparison, label)]
    if comparison.overall is not None:
        ranks = table(f"Mean rank over all {comparison.units}; 1 is best", comparison.overall)
        listed = ", ".join(f"{row[0].text} {row[1].text}" for row in ranks.rows)
        alt = f"Critical-difference diagram. Mean ranks: {listed}."
        diagram = Picture(alt, "", comparison_plots.ranks(comparison), wide=True)
        groups.append(Group("Ranks", pictures=[diagram], tables=[ranks]))
    notes = [note for note in comparison.notes if note != ONE_POOL]  # it stands with the tests
    rest = Fold(f"{len(notes) - MOST_NOTES} more", "\n".join(notes[MOST_NOTES:]))
    groups.append(Group("What follows", lines=notes[:MOST_NOTES], folds=[rest] if len(notes) > MOST_NOTES else []))
    text = "Every dot is a run. A box spans the quartiles around the median; whiskers reach 1.5 box lengths at most."
    if comparison.many:
        text = "There are too many conditions to draw the runs of each; metrad report RUN has curves and images of one."
    return Section("results", "Results", text, [group for group in groups if group])


def _summary(comparison: Comparison, label: str) -> Table:
    first = [comparison.by, *comparison.conditions, "mean", "low", "high", "std", "median"]
    return table(f"{label} over runs, with Student's 95 % interval", _led_by(comparison.summary, first))


def _detection(comparison: Comparison) -> list[Table]:
    """Return the table of the detection at each false-alarm rate, if runs have thresholds."""
    found = detection(comparison)
    return [table("Anomalous test images found above the thresholds, means over runs", found)] if len(found) else []


def _differences(comparison: Comparison, label: str) -> Group:
    test = "Wilcoxon's signed-rank test" if comparison.paired else "the Mann-Whitney test"
    text = (
        f"Intervals are 95 % bootstrap intervals, p is of {test}, corrected by Holm over all rows. The effect size is "
        "the rank-biserial correlation; the detectable difference would have shown with a chance of 80 %. "
    ) + (ONE_POOL if ONE_POOL in comparison.notes else "")
    first = [comparison.by, "against", *comparison.conditions, "difference", "low", "high", "p_holm", "p"]
    written = table(f"Differences in {label}", _scored(_led_by(comparison.pairs, first)))
    alt = f"Mean differences in {label} with their intervals, filled where significant. The table below has them."
    drawn = Picture(alt, "", comparison_plots.differences(comparison), wide=True)
    pictures = [drawn] if (comparison.pairs["pairs"] > 0).any() and not comparison.many else []
    tables, folds = opened([written])
    return Group("Differences", text, pictures, tables, folds=folds)


def _means(comparison: Comparison, label: str) -> list[Table]:
    """Return the table of means by condition if there are many conditions, else no table."""
    if not comparison.many:
        return []
    return [table(f"Mean {label} over runs: a row a condition", comparison.by_condition, comparison.compared)]


def _beside(comparison: Comparison) -> list[Table]:
    """Return the table of the best trivial property beside each choice, if runs have any."""
    frame = beside_trivial(comparison)
    caption = "Mean AUROC beside the best trivial property of the same test images, in its better direction"
    return [table(caption, frame, ["mean_auroc", "trivial_auroc"])] if len(frame) else []


def _costs(comparison: Comparison, parts: Sequence[Cell]) -> list[Section]:
    label, styles = _label(comparison.metric), styles_of(parts)
    pictures = []
    for condition, members in by_condition(parts, lambda cell: cell.condition).items():
        timed = [cell for cell in members if cell.rows["seconds"].notna().any()]
        if timed:
            means = "; ".join(f"{cell.choice} {cell.rows['seconds'].mean():.1f} s" for cell in timed)
            alt = f"{named(f'Seconds a run against {label}', condition)}. Mean seconds: {means}."
            pictures.append(Picture(alt, condition, page_plots.costs(timed, styles, label)))
    text = "Small markers are runs, large ones the mean of each choice. Seconds are of a whole run, on its own machine."
    return [Section("cost", f"Cost against {label}", text, [Group(pictures=pictures)])] if pictures else []


def _all_runs(comparison: Comparison, base: Path) -> Section:
    """Return the section with a table of finished runs, and a table of unfinished runs with their reasons."""
    runs, done = comparison.runs, comparison.runs["state"] == "finished"
    known = [name for name in (*by_name(), "seconds") if runs[name].notna().any()]
    columns = [comparison.by, *comparison.conditions, "seed", *known, "run"]
    tables, folds = opened([table("Finished runs", runs.loc[done, columns])])
    left = unfinished(runs[~done], base)
    text = "All runs finished." if left is None else f"{int((~done).sum())} of {len(runs)} runs did not finish."
    if comparison.holes:
        folds.append(Fold(f"Holes in the grid: {len(comparison.holes)}", "\n".join(comparison.holes)))
    group = Group(tables=[left, *tables] if left else tables, folds=folds)
    return Section("runs", "Runs", text, [group])


def _metrics_table(metrics: Mapping[str, Any]) -> Table:
    level, bootstrap = float(metrics["intervals"]["level"]), metrics["intervals"]["bootstrap"]
    rows: list[dict[str, Any]] = []
    caption = f"Metrics, with intervals of {100 * level:g} % by bootstrap or DeLong"
    if is_unmeasured(metrics):
        return table(caption, pd.DataFrame(rows))
    for name, metric in by_name().items():
        if name in metrics:
            low, high = bootstrap.get(name, (math.nan, math.nan))
            rows.append({"Metric": metric.title, "Value": rate(metrics[name]), "low": low, "high": high})
    low, high = metrics["intervals"]["auroc_delong"]
    rows.insert(1, {"Metric": "AUROC (DeLong)", "Value": rate(metrics["auroc"]), "low": low, "high": high})
    return table(caption, pd.DataFrame(rows))


def _cautions(run: Run, metrics: Mapping[str, Any]) -> list[str]:
    """Return lines on a detector no better than a trivial property, on the audit, and on parts shown several times."""
    line = not_beyond(metrics)
    said = [*([line] if line else []), *audit.lines(metrics.get("audit") or {})]
    return [*(f"{each[0].upper()}{each[1:]}." for each in said), *_of_views(run, metrics)]


def _of_views(run: Run, metrics: Mapping[str, Any]) -> list[str]:
    views = UngroupedViews.of(metrics.get("ungrouped_views"), f"{run.metrics}: the entry ungrouped_views")
    if views is None:
        return []
    return [
        f"This run has no groups, and {views.words}: its metrics and rates are about new images of the same parts. On "
        "new parts false alarms are more; train with dataset.group=auto."
    ]


def _lacking(metrics: Mapping[str, Any]) -> list[str]:
    """Return a line for each metric that a run lacks because an older version made it, or one on why it has none."""
    if is_unmeasured(metrics):
        return [
            "This run has no anomalous test images (dataset.anomalous=[]), so neither AUROC nor another metric can be "
            "measured, nor how many anomalies a threshold finds. What can be measured is false alarms on normal test "
            "images, below each threshold's promise or above it."
        ]
    lacking = {metric.title: metric.since for name, metric in by_name().items() if name not in metrics}
    if lacks_kinds(metrics):
        lacking["detection of each kind of anomaly"] = BY_KIND_SINCE
    return [f"This run has no {title}: metrics.json has it since metrad {since}." for title, since in lacking.items()]


def _without_threshold(metrics: Mapping[str, Any], asked: Any) -> list[str]:
    """Return a line on each default rate without a threshold, if the run did not ask for rates of its own."""
    counts, counted = _calibrated(metrics)
    there = {entry["false_alarm_rate"] for entry in metrics["thresholds"]}
    if asked is not None or "calibration" not in counts:
        return []
    return [
        f"No figures at {100 * rate:g} % false alarms: a threshold for it takes {calibration_groups_needed(rate)} "
        f"calibration {counted}, and there are {counts['calibration']}."
        for rate in DEFAULT_RATES
        if rate not in there
    ]


def _calibrated(metrics: Mapping[str, Any]) -> tuple[Mapping[str, int], str]:
    """Return the numbers of groups by role, or of images in a run without groups, and the word for them."""
    return (metrics["groups"], "groups") if "groups" in metrics else (metrics.get("sizes", {}), "images")


def too_few(metrics: Mapping[str, Any], confidence: Any) -> list[str]:
    """Return a line on the rates that have a threshold on average, but too few calibration parts for the confidence."""
    if "confident_thresholds" not in metrics or not isinstance(confidence, float):
        return []
    there = {entry["false_alarm_rate"] for entry in metrics["confident_thresholds"]}
    rates = [entry["false_alarm_rate"] for entry in metrics["thresholds"] if entry["false_alarm_rate"] not in there]
    counts, counted = _calibrated(metrics)
    return [
        f"No threshold for {100 * rate:g} % with confidence {confidence:g}: it takes "
        f"{calibration_groups_needed(rate, confidence)} calibration {counted}, and there are {counts['calibration']}."
        for rate in rates
    ]


def _explained(metrics: Mapping[str, Any]) -> Fold:
    lines = []
    for metric in (metric for name, metric in by_name().items() if name in metrics):
        better = "higher" if metric.higher_is_better else "lower"
        covers = f" Its 95 % bootstrap interval held the true value in {metric.covers}." if metric.covers else ""
        lines.append(f"{metric.title}: {metric.description}; {better} is better.{covers}")
    return Fold("What the metrics say, and how often their intervals hold", "\n".join(lines))


def _classes_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return a table of the metrics of each anomalous class if a run has several, else no table."""
    rows = [
        {"Anomalous class": name, "Images": entry["images"], **{key: entry[key] for key in by_name() if key in entry}}
        for name, entry in metrics.get("per_class", {}).items()
    ]
    return [table("Each anomalous class against all normal images", pd.DataFrame(rows))] if rows else []


def _thresholds_table(metrics: Mapping[str, Any]) -> Table:
    rows = [
        {
            "False alarms asked for, %": 100 * entry["false_alarm_rate"],
            "Kept": f"with confidence {entry['confidence']:g}" if "confidence" in entry else "on average",
            "Threshold": f"{entry['threshold']:.4g}",
            "False alarms on test images, %": _percent(
                entry["test_false_alarm_rate"], entry["test_false_alarm_interval"]
            ),
            "Anomalous test images found, %": _percent(entry["test_detection_rate"], entry["test_detection_interval"]),
        }
        for entry in [*metrics["thresholds"], *metrics.get("confident_thresholds", [])]
    ]
    return table("Thresholds from the calibration images, and what they did", pd.DataFrame(rows))


def _trivial_table(metrics: Mapping[str, Any]) -> Table:
    """Return the table of trivial properties, the best first, beside the detector."""
    found = sorted(metrics.get("trivial", {}).items(), key=lambda item: -item[1])
    listed = [("the detector", metrics["auroc"]), *((title_of(name), auroc) for name, auroc in found)] if found else []
    rows = [{"Property": title, "AUROC": rate(auroc)} for title, auroc in listed]
    caption = "What one trivial number an image tells, in the better direction: max(a, 1 - a)"
    return table(caption, pd.DataFrame(rows))


def _kinds_table(metrics: Mapping[str, Any]) -> Table:
    """Return a table of the detection of each kind of anomaly above each threshold; no rows if there is one kind."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in [*metrics["thresholds"], *metrics.get("confident_thresholds", [])]:
        surely = f", with confidence {entry['confidence']:g}" if "confidence" in entry else ""
        heading = f"Found at {100 * entry['false_alarm_rate']:g} % false alarms{surely}, %"
        for name, kind in entry.get("by_kind", {}).items():
            row = rows.setdefault(name, {"Kind of anomaly": name, "Images": kind["images"]})
            worst = ", the worst kind" if name == entry["worst_kind"] else ""
            row[heading] = f"{_percent(kind['rate'], kind['interval'])}{worst}"
    level = 100 * float(metrics["intervals"]["level"])
    caption = f"Detection of each kind of anomaly above each threshold, with intervals of {level:g} %"
    return table(caption, pd.DataFrame(list(rows.values())))


def _percent(share: float | None, interval: Sequence[float] | None) -> str:
    if share is None or interval is None:
        return "not measured"
    low, high = interval
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _led_by(frame: pd.DataFrame, first: Sequence[str]) -> pd.DataFrame:
    """Return ``frame`` with the columns ``first`` in front, so that a phone shows them without scrolling."""
    return frame[[*first, *(key for key in frame.columns if key not in first)]]


def _scored(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return ``pairs`` with wins, ties and losses in one column."""
    counts = ["wins", "ties", "losses"]
    others = pairs.drop(columns=counts)
    together = pairs[counts].astype(str).agg(" / ".join, axis=1)
    others.insert(list(pairs.columns).index("wins"), "Wins / ties / losses", together)
    return others


def _label(key: str) -> str:
    return column(key)[0]
