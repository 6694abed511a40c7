"""The main job: from a configuration to a trained, scored run."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
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
    choose_pace,
    log_images,
    log_thresholds,
)
from metrad.datamodule import MetradDataModule
from metrad.environment import environment
from metrad.epochs import EpochLog
from metrad.errors import InputError
from metrad.evaluation import attach_head, embed, evaluate
from metrad.module import MetricLearner
from metrad.names import differences, identity
from metrad.reporting import save_evaluation, save_evidence, save_picture, split_figures
from metrad.runs import Run, read_json, write_json, write_rows

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # batches are gathered from one array in this process; workers would copy them
    ".*dirpath has changed from.*",  # a run that goes on from another's checkpoint has a directory of its own
    ".*Checkpoint directory .* exists and is not empty.*",  # that of an interrupted run that goes on
    ".*Experiment logs directory .* exists and is not empty.*",  # so does one that goes on in its own directory
    ".*The `srun` command is available.*",  # one process a run needs no srun
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",  # Lightning 2.6 on torch 2.14, not ours to mend
)


def train(cfg: DictConfig, run: Run, hydra: DictConfig, *, sweeping: bool = False) -> dict[str, Any]:
    """Train, score and save a run.

    Args:
        cfg: the whole configuration.
        run: the directory to fill.
        hydra: Hydra's own configuration, kept beside ``cfg``.
        sweeping: the run is one of a sweep: a finished one is left alone, an interrupted one goes on from its last
            checkpoint, a failed one begins anew, and one whose settings are refused leaves a record.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: a setting or file cannot be used.
        TrainingError: training diverged.
    """
    if not sweeping:
        config.check(cfg)
    with run.held():
        checkpoint = cfg.ckpt_path
        if sweeping:
            if has_finished(run, cfg):
                return cast("dict[str, Any]", read_json(run.metrics))
            checkpoint = own_checkpoint(run, cfg) or checkpoint
            run.clear(keep_training=checkpoint == run.last_checkpoint)
            run.begin(**_identity(cfg))
        else:
            run.claim(**_identity(cfg))
        with run.recorded(keep_refused=sweeping), warnings.catch_warnings():
            for message in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            run.save_config(cfg, hydra, list(hydra.hydra.overrides.task))
            config.check(cfg)
            return _train(cfg, run, checkpoint)


def has_finished(run: Run, cfg: DictConfig) -> bool:
    """Tell whether a run has finished, with the settings of ``cfg``.

    Raises:
        InputError: it has finished with others.
    """
    if run.state != "finished":
        return False
    other = differences(run.load_config(), cfg)
    if other:
        raise InputError(f"{run.path} was made with other settings: {'; '.join(other)}; choose another sweep=NAME")
    return True


def own_checkpoint(run: Run, cfg: DictConfig) -> Path | None:
    """Return where an interrupted run of the settings of ``cfg`` goes on from; None if it is to begin anew.

    A run that failed begins anew, since what it failed of may be in its checkpoint.
    """
    if run.state != "interrupted" or not run.last_checkpoint.exists() or not run.config.exists():
        return None
    return None if differences(run.load_config(), cfg) else run.last_checkpoint


def _identity(cfg: DictConfig) -> dict[str, str]:
    try:
        return {"identity": identity(cfg)}
    except OmegaConfBaseException:  # its check will tell
        return {}


def _train(cfg: DictConfig, run: Run, checkpoint: str | Path | None) -> dict[str, Any]:
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
    epochs = EpochLog(lambda done, of: run.note(epoch=done, epochs=of))
    pace = choose_pace(cfg, embedder, len(data.train_indices))
    trainer = build_trainer(cfg, run, pace, epochs)
    data.first_epoch = epochs_behind(checkpoint, learner, data, trainer.max_epochs)
    split = data.describe_split()
    write_json(run.split, split)
    device = trainer.strategy.root_device
    write_json(run.environment, environment(str(device), str(trainer.precision), pace.describe()))
    prepared = time.perf_counter()
    trainer.fit(learner, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    trained = time.perf_counter()
    embedded = embed(embedder, data, device=device, precision=str(trainer.precision))
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
        write_rows(run.epochs, epochs.history)
        save_picture(plots.head(epochs.history), run.pictures["head"])
    seconds = {"prepare": prepared - start, "train": epochs.seconds, "embed": embedding, **result.seconds}
    seconds["total"] = time.perf_counter() - start + epochs.earlier
    about = {
        "training": epochs.history[-1] if epochs.history else {},
        **split_figures(split),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {"train": round(epochs.images / epochs.seconds, 1)} if epochs.seconds else {},
    }
    return save_evaluation(run, result, embedded, about)


def epochs_behind(
    path: str | Path | None, learner: MetricLearner, data: MetradDataModule, max_epochs: int | None
) -> int:
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
