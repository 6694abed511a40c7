"""Embed, fit, score, measure."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from metrad import ranks
from metrad.batches import Batch
from metrad.datamodule import ImageRecord, MetradDataModule
from metrad.embedder import Embedder
from metrad.embedding import Forward, half_type
from metrad.errors import InputError
from metrad.heads import Head
from metrad.memory import lean_memory
from metrad.metrics import summary
from metrad.scorers import KNN, HeadScorer, Scorer
from metrad.statistics import (
    bootstrap_intervals,
    calibration_images_needed,
    conformal_p_values,
    conformal_threshold,
    delong_interval,
    exact_interval,
    require_calibration,
)
from metrad.whitening import within_class_whitening

ROLES = ("normal", "calibration", "test_normal", "test_anomalous")
REFERENCE = "reference"
DEFAULT_FALSE_ALARM_RATES = (0.01, 0.05)


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a run's images and what the images are.

    Attributes:
        arrays: for each of ``ROLES`` its embeddings, (N, D) float32, and for the reference role where a scorer asked.
        records: for each of these roles its images, in the same order.
    """

    arrays: dict[str, np.ndarray]
    records: dict[str, list[ImageRecord]]

    @property
    def normal_classes(self) -> np.ndarray:
        """Number of the normal class of each normal embedding, (N,)."""
        return np.unique([record.class_name for record in self.records["normal"]], return_inverse=True)[1]

    @property
    def reference(self) -> np.ndarray | None:
        """The reference embeddings, (N, D); None if they were not computed."""
        return self.arrays.get(REFERENCE)

    @property
    def test(self) -> np.ndarray:
        """Embeddings of the test images, normal ones first, (N, D)."""
        return np.concatenate([self.arrays["test_normal"], self.arrays["test_anomalous"]])

    @property
    def anomalous(self) -> np.ndarray:
        """The truth about them, (N,) booleans."""
        normal, anomalous = len(self.arrays["test_normal"]), len(self.arrays["test_anomalous"])
        return np.arange(normal + anomalous) >= normal


@dataclass(frozen=True)
class Settings:
    """What is measured beside the figures.

    Attributes:
        false_alarm_rates: rates to give thresholds for; None for those of 0.01 and 0.05 that the calibration images
            suffice for.
        level: of all intervals.
        resamples: of the bootstrap.
    """

    false_alarm_rates: Sequence[float] | None = None
    level: float = 0.95
    resamples: int = 2000

    def rates(self, calibration_images: int) -> list[float]:
        """Return the rates that thresholds are given for.

        Raises:
            InputError: a rate asked for needs more calibration images.
        """
        if self.false_alarm_rates is None:
            return [rate for rate in DEFAULT_FALSE_ALARM_RATES if calibration_images_needed(rate) <= calibration_images]
        for rate in self.false_alarm_rates:
            require_calibration(calibration_images, rate)
        return list(self.false_alarm_rates)


@dataclass(frozen=True)
class Evaluation:
    """The scores of the test images and what follows from them.

    Attributes:
        records: the test images, normal ones first.
        anomalous: the truth, (N,) booleans.
        scores: (N,); higher is more anomalous.
        p_values: how unusual the score would be of a normal image, (N,); None without calibration images.
        nearest: position among the normal images of each test image's nearest, (N,).
        calibration_scores: scores of the calibration images, (M,).
        figures: what ``metrics.json`` says of them: figures, intervals, thresholds.
        seconds: time of each phase.
    """

    records: list[ImageRecord]
    anomalous: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray | None
    nearest: np.ndarray
    calibration_scores: np.ndarray
    figures: dict[str, Any]
    seconds: dict[str, float]


def roles_for(scorers: Iterable[Scorer]) -> tuple[str, ...]:
    """Return the roles whose images must be embedded so that each of ``scorers`` can be fitted and measured."""
    return (*ROLES, REFERENCE) if any(scorer.needs_reference for scorer in scorers) else ROLES


def embed(
    embedder: Embedder,
    data: MetradDataModule,
    roles: Sequence[str] = ROLES,
    *,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
) -> Embedded:
    """Return the embeddings of all images of ``roles``, as float32.

    Each of several ranks computes a part, and only the first returns them; the others return no rows.

    Args:
        embedder: images to embeddings; put into evaluation mode and, its weights, into float32.
        data: where the images are.
        roles: see ``roles_for``.
        device: where to compute.
        precision: as Lightning names it; layers run in its half precision, if it has one, and all else in float32.
    """
    indices = np.concatenate([data.split.indices[role] for role in roles])
    embeddings = _embeddings(embedder, data, indices, torch.device(device), precision)
    ends = np.cumsum([len(data.split.indices[role]) for role in roles])
    arrays = dict(zip(roles, np.split(embeddings, ends[:-1]), strict=True))
    return Embedded(arrays, {role: data.records(role) for role in roles})


def fit_whitening(
    embedder: Embedder, data: MetradDataModule, *, device: torch.device | str = "cpu", precision: str = "32-true"
) -> None:
    """Fit the whitening of ``embedder``, if it has one, to the images it was trained on, those of all ranks.

    Angles are seen from the mean of the class means, and embeddings whitened within the classes. The arguments are
    those of ``embed``.

    Raises:
        InputError: within the classes the embeddings are alike.
    """
    if embedder.whitening is None:
        return
    width = embedder.out_features
    embedder.set_whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32))
    indices = data.train_indices
    embeddings = _embeddings(embedder, data, indices, torch.device(device), precision)
    found = None
    if ranks.rank() == 0:
        found = _whitening(embeddings, data.data.pool.labels[indices])
    embedder.set_whitening(*ranks.same(found))  # type: ignore[misc]


def _whitening(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        centre, whitening = within_class_whitening(embeddings, labels)
        return centre.astype(np.float32), whitening.astype(np.float32)
    except ValueError as error:
        raise InputError(f"whiten=true: {error}; give more images, or whiten=false") from error


def _embeddings(
    embedder: Embedder, data: MetradDataModule, indices: np.ndarray, device: torch.device, precision: str
) -> np.ndarray:
    """Return the embeddings (N, D) of the images at ``indices``; on other ranks than the first no rows."""
    embedder = embedder.to(device, torch.float32).eval()
    forward = Forward(embedder, device, half_type(precision))
    size = ranks.same(forward.largest_batch(data.images(indices[:1], 1), len(indices)))
    spans = ranks.spans(len(indices), size)
    mine = slice(*spans[ranks.rank()])
    batches = data.images(indices[mine], size, pinned=forward.device.type == "cuda")
    with lean_memory(forward.device):
        found = _filled(forward, batches, len(indices[mine]))
    return ranks.gather(found, spans)


def _filled(forward: Forward, batches: Iterable[Batch], count: int) -> np.ndarray:
    """Return the embeddings of all batches, ``count`` images, in one array that is made once."""
    embeddings, done = np.empty((0, 0), dtype=np.float32), 0
    for images, _ in tqdm(batches, "embedding", leave=False, delay=1, disable=None):
        found = forward(images)
        if not done:
            embeddings = np.empty((count, found.shape[1]), dtype=np.float32)
        embeddings[done : done + len(found)] = found
        done += len(found)
    return embeddings


def evaluate(
    scorer: Scorer, embedded: Embedded, settings: Settings, *, calibration: np.ndarray | None = None
) -> Evaluation:
    """Measure how ``scorer`` tells the test images apart, with thresholds from the calibration images alone.

    Args:
        scorer: fitted here on the normal embeddings, unless ``calibration`` is given.
        embedded: embeddings of all roles.
        settings: what to measure.
        calibration: the calibration scores that ``scorer``, fitted already, gave.

    Raises:
        InputError: the scorer cannot serve these embeddings, or a false-alarm rate needs more calibration images.
    """
    arrays, start = embedded.arrays, time.perf_counter()
    rates = settings.rates(len(arrays["calibration"]))
    if calibration is None:
        scorer.fit(arrays["normal"], embedded.normal_classes, reference=embedded.reference)
    fitted = time.perf_counter()
    if calibration is None:
        calibration = scorer.score(arrays["calibration"])
    test, anomalous = embedded.test, embedded.anomalous
    scores = scorer.score(test)
    scored = time.perf_counter()
    thresholds = [threshold_figures(calibration, scores, anomalous, rate, settings.level) for rate in rates]
    figures: dict[str, Any] = {
        **summary(scores, anomalous),
        "intervals": intervals(scores, anomalous, settings),
        "thresholds": thresholds,
        "scorer": {"name": type(scorer).__name__, **scorer.fitted_figures()},
    }
    measured = time.perf_counter()
    nearby = scorer if scorer.has_neighbours else KNN().fit(arrays["normal"])
    return Evaluation(
        records=[*embedded.records["test_normal"], *embedded.records["test_anomalous"]],
        anomalous=anomalous,
        scores=scores,
        p_values=conformal_p_values(calibration, scores) if len(calibration) else None,
        nearest=nearby.neighbours(test),
        calibration_scores=calibration,
        figures=figures,
        seconds={"fit": fitted - start, "score": scored - fitted, "measure": measured - scored},
    )


def intervals(scores: np.ndarray, anomalous: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Return the intervals of every figure by stratified bootstrap, and of the AUROC by DeLong."""
    bootstrap = bootstrap_intervals(scores, anomalous, level=settings.level, resamples=settings.resamples)
    return {
        "level": settings.level,
        "auroc_delong": list(delong_interval(scores, anomalous, settings.level)),
        "bootstrap": {name: list(ends) for name, ends in bootstrap.items()},
    }


def threshold_figures(
    calibration: np.ndarray, scores: np.ndarray, anomalous: np.ndarray, rate: float, level: float
) -> dict[str, Any]:
    """Return the threshold for a false-alarm rate and what it does on the test images, with exact intervals."""
    threshold = conformal_threshold(calibration, rate)
    alarms = scores > threshold
    false_alarms, detections = alarms[~anomalous], alarms[anomalous]
    return {
        "false_alarm_rate": rate,
        "threshold": threshold,
        "test_false_alarm_rate": float(false_alarms.mean()),
        "test_false_alarm_interval": list(exact_interval(int(false_alarms.sum()), len(false_alarms), level)),
        "test_detection_rate": float(detections.mean()),
        "test_detection_interval": list(exact_interval(int(detections.sum()), len(detections), level)),
    }


def attach_head(scorer: Scorer, head: Head, head_classes: list[str], normal: list[str]) -> None:
    """Give ``scorer`` the head and the numbers of its normal classes, if it needs them.

    Raises:
        InputError: a normal class is none of the head's.
    """
    if not isinstance(scorer, HeadScorer):
        return
    missing = [name for name in normal if name not in head_classes]
    if missing:
        raise InputError(f"the head knows no class {missing[0]}; it knows {', '.join(head_classes)}")
    scorer.attach(head, [head_classes.index(name) for name in normal])
