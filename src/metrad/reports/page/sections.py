"""The sections of a report that are drawn from the directories of runs."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from metrad.evaluation import plots
from metrad.evaluation.good_images import readable
from metrad.progress import bar
from metrad.reports.cells import (
    Cell,
    Flat,
    Reading,
    configuration_of,
    curves_of,
    embedded,
    environment_of,
    hardest,
    read,
)
from metrad.reports.comparison.plots import Styles
from metrad.reports.page import plots as page_plots
from metrad.reports.page.html import Fold, Group, Picture, Section, opened
from metrad.reports.page.tables import Table, settings_tables, table
from metrad.runs import pictures as run_pictures
from metrad.runs.contents import is_unmeasured
from metrad.runs.directory import Run

STUDY = (
    "Measured for study alone: no epoch was chosen by it. Epoch 0 is before training. The effective rank tells how "
    "many directions the normal embeddings spread over."
)
Part = TypeVar("Part")


def styles_of(parts: Sequence[Cell]) -> Styles:
    """Return colour, line style and marker of each choice, the same in every picture."""
    choices = dict.fromkeys(cell.choice for cell in parts)
    return {choice: plots.style(number) for number, choice in enumerate(choices)}


def of_runs(parts: Sequence[Cell]) -> list[Section]:
    """Return the sections of curves, scores, epochs, studies and evidence, as far as the runs have the files.

    Raises:
        InputError: a file of a run cannot be read.
    """
    panels = max(1, sum(cell.median is not None for cell in parts))
    readings = [read(cell, panels) for cell in bar(parts, "report")]
    conditions = by_condition(readings, lambda one: one.cell.condition)
    styles, several = styles_of(parts), max((len(cell.rows) for cell in parts), default=1) > 1
    over = "The mean over seeds, in a band from the lowest to the highest." if several else ""
    run = "the run in the middle of its seeds" if several else "the run"
    score = f"Test images' scores by {run}; higher is more anomalous."
    panel = f"Test images, scored by {run}, above their nearest normal training images."
    epochs = [_epochs(name, members, styles) for name, members in conditions.items()]
    evidence = [_evidence(name, members, alone=len(parts) == 1) for name, members in conditions.items()]
    return [
        *_section("roc", "ROC curves", over, [_roc(conditions, styles)]),
        *_section("scores", "Scores", score, [_scores(name, members) for name, members in conditions.items()]),
        *_section("epochs", "The head over epochs", over, epochs),
        *_section("study", "AUROC after each epoch", f"{STUDY} {over}".strip(), [_study(conditions, styles)]),
        *_section("evidence", "Evidence", panel, evidence),
    ]


def of_pictures(run: Run) -> list[Section]:
    """Return the section of the pictures in the directory of ``run`` that have ``in_report``.

    Raises:
        InputError: a picture cannot be read.
    """
    kept = [each for each in run_pictures.PICTURES if each.in_report and os.path.lexists(run.pictures[each.name])]
    shown = [
        Picture(f"{each.title}. {each.caption}", each.title, embedded(run, run.pictures[each.name], len(kept)))
        for each in kept
    ]
    return _section("pictures", "Pictures", "Drawn when the run was made.", [Group(pictures=shown)])


def of_good_images(run: Run) -> list[Section]:
    """Return the section of the evaluations of ``run`` that fitted their scorer to fewer good images.

    Raises:
        InputError: a table cannot be read.
    """
    groups = []
    for name, curve in curves_of(run).items():
        rows = readable(curve.to_dict("records"))
        figures = [", ".join(f"{key} {row[key]}" for key in list(row)[2:]) for row in rows]
        listed = "; ".join(f"{row['images']} images: {each}" for row, each in zip(rows, figures, strict=True))
        alt = f"Figures by number of good images, {name}. {listed}."
        drawn = Picture(alt, name, plots.good_images(curve.to_dict("records")), wide=True)
        written = table(f"{name}: means over draws, with the lowest and the highest", pd.DataFrame(rows))
        groups.append(Group(name, pictures=[drawn], tables=[written]))
    text = (
        "The scorer fitted to random subsets of the normal training images, from the embeddings of this run. The "
        "calibration and test images stay the same."
    )
    return _section("good_images", "Good images", text, groups)


def of_settings(runs: pd.DataFrame, choices: Sequence[str]) -> list[Section]:
    """Return the section of configurations and environments, with common settings listed once.

    Args:
        runs: rows of a comparison; rows without a directory are left out.
        choices: the columns that name a run, beside the seed.

    Raises:
        InputError: a file of a run cannot be read.
    """
    groups = []
    kinds: tuple[tuple[str, Callable[[Run], Flat | None]], ...] = (
        ("Configuration", configuration_of),
        ("Environment", environment_of),
    )
    kept = runs[runs["folder"] != ""]
    names = [", ".join(str(row[key]) for key in choices) for _, row in kept.iterrows()]
    seeds = [str(seed) for seed in kept["seed"]]
    folders = [Run(folder) for folder in kept["folder"]]
    for title, get in kinds:
        named = [
            (name, seed, settings)
            for name, seed, run in zip(names, seeds, folders, strict=True)
            if (settings := get(run)) is not None
        ]
        if named:
            shared, differing = settings_tables(named, title)
            lines = "\n".join(f"{key}: {value}" for key, value in shared.items())
            fold = Fold("Common to all runs" if len(named) > 1 else "All of it", lines)
            tables, folds = opened([differing] if differing else [])
            groups.append(Group(title, tables=tables, folds=[*folds, fold]))
    text = "What each run was made with. metrad writes it into the run's folder before training begins."
    return [Section("settings", "Configuration and environment", text, groups)] if groups else []


def unfinished(runs: pd.DataFrame, base: Path) -> Table | None:
    """Return a table of ``runs`` with reasons and logs, the paths of which are relative to ``base``."""
    rows = []
    for _, row in runs.iterrows():
        log = Run(row["folder"]).log if row["folder"] else None
        where = "" if log is None or not log.is_file() else os.path.relpath(log.resolve(), base.resolve())
        rows.append({"run": row["run"], "state": row["state"], "error": row["error"], "log": where})
    return table("Unfinished and failed runs, with the reason and the log", pd.DataFrame(rows)) if rows else None


def by_condition(parts: Sequence[Part], condition: Callable[[Part], str]) -> dict[str, list[Part]]:
    """Return ``parts`` grouped by condition, in the order of their first parts."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(condition(part), []).append(part)
    return groups


def _section(anchor: str, title: str, text: str, groups: Sequence[Group]) -> list[Section]:
    """Return a section of the groups that are not empty; no section if all are empty."""
    groups = [group for group in groups if group]
    return [Section(anchor, title, text, groups)] if groups else []


def _roc(conditions: Mapping[str, list[Reading]], styles: Styles) -> Group:
    pictures = []
    for name, members in conditions.items():
        bands = {one.cell.choice: one.curves for one in members if one.curves is not None}
        if bands:
            at_five = "; ".join(f"{choice} {band.mean[10]:.3f}" for choice, band in bands.items())
            alt = f"{named('ROC curves', name)}. True-positive rate at a false-positive rate of 0.05: {at_five}."
            pictures.append(Picture(alt, name, page_plots.roc_bands(bands, styles)))
    return Group(pictures=pictures)


def _scores(name: str, members: list[Reading]) -> Group:
    pictures = []
    for one in members:
        if one.scores is None or one.median is None:
            continue
        choice, scores, anomalous = one.cell.choice, one.scores["score"].to_numpy(), one.scores["anomalous"].to_numpy()
        auroc, thresholds = _thresholds(one.median)
        figure = page_plots.smaller(plots.histogram(scores, anomalous, auroc, thresholds))
        kinds = {"normal": ~anomalous, "anomalous": anomalous}
        medians = [f"{pd.Series(scores[of]).median():.3g} of {kind}" for kind, of in kinds.items() if of.any()]
        alt = f"{named(f'Histogram of scores, {choice}', name)}: median {', '.join(medians)} images."
        caption = f"{choice}, no anomalous test images" if auroc is None else f"{choice}, AUROC {auroc:.4f}"
        pictures.append(Picture(alt, caption, figure))
    return Group(name, pictures=pictures)


def _epochs(name: str, members: list[Reading], styles: Styles) -> Group:
    pictures = []
    for key, (title, unit) in page_plots.STATISTICS.items():
        histories = {one.cell.choice: kept for one in members if (kept := [each for each in one.epochs if key in each])}
        if histories:
            last = "; ".join(
                f"{choice} {pd.concat(tables).groupby('epoch')[key].mean().iloc[-1]:.3g}"
                for choice, tables in histories.items()
            )
            alt = f"{named(f'{title} ({unit}) over epochs', name)}. In the last epoch: {last}."
            pictures.append(Picture(alt, title, page_plots.statistic(key, histories, styles)))
    return Group(name, pictures=pictures)


def _study(conditions: Mapping[str, list[Reading]], styles: Styles) -> Group:
    pictures = []
    for name, members in conditions.items():
        tables = {one.cell.choice: one.study for one in members if one.study}
        if tables:
            means = {
                choice: pd.concat(each).groupby("epoch")["auroc"].mean().dropna() for choice, each in tables.items()
            }
            listed = "; ".join(
                f"{choice} {mean.iloc[0]:.3f} to {mean.iloc[-1]:.3f}" for choice, mean in means.items() if len(mean)
            )
            alt = f"{named('AUROC after each epoch, effective rank below', name)}. First and last means: {listed}."
            pictures.append(Picture(alt, name, page_plots.study(tables, styles)))
    return Group(pictures=pictures)


def _evidence(name: str, members: list[Reading], *, alone: bool) -> Group:
    """Return the pictures of test images, and the names of the hardest ones, folded unless one run is ``alone``."""
    pictures, tables = [], {}
    for one in members:
        if one.median is None:
            continue
        choice, run = one.cell.choice, one.median.path.name
        if one.evidence is not None:
            alt = f"{named(f'Test images above nearest normal images, {choice}', name)}. The hardest are listed below."
            pictures.append(Picture(alt, f"{choice}: {run}", one.evidence))
        if one.scores is not None:
            few = hardest(one.scores, run_pictures.IMAGES_IN_A_ROW)
            few = few[["image", "role", "class", "score", "p_value", "nearest"]]
            caption = f"Hardest images of {run}, in the order of the picture"
            if not one.scores["anomalous"].any():
                caption = f"Normal test images of {run} with the highest scores"
            tables[f"Hardest images: {choice}"] = table(caption, few)
    folds = [] if alone else [Fold(title, content) for title, content in tables.items()]
    return Group(name, pictures=pictures, tables=list(tables.values()) if alone else [], folds=folds)


def _thresholds(run: Run) -> tuple[float | None, dict[float, float]]:
    """Return the AUROC of a run, None without anomalous test images, and its thresholds by false-alarm rate."""
    metrics = run.shown()
    lines = {float(entry["false_alarm_rate"]): float(entry["threshold"]) for entry in metrics["thresholds"]}
    return None if is_unmeasured(metrics) else float(metrics["auroc"]), lines


def named(what: str, condition: str) -> str:
    """Return ``what`` a picture shows, followed by its condition if it has one."""
    return f"{what}, {condition}" if condition else what
