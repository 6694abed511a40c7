"""The files that a run or an evaluation leaves: metrics, scores and pictures."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from metrad.data.prepared import PreparedData
from metrad.detector.core import Detector
from metrad.evaluation.embeddings import Embedded
from metrad.evaluation.evaluate import Evaluation
from metrad.files import replacing, write_json, write_rows
from metrad.runs import pictures
from metrad.runs.artifacts import save_detector, save_embeddings
from metrad.runs.directory import Run
from metrad.training.fitted import Fitted


def save(run: Run, fitted: Fitted, detector: Detector, result: Evaluation) -> dict[str, Any]:
    """Write all results of a finished run into ``run`` and return the content of ``metrics.json``."""
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
        **split_entries(fitted.data.describe_split()),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {"train": round(epochs.images / epochs.seconds, 1)} if epochs.seconds else {},
    }
    return save_evaluation(run, result, fitted.embedded, about)


def save_evaluation(run: Run, result: Evaluation, embedded: Embedded, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics, scores and their pictures into ``run`` and return the content of ``metrics.json``.

    Args:
        run: the run, or the folder of an evaluation as a run.
        result: the evaluation.
        embedded: the embeddings and images that were evaluated.
        about: further entries of ``metrics.json``, such as sizes and seconds.
    """
    metrics = {**result.metrics, **about}
    write_rows(run.scores, _score_rows(result, embedded))
    save_pictures(run, "evaluation", result)
    write_json(run.metrics, metrics)
    return metrics


def save_history(run: Run, epochs: list[dict[str, Any]], study: list[dict[str, Any]]) -> None:
    """Write and draw the rows of ``epochs.csv`` and ``study.csv``, one for each epoch; either may be empty."""
    if epochs:
        write_rows(run.epochs, epochs)
        save_pictures(run, "epochs", epochs)
    if study:
        write_rows(run.study, study)
        save_pictures(run, "study", study)


def save_selection(run: Run, rows: list[dict[str, Any]], chosen: Mapping[str, Any]) -> None:
    """Write and draw into ``run`` the rows of ``selection.csv`` and the choice."""
    write_rows(run.selection_table, rows)
    save_pictures(run, "selection", pictures.Selection(rows, chosen))


def split_entries(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``metrics.json`` on a split, from ``PreparedData.describe_split``."""
    return {
        "sizes": {role: len(images) for role, images in split["images"].items()},
        "copies_left_out": split["copies_left_out"],
        "corrupt_left_out": len(split["corrupt_left_out"]),
        "split": split["hash"],
    }


def save_evidence(run: Run, result: Evaluation, embedded: Embedded, data: PreparedData) -> None:
    """Draw into ``run`` the pictures that show test images beside their nearest normal images."""
    save_pictures(run, "images", pictures.ScoredImages(result, embedded, data))


def save_pictures(run: Run, material: pictures.Material, content: Any) -> None:
    """Draw into ``run`` every picture of ``material`` from ``content``."""
    for picture in pictures.PICTURES:
        if picture.material == material:
            save_picture(picture.draw(content), run.pictures[picture.name])


def save_picture(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path``, all or nothing."""
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a file's name; scores.csv has it whole
        figure.savefig(partial, pil_kwargs={"compress_level": 1})  # a fifth faster than level 6


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
