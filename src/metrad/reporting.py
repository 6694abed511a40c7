"""What a run leaves behind: model, figures, scores and pictures."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import nn

from metrad import plots
from metrad.datamodule import MetradDataModule
from metrad.errors import InputError
from metrad.evaluation import Evaluation
from metrad.runs import Run, replacing, write_json, write_rows
from metrad.scorers import Scorer

log = logging.getLogger(__name__)

EVIDENCE = 8


def save_model(run: Run, embedder: nn.Module, scorer: Scorer) -> None:
    """Write weights and fitted scorer into the run's ``model`` folder, all or nothing."""
    with replacing(run.model) as partial:
        partial.mkdir()
        weights = {key: value.contiguous().cpu() for key, value in embedder.state_dict().items()}
        save_file(weights, partial / run.embedder.name)
        scorer.save(partial)


def load_weights(run: Run, embedder: nn.Module) -> None:
    """Read the weights that ``save_model`` wrote.

    Raises:
        InputError: they are missing, broken or of another model.
    """
    try:
        embedder.load_state_dict(load_file(run.embedder))
    except Exception as error:  # safetensors and torch errors share no base
        raise InputError(f"{run.embedder} cannot be read ({str(error).splitlines()[0]})") from error


def save_evaluation(
    run: Run,
    result: Evaluation,
    data: MetradDataModule,
    *,
    training: dict[str, float],
    seconds: dict[str, float],
    images_per_second: dict[str, float],
) -> dict[str, Any]:
    """Write metrics, scores and pictures into ``run`` and return the metrics."""
    metrics = {
        **result.figures,
        "training": training,
        "sizes": {role: len(indices) for role, indices in data.split.indices.items()},
        "copies_left_out": data.split.copies_left_out,
        "corrupt_left_out": len(data.data.corrupt),
        "split": data.describe_split()["hash"],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {name: round(value, 1) for name, value in images_per_second.items()},
    }
    write_rows(run.scores, _score_rows(result, data))
    auroc = result.figures["auroc"]
    save_picture(plots.roc(result.scores, result.anomalous, auroc), run.pictures["roc"])
    save_picture(plots.histogram(result.scores, result.anomalous, auroc), run.pictures["scores"])
    save_picture(_neighbours(result, data), run.pictures["neighbours"])
    write_json(run.metrics, metrics)
    return metrics


def _score_rows(result: Evaluation, data: MetradDataModule) -> list[dict[str, Any]]:
    names, classes, labels = data.data.names, data.data.classes, data.data.pool.labels
    return [
        {
            "image": names[i],
            "class": classes[labels[i]],
            "role": "test_anomalous" if anomalous else "test_normal",
            "score": score,
            "nearest": names[nearest],
            "nearest_index": nearest,
        }
        for i, anomalous, score, nearest in zip(
            result.indices.tolist(),
            result.anomalous.tolist(),
            result.scores.tolist(),
            result.nearest.tolist(),
            strict=True,
        )
    ]


def _neighbours(result: Evaluation, data: MetradDataModule) -> Figure:
    order = np.argsort(result.scores, kind="stable")

    def evidence(rows: np.ndarray) -> list[plots.Evidence]:
        images = data.data.images[result.indices[rows]]
        nearest = data.data.images[result.nearest[rows]]
        truth = np.where(result.anomalous[rows], "anomalous", "normal")
        titles = [f"{score:.3g}\n{kind}" for score, kind in zip(result.scores[rows], truth, strict=True)]
        return [plots.Evidence(*each) for each in zip(images, nearest, titles, result.anomalous[rows], strict=True)]

    return plots.neighbours(evidence(order[::-1][:EVIDENCE]), evidence(order[:EVIDENCE]))


def save_picture(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path``, all or nothing."""
    with replacing(path) as partial:
        figure.savefig(partial)
