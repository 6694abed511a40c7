"""The training job: from a configuration to a trained and scored run."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from metrad import collectives
from metrad.app.build import Parts, build
from metrad.app.fit import fit
from metrad.app.select import select
from metrad.detector.core import Detector
from metrad.detector.torch_backend import TrainedBackend
from metrad.errors import DivergedError, InputError
from metrad.evaluation.evaluate import Evaluation, attach_head
from metrad.evaluation.evaluate import evaluate as measure
from metrad.evaluation.metrics import by_name
from metrad.quoting import setting
from metrad.runs import outputs
from metrad.runs.claim import claim
from metrad.runs.config import checks
from metrad.runs.config.secrets import secrets
from metrad.runs.directory import Run
from metrad.training.devices import launch
from metrad.training.devices import plan as devices
from metrad.training.fitted import Fitted

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # batches are gathered from one array in this process; workers would copy them
    ".*dirpath has changed from.*",  # a run that continues from another run's checkpoint has its own directory
    ".*Checkpoint directory .* exists and is not empty.*",  # an interrupted run continues in its directory
    ".*Experiment logs directory .* exists and is not empty.*",  # the same
    ".*The `srun` command is available.*",  # a run in a single process needs no srun
    ".*module.s. in eval mode at the start of training.*",  # moving averages and fixed batch normalisation
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",  # Lightning 2.6 on torch 2.14; only Lightning can change it
)


def train(cfg: DictConfig, run: Run, hydra: DictConfig, *, sweeping: bool = False) -> dict[str, Any]:
    """Train, score and save a run.

    Args:
        cfg: the whole configuration.
        run: directory to write to.
        hydra: Hydra's own configuration, saved beside ``cfg``.
        sweeping: whether the run belongs to a sweep. A finished run of a sweep stays unchanged, an interrupted run
            continues from its last checkpoint, a failed run begins anew, and a run whose settings are refused leaves
            a record.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: a setting or file cannot be used.
        TrainingError: training diverged.
    """
    with run.held():
        claimed = claim(run, cfg, sweeping=sweeping)
        if not claimed.finished:
            with run.recorded(keep_refused=sweeping, secrets=secrets(cfg)), expected_warnings():
                run.save_config(cfg, hydra)
                parts = build(cfg, claimed.checkpoint)
                make(parts, run)
        return run.shown()


def make(parts: Parts, run: Run) -> None:
    """Select if ``parts`` has a selection, train, score and save.

    On several devices, this process is one of the ranks, or starts a process for each. The first rank writes the run.
    """
    plan = devices.plan(parts.trainer, parts.batch_size)
    if plan.to_start:
        checkpoint = parts.begun.path if parts.begun else None
        arguments = (parts.config, run.path, checkpoint, torch.get_num_threads())
        launch.start(_make_as_rank, arguments, plan.count)
        return
    with contextlib.ExitStack() as tracked:
        with devices.joined(parts.trainer, plan.count):
            run = Run(collectives.same(run.path))
            if parts.selection:
                parts = select(parts, run)
            tracker = tracked.enter_context(parts.make_tracker(run))
            fitted = fit(parts, run, tracker)
        if fitted.first:
            detector, result = evaluate(parts, fitted, run)
            outputs.save(run, fitted, detector, result, audit=parts.audit)
            tracker.record(recorded(result.metrics), fitted.learner.global_step)


def recorded(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what a logger records of the content of ``metrics.json``: the metrics, without those that are None.

    Of a run without anomalous images these are the false-alarm rates on its test images, by the rate asked for.
    """
    found = {name: metrics[name] for name in by_name() if metrics[name] is not None}
    alarms = {f"false_alarms_at_{e['false_alarm_rate']:g}": e["test_false_alarm_rate"] for e in metrics["thresholds"]}
    return found or alarms


def _make_as_rank(cfg: DictConfig, path: Path, checkpoint: str | Path | None, threads: int) -> None:
    """Make the run as one of the ranks that ``make`` starts; the first rank does not write its final status."""
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    checks.register()
    with expected_warnings():
        make(build(cfg, checkpoint), Run(path))


def follow(cfg: DictConfig) -> None:
    """Train as one of the ranks that torchrun or srun started after the first; the first rank calls ``train``."""
    launch.mute()
    with expected_warnings():
        make(build(cfg, cfg.ckpt_path), Run("."))


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    """Ignore ``EXPECTED_WARNINGS`` inside this context; they do not concern the user."""
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


def evaluate(parts: Parts, fitted: Fitted, run: Run) -> tuple[Detector, Evaluation]:
    """Fit the scorer, set the thresholds and compute the metrics; return the detector and the evaluation.

    Raises:
        InputError: the scorer cannot serve the embeddings.
        DivergedError: embeddings are not finite.
    """
    scorer, learner, data = parts.make_scorer(), fitted.learner, fitted.data
    attach_head(scorer, learner.head, data.head_classes, data.class_names("normal"))
    try:
        result = measure(scorer, fitted.embedded, parts.settings, groups=data.groups)
    except InputError as error:
        if not all(np.isfinite(vectors).all() for vectors in fitted.embedded.arrays.values()):
            raise DivergedError(f"{error}; lower optimizer.lr, or set trainer.gradient_clip_val=1") from error
        if not parts.epochs:
            raise
        repeated = setting("ckpt_path", run.last_checkpoint)
        raise InputError(f"{error}; training is done: repeat with {repeated}") from error
    settings = {**parts.blueprint.embedder, "image_size": learner.embedder.size}
    detector = Detector(
        dataclasses.replace(parts.blueprint, embedder=settings),
        TrainedBackend(learner.evaluated, learner.head.eval()),
        lambda: scorer,
        calibration=result.calibration.in_order(),
        normal_images=[record.image for record in fitted.embedded.records["normal"]],
        precision=fitted.precision,
    )
    detector.decoding, detector.kept, detector.fitted_digests = data.decoding, data.kept, data.fitted_digests
    detector.ungrouped_views = data.ungrouped_views
    return detector, result
