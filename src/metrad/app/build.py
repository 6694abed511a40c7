"""From a configuration to the parts of a run, put together."""

import logging
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from metrad import collectives
from metrad.data.prepared import PreparedData
from metrad.data.roles import Roles
from metrad.data.store import GIB, Storage
from metrad.errors import InputError, first_line
from metrad.evaluation.conformal import calibration_images_needed
from metrad.evaluation.evaluate import DEFAULT_FALSE_ALARM_RATES, Settings
from metrad.models.base import Backbone
from metrad.models.embedder import Embedder
from metrad.models.heads import Head
from metrad.runs.config.build import factory, instantiate
from metrad.runs.directory import Run
from metrad.scorers import Scorer
from metrad.training.callbacks import KeepSigterm, LeanMemory
from metrad.training.checkpoints import WholeCheckpoints
from metrad.training.compiling import CompileEmbedder
from metrad.training.datamodule import MetradDataModule
from metrad.training.devices import plan as devices
from metrad.training.finetuning import Finetuning
from metrad.training.learner import MetricLearner
from metrad.training.speed import (
    Pace,
)

log = logging.getLogger(__name__)

ENOUGH_CLASSES = 3  # for any head


def build_data(cfg: DictConfig, image_size: int, held_out: tuple[str, float] | None = None) -> PreparedData:
    """Return the data module of a configuration; nothing is read yet. ``held_out`` is as in ``Roles``."""
    dataset = OmegaConf.to_container(cfg.dataset, resolve=True)
    assert isinstance(dataset, dict)
    chosen = {name: dataset[name] for name in ("normal", "anomalous", "reference", "sizes", "test_share")}
    roles = Roles(**chosen, rotations=dataset.get("rotations", False), held_out=held_out)  # older runs say no turns
    storage = Storage(
        memory_limit=int(dataset["memory_limit_gib"] * GIB),
        disk_limit=int(dataset["disk_limit_gib"] * GIB),
        cache=Path(cfg.paths.data, "cache"),
        workers=dataset["workers"],
        shared=collectives.several(),
    )
    return PreparedData(
        factory(cfg, "dataset.source"),
        roles,
        storage,
        seed=cfg.seed,
        image_size=image_size,
        skip_corrupt=dataset["on_corrupt"] == "skip",
    )


def trainer_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of Lightning's trainer as plain values."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg.trainer, resolve=True))


def build_datamodule(cfg: DictConfig, data: PreparedData) -> MetradDataModule:
    """Return what serves the training images of ``data`` to Lightning."""
    return MetradDataModule(data, batch_size=cfg.batch_size, least_images=devices.least_images(trainer_settings(cfg)))


def build_embedder(cfg: DictConfig) -> Embedder:
    """Return the embedder of a configuration, with the weights it names."""
    backbone = instantiate(cfg, "backbone")
    if not isinstance(backbone, Backbone):
        raise InputError(f"backbone._target_ must make a metrad.models.base.Backbone, got {type(backbone).__name__}")
    later = {name: cfg.get(name, False) for name in ("whiten", "test_time_flip")}  # older runs do not say
    embedder = Embedder(backbone, image_size=cfg.image_size, channels_last=cfg.channels_last, **later)
    try:
        with torch.inference_mode():
            embedder.eval()(torch.zeros(1, embedder.size, embedder.size, 3, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError) as error:  # vision transformers assert their size
        reason = first_line(error)
        raise InputError(f"image_size={embedder.size} does not suit the backbone ({reason})") from error
    embedder.train()
    return embedder


def build_scorer(cfg: DictConfig) -> Scorer:
    """Return the scorer of a configuration, not fitted yet."""
    scorer = instantiate(cfg, "scorer")
    if not isinstance(scorer, Scorer):
        raise InputError(f"scorer._target_ must make a metrad.scorers.Scorer, got {type(scorer).__name__}")
    if scorer.needs_head and cfg.trainer.get("max_epochs") == 0:
        raise InputError(
            "scorer=head asks the trained head and trainer.max_epochs=0 trains none; choose another scorer"
        )
    if scorer.needs_head and cfg.get("whiten"):
        raise InputError("scorer=head asks the head, which knows no whitened embeddings; choose another scorer")
    return scorer


def build_settings(cfg: DictConfig) -> Settings:
    """Return what an evaluation measures."""
    wanted = cfg.evaluation
    rates = None if wanted.false_alarm_rates is None else [float(rate) for rate in wanted.false_alarm_rates]
    return Settings(rates, wanted.level, wanted.resamples)


def build_head(cfg: DictConfig, in_features: int, num_classes: int) -> Head:
    """Return the head of a configuration, not trained."""
    head = instantiate(cfg, "head", in_features=in_features, num_classes=num_classes)
    if not isinstance(head, Head):
        raise InputError(f"head._target_ must make a metrad.models.heads.Head, got {type(head).__name__}")
    return head


def classes_of_head(cfg: DictConfig, data: PreparedData) -> int:
    """Return how many classes the head tells apart; one that is never trained gets enough, whatever head it is."""
    classes = len(data.head_classes)
    return max(classes, ENOUGH_CLASSES) if cfg.trainer.get("max_epochs") == 0 else classes


def build_augmentation(cfg: DictConfig) -> nn.Module | None:
    """Return what changes the images of a training step; None if nothing does."""
    if not cfg.augmentation:
        return None
    augmentation = instantiate(cfg, "augmentation")
    if not isinstance(augmentation, nn.Module):
        raise InputError(f"augmentation._target_ must make a torch.nn.Module, got {type(augmentation).__name__}")
    return augmentation


def build_learner(cfg: DictConfig, embedder: Embedder, num_classes: int) -> MetricLearner:
    """Return embedder, head and optimiser in one module."""
    learner = MetricLearner(
        embedder,
        build_head(cfg, embedder.out_features, num_classes),
        factory(cfg, "optimizer"),
        augmentation=build_augmentation(cfg),
        scheduler=factory(cfg, "scheduler") if cfg.scheduler else None,
        finetuning=Finetuning(**cfg.get("finetuning", {})),  # older runs lack it
        seed=cfg.seed,
    )
    try:
        learner.configure_optimizers()
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer or scheduler: {str(error).splitlines()[0]}") from error
    return learner


def build_trainer(cfg: DictConfig, run: Run, pace: Pace, *callbacks: pl.Callback, keeping: bool = True) -> pl.Trainer:
    """Return Lightning's trainer at the pace chosen, writing checkpoints and logs into ``run`` if it is ``keeping``."""
    checkpoint = ModelCheckpoint(
        run.checkpoints, filename=run.last_checkpoint.stem, save_top_k=1, enable_version_counter=False
    )
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # importing it set INFO: devices, tips, adverts
    progress = cfg.trainer.enable_progress_bar
    compiling = [CompileEmbedder()] if pace.compiled else []
    trainer: pl.Trainer = instantiate(
        cfg,
        "trainer",
        logger=instantiate(cfg, "logger", save_dir=str(run.path)) if cfg.logger and keeping else False,
        callbacks=[*([checkpoint] if keeping else []), KeepSigterm(), *callbacks, LeanMemory(), *compiling],
        default_root_dir=run.path,
        precision=pace.precision,
        enable_progress_bar=_bars_wanted() if progress == "auto" else progress,
        **devices.trainer_arguments(trainer_settings(cfg)),
        **({} if keeping else {"enable_checkpointing": False}),
    )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the user has none of their own in trainer.plugins
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def _bars_wanted() -> bool:
    """Tell whether progress bars go to a terminal, and no view of a whole sweep is in their place."""
    return sys.stderr.isatty() and not os.environ.get("TQDM_DISABLE")


def log_thresholds(settings: Settings, calibration_images: int) -> None:
    """Tell which of the usual thresholds there will be none for.

    Raises:
        InputError: a rate that was asked for needs more calibration images.
    """
    given = settings.rates(calibration_images)
    if settings.false_alarm_rates is not None:
        return
    for rate in DEFAULT_FALSE_ALARM_RATES:
        if rate not in given:
            needed = calibration_images_needed(rate)
            log.info(
                "no threshold for %g %% false alarms, which takes %d calibration images and not %d; "
                "dataset.sizes.calibration=%d would give them",
                100 * rate,
                needed,
                calibration_images,
                needed,
            )


def log_images(data: PreparedData) -> None:
    """Tell how many images each role has, and which stay out and why."""
    counts = ", ".join(f"{len(indices):,} {role}" for role, indices in data.split.indices.items())
    log.info("images: %s; classes to tell apart: %d", counts, len(data.head_classes))
    if data.split.copies_left_out:
        log.warning("left out %d copies of images that stand in the dataset more than once", data.split.copies_left_out)
    for position in sorted(data.image_set.corrupt):
        log.warning("left out %s, which cannot be decoded", data.image_set.names[position])
