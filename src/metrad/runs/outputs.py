"""What an evaluation leaves behind: figures, scores and pictures."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metrad.data.prepared import PreparedData
from metrad.detector.core import Detector
from metrad.evaluation import plots
from metrad.evaluation.embeddings import Embedded
from metrad.evaluation.evaluate import Evaluation
from metrad.files import replacing, write_json, write_rows
from metrad.runs.artifacts import save_detector, save_embeddings
from metrad.runs.directory import Run
from metrad.training.fitted import Fitted

EVIDENCE = 8


def save(run: Run, fitted: Fitted, detector: Detector, result: Evaluation) -> dict[str, Any]:
    """Write what a finished run leaves into ``run`` and return what ``metrics.json`` holds."""
    epochs, study, selected = fitted.epochs, fitted.study, fitted.selected
    save_embeddings(run, fitted.embedded, save_detector(run, detector))
    save_evidence(run, result, fitted.embedded, fitted.data)
    save_history(run, epochs.history, study.history if study.wanted else [])
    seconds = {**fitted.seconds, **result.seconds}
    seconds["total"] = time.perf_counter() - fitted.started + epochs.earlier - study.here
    if selected:
        save_selection(run, selected.rows, selected.figures)
        seconds["total"] += selected.seconds
    about = {
        "training": epochs.history[-1] if epochs.history else {},
        **({"selection": selected.figures} if selected else {}),
        **split_figures(fitted.data.describe_split()),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {"train": round(epochs.images / epochs.seconds, 1)} if epochs.seconds else {},
    }
    return save_evaluation(run, result, fitted.embedded, about)


def save_evaluation(run: Run, result: Evaluation, embedded: Embedded, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics, scores and the pictures of them into ``run`` and return the metrics.

    Args:
        run: where to.
        result: what was measured.
        embedded: what it was measured on.
        about: further entries of ``metrics.json``, such as sizes and seconds.
    """
    metrics = {**result.figures, **about}
    write_rows(run.scores, _score_rows(result, embedded))
    auroc, thresholds = result.figures["auroc"], result.figures["thresholds"]
    save_picture(plots.roc(result.scores, result.anomalous, auroc), run.pictures["roc"])
    lines = {entry["false_alarm_rate"]: entry["threshold"] for entry in thresholds}
    save_picture(plots.histogram(result.scores, result.anomalous, auroc, lines), run.pictures["scores"])
    write_json(run.metrics, metrics)
    return metrics


def save_history(run: Run, epochs: list[dict[str, Any]], study: list[dict[str, Any]]) -> None:
    """Write and draw into ``run`` what was noted of each epoch, and what a study of them found; either may be empty."""
    if epochs:
        write_rows(run.epochs, epochs)
        save_picture(plots.head(epochs), run.pictures["head"])
    if study:
        write_rows(run.study, study)
        save_picture(plots.study(study), run.pictures["study"])


def save_selection(run: Run, rows: list[dict[str, Any]], chosen: Mapping[str, Any]) -> None:
    """Write and draw into ``run`` what was found when its epochs, settings and scorer were chosen."""
    write_rows(run.selection_table, rows)
    save_picture(plots.selection(rows, chosen), run.pictures["selection"])


def split_figures(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``metrics.json`` says of a split that ``PreparedData.describe_split`` described."""
    return {
        "sizes": {role: len(images) for role, images in split["images"].items()},
        "copies_left_out": split["copies_left_out"],
        "corrupt_left_out": len(split["corrupt_left_out"]),
        "split": split["hash"],
    }


def save_evidence(run: Run, result: Evaluation, embedded: Embedded, data: PreparedData) -> None:
    """Draw the extreme and the hardest test images beside their nearest normal ones into ``run``."""
    order = np.argsort(result.scores, kind="stable")
    anomalous, highest = order[result.anomalous[order]], order[::-1]
    false_alarms = highest[~result.anomalous[highest]]
    test = np.array([record.position for record in result.records])
    normal = np.array([record.position for record in embedded.records["normal"]])

    def evidence(rows: np.ndarray) -> list[plots.Evidence]:
        images, nearest = data.image_set.images[test[rows]], data.image_set.images[normal[result.nearest[rows]]]
        truth = np.where(result.anomalous[rows], "anomalous", "normal")
        titles = [f"{score:.3g}\n{kind}" for score, kind in zip(result.scores[rows], truth, strict=True)]
        return [plots.Evidence(*each) for each in zip(images, nearest, titles, result.anomalous[rows], strict=True)]

    extreme = {"Highest scores": highest, "Lowest scores": order}
    hardest = {"Normal images with the highest scores": false_alarms, "Anomalous ones with the lowest": anomalous}
    for name, groups in (("neighbours", extreme), ("hardest", hardest)):
        figure = plots.neighbours({title: evidence(rows[:EVIDENCE]) for title, rows in groups.items()})
        save_picture(figure, run.pictures[name])


def save_picture(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path``, all or nothing."""
    with replacing(path) as partial:
        figure.savefig(partial, pil_kwargs={"compress_level": 1})  # a fifth of a picture's time less than at 6


def _score_rows(result: Evaluation, embedded: Embedded) -> list[dict[str, Any]]:
    normal = [embedded.records["normal"][i] for i in result.nearest]
    p_values = [""] * len(result.scores) if result.p_values is None else result.p_values.tolist()
    each = zip(result.records, result.anomalous.tolist(), result.scores.tolist(), p_values, normal, strict=True)
    return [
        {
            "image": record.image,
            "class": record.class_name,
            "role": "test_anomalous" if anomalous else "test_normal",
            "score": score,
            "p_value": p_value,
            "nearest": nearest.image,
            "nearest_index": nearest.position,
        }
        for record, anomalous, score, p_value, nearest in each
    ]
