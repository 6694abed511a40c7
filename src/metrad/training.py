"""The main job: from a configuration to a trained, scored run."""

import logging
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor

from metrad import config, plots
from metrad.artifacts import save_embeddings, save_model
from metrad.assembly import (
    build_data,
    build_embedder,
    build_learner,
    build_scorer,
    build_settings,
    build_trainer,
    log_images,
    log_thresholds,
)
from metrad.datamodule import MetradDataModule
from metrad.epochs import EpochLog
from metrad.errors import InputError
from metrad.evaluation import attach_head, embed, evaluate
from metrad.module import MetricLearner
from metrad.reporting import save_evaluation, save_evidence, save_picture, split_figures
from metrad.runs import Run, environment, write_json

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # batches are gathered from one array in this process; workers would copy them
    ".*dirpath has changed from.*",  # a run that goes on from another's checkpoint has a directory of its own
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",  # Lightning 2.6 on torch 2.14, not ours to mend
)


def train(cfg: DictConfig, run: Run, hydra: DictConfig, *, keep_refused: bool = False) -> dict[str, Any]:
    """Train, score and save a run.

    Args:
        cfg: the whole configuration.
        run: the directory to fill.
        hydra: Hydra's own configuration, kept beside ``cfg``.
        keep_refused: leave a record of a run whose settings were refused.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: a setting or file cannot be used.
        TrainingError: training diverged.
    """
    config.check(cfg)
    run.claim()
    with run.recorded(keep_refused=keep_refused):
        run.save_config(cfg, hydra, list(hydra.hydra.overrides.task))
        return _train(cfg, run)


def _train(cfg: DictConfig, run: Run) -> dict[str, Any]:
    start = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    scorer, settings = build_scorer(cfg), build_settings(cfg)
    data = build_data(cfg, cfg.image_size or build_embedder(cfg).size)
    data.setup()
    log_images(data)
    scorer.check_size(len(data.split.indices["normal"]))
    log_thresholds(settings, len(data.split.indices["calibration"]))
    embedder = build_embedder(cfg)
    learner = build_learner(cfg, embedder, len(data.classes.seen))
    epochs = EpochLog()
    trainer = build_trainer(cfg, run, epochs)
    data.first_epoch = epochs_behind(cfg.ckpt_path, learner, data, trainer.max_epochs)
    split = data.describe_split()
    write_json(run.split, split)
    device = trainer.strategy.root_device
    write_json(run.environment, environment(str(device), str(trainer.precision)))
    prepared = time.perf_counter()
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        trainer.fit(learner, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    trained = time.perf_counter()
    embedded = embed(embedder, data, device=device)
    embedding = time.perf_counter() - trained
    attach_head(scorer, learner.head, split["head_classes"], split["classes"]["normal"])
    try:
        result = evaluate(scorer, embedded, settings)
    except InputError as error:
        raise InputError(f"{error}; training is done: repeat with ckpt_path={run.last_checkpoint}") from error
    save_model(run, embedder, learner.head, scorer, result.calibration_scores)
    save_embeddings(run, embedded)
    save_evidence(run, result, embedded, data)
    if epochs.history:
        save_picture(plots.head(epochs.history), run.pictures["head"])
    seconds = {"prepare": prepared - start, "train": epochs.seconds, "embed": embedding, **result.seconds}
    seconds["total"] = time.perf_counter() - start
    about = {
        "training": epochs.history[-1] if epochs.history else {},
        **split_figures(split),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {"train": round(epochs.images / epochs.seconds, 1)} if epochs.seconds else {},
    }
    return save_evaluation(run, result, embedded, about)


def epochs_behind(path: str | None, learner: MetricLearner, data: MetradDataModule, max_epochs: int | None) -> int:
    """Return how many epochs the checkpoint at ``path`` has behind it, 0 for None, if training can go on from it.

    Raises:
        InputError: it cannot be read, is of another model or of other images, or is past the last epoch asked for.
    """
    if path is None:
        return 0
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        epochs = int(checkpoint["epoch"]) + 1
        optimizer = checkpoint["optimizer_states"][0]["param_groups"][0]
        model, version = checkpoint["state_dict"], checkpoint["pytorch-lightning_version"]
    except Exception as error:  # torch, pickle and zip errors share no base
        raise InputError(f"ckpt_path={path} cannot be read as a checkpoint ({str(error).splitlines()[0]})") from error
    log.debug("%s was written by Lightning %s", path, version)
    misfit = _other_model(model, checkpoint.get("head"), learner) or _other_optimizer(optimizer, learner)
    if misfit:
        raise InputError(f"ckpt_path={path} {misfit}")
    if checkpoint.get(type(data).__qualname__) != data.state_dict():
        raise InputError(
            f"ckpt_path={path} was trained on other images, so this run's test images may be among them; "
            "repeat the seed, dataset and sizes that it was made with"
        )
    if max_epochs is not None and epochs > max_epochs >= 0:
        raise InputError(f"ckpt_path={path} has {epochs} epochs behind it, trainer.max_epochs={max_epochs}")
    log.info("going on after epoch %d of %s", epochs, max_epochs)
    return epochs


def _other_model(state: dict[str, Tensor], head: str | None, learner: MetricLearner) -> str | None:
    """Return in what a checkpoint's model differs from ``learner``; None if in nothing."""
    own, own_head = learner.state_dict(), type(learner.head).__qualname__
    wrong = [key for key in own | state if key not in state or key not in own or own[key].shape != state[key].shape]
    if wrong:
        return f"is of another model: {len(wrong)} tensors differ, first {wrong[0]}"
    return None if head == own_head else f"was made with head {head}; choose that one"


def _other_optimizer(saved: dict[str, Any], learner: MetricLearner) -> str | None:
    """Return that a checkpoint's optimiser has other settings than the learner's; None if it has the same."""
    made = learner.configure_optimizers()
    own = made["optimizer"] if isinstance(made, dict) else made
    scheduled = {"initial_lr"}  # there with a scheduler only, which may change
    if set(own.param_groups[0]) | scheduled == set(saved) | scheduled:
        return None
    return "was made with another optimizer; choose the one it was made with"
