"""The files that a run or an evaluation leaves: metrics, scores and pictures.

Their contents are collected first, by path, and then written with one call of ``files.write_all``.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metrad.data.prepared import PreparedData
from metrad.data.properties import Table
from metrad.detector.core import Detector
from metrad.evaluation.audit import confound, entry, exchangeability
from metrad.evaluation.embeddings import Embedded
from metrad.evaluation.evaluate import Evaluation
from metrad.evaluation.trivial import trivial
from metrad.evaluation.unusual import most_unusual
from metrad.files import write_all, write_json
from metrad.runs import pictures, property_table
from metrad.runs.artifacts import save_detector, save_embeddings
from metrad.runs.directory import Run
from metrad.scorers import NeighbourScorer, Scorer
from metrad.training.fitted import Fitted, Selected

Contents = dict[Path, Any]  # rows, plain values or a figure, by path


def save(run: Run, fitted: Fitted, detector: Detector, result: Evaluation, *, audit: bool = True) -> None:
    """Write all results of a finished run into ``run``, ``metrics.json`` last; ``audit`` is whether to audit it."""
    epochs, study, selected = fitted.epochs, fitted.study, fitted.selected
    properties = fitted.data.properties()
    contents = {
        **drawn(run, "images", pictures.ScoredImages(result, fitted.embedded, fitted.data)),
        **history(run, epochs.history, study.history if study.wanted else []),
        **(selection(run, selected.rows, selected.figures) if selected else {}),
        **(synthetic(run, selected, fitted.data) if selected and selected.defects else {}),
        **evaluation(run, result, fitted.embedded),
        **({} if fitted.data.classes.anomalous else unusual(run, fitted, detector.scorer)),
        **({run.properties: property_table.rows_to_write(properties)} if properties.images else {}),
    }
    about = {
        **beside_trivial(result, properties),
        **(audited(result, properties) if audit and fitted.data.given_test_part else {}),
        "training": epochs.history[-1] if epochs.history else {},
        **({"selection": selected.figures} if selected else {}),
        **split_entries(run.saved_split()),
        **({"ungrouped_views": asdict(views)} if (views := detector.ungrouped_views) else {}),
    }
    save_embeddings(run, fitted.embedded, save_detector(run, detector))
    write_all(contents)
    seconds = {**fitted.seconds, **({"select": selected.seconds} if selected else {}), **result.seconds}
    seconds["total"] = time.perf_counter() - fitted.started + epochs.earlier - study.here + seconds.get("select", 0.0)
    speed = {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {"train": round(epochs.images / epochs.seconds, 1)} if epochs.seconds else {},
    }
    write_json(run.metrics, {**result.metrics, **about, **speed})


def audited(result: Evaluation, properties: Table) -> dict[str, Any]:
    """Return the entry of ``metrics.json`` on the audit of a given test part; see ``evaluation.audit``."""
    known, good = result.calibration, ~result.anomalous
    groups = None if result.groups is None else result.groups[good]
    scores = exchangeability(known.scores, result.scores[good], known.groups, groups)
    return {"audit": entry(confound(properties), scores)}


def beside_trivial(result: Evaluation, properties: Table) -> dict[str, Any]:
    """Return the entries of ``metrics.json`` on trivial properties; see ``evaluation.trivial``."""
    values, level = properties.of("test_normal", "test_anomalous"), float(result.metrics["intervals"]["level"])
    return trivial(result.scores, result.anomalous, values, level, result.groups)


def evaluation(run: Run, result: Evaluation, embedded: Embedded) -> Contents:
    """Return the scores of an evaluation and their pictures.

    Args:
        run: the run, or the folder of an evaluation as a run.
        result: the evaluation.
        embedded: the embeddings and images that were evaluated.
    """
    return {run.scores: _score_rows(result, embedded), **drawn(run, "evaluation", result)}


def history(run: Run, epochs: list[dict[str, Any]], study: list[dict[str, Any]]) -> Contents:
    """Return ``epochs.csv`` and ``study.csv``, with a row for each epoch, and their pictures; either may be empty."""
    training = {run.epochs: epochs, **drawn(run, "epochs", epochs)} if epochs else {}
    return training | ({run.study: study, **drawn(run, "study", study)} if study else {})


def selection(run: Run, rows: list[dict[str, Any]], chosen: Mapping[str, Any]) -> Contents:
    """Return ``selection.csv`` and its picture, which marks the choice."""
    return {run.selection_table: rows, **drawn(run, "selection", pictures.Selection(rows, chosen))}


def synthetic(run: Run, selected: Selected, data: PreparedData) -> Contents:
    """Return the picture of the synthetic defects that stood in for anomalies."""
    return drawn(run, "synthetic", pictures.SyntheticDefects(selected.defects, data))


def good_images(run: Run, rows: list[dict[str, Any]]) -> Contents:
    """Return ``good_images.csv``, the figures by number of good images in the ``rows``, and its picture."""
    return {run.good_images: rows, **drawn(run, "good_images", rows)}


def unusual(run: Run, fitted: Fitted, scorer: Scorer) -> Contents:
    """Return ``unusual.csv``, the good images of a run without anomalous ones, the most unusual first; and its picture.

    The picture shows the first ones. The distance is that of the scorer if it compares with single images, else by
    cosine.
    """
    metric = scorer.metric if isinstance(scorer, NeighbourScorer) else "cosine"
    found = most_unusual(fitted.embedded, fitted.data.groups, metric)
    rows = [
        {
            "image": one.record.image,
            "class": one.record.class_name,
            "role": one.role,
            "distance": one.distance,
            "nearest": one.nearest.image,
        }
        for one in found
    ]
    return {run.unusual: rows, **drawn(run, "unusual", pictures.UnusualImages(found, fitted.data))}


def drawn(run: Run, material: pictures.Material, content: Any) -> Contents:
    """Return every picture of ``material`` that can be drawn from ``content``."""
    figures = {run.pictures[one.name]: one.draw(content) for one in pictures.PICTURES if one.material == material}
    return {path: figure for path, figure in figures.items() if figure is not None}


def split_entries(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``metrics.json`` on a split, from the content of ``split.json``."""
    return {
        "sizes": {role: len(images) for role, images in split["images"].items()},
        "copies_left_out": split["copies_left_out"],
        "corrupt_left_out": len(split["corrupt_left_out"]),
        "split": split["hash"],
    }


def _score_rows(result: Evaluation, embedded: Embedded) -> list[dict[str, Any]]:
    normal = [embedded.records["normal"][i] for i in result.nearest]
    count = len(result.scores)
    p_values = [""] * count if result.p_values is None else result.p_values.tolist()
    groups = [{}] * count if result.groups is None else [{"group": group} for group in result.groups.tolist()]
    each = zip(result.records, result.anomalous.tolist(), result.scores.tolist(), p_values, normal, groups, strict=True)
    return [
        {
            "image": record.image,
            "class": record.class_name,
            "role": "test_anomalous" if anomalous else "test_normal",
            "score": score,
            "p_value": p_value,
            "nearest": nearest.image,
            "nearest_index": nearest.position,
            **group,
        }
        for record, anomalous, score, p_value, nearest, group in each
    ]
