"""From a configuration to the parts of a run. Nothing else makes parts from a DictConfig."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from metrad import collectives
from metrad.app.pace import PaceSettings
from metrad.data.prepared import PreparedData
from metrad.data.roles import Roles
from metrad.data.store import GIB, Storage
from metrad.detector.bundle import Blueprint
from metrad.errors import InputError, first_line
from metrad.evaluation.evaluate import Settings
from metrad.models.base import Backbone
from metrad.models.embedder import Embedder
from metrad.models.heads import Head
from metrad.runs.config import checks
from metrad.runs.config.build import factory, instantiate, plain
from metrad.runs.directory import Run
from metrad.scorers import Scorer
from metrad.training.callbacks import KeepSigterm, LeanMemory
from metrad.training.checkpoints import WholeCheckpoints
from metrad.training.compiling import CompileEmbedder
from metrad.training.datamodule import MetradDataModule
from metrad.training.devices import plan as devices
from metrad.training.finetuning import Finetuning
from metrad.training.fitted import Selected
from metrad.training.learner import MetricLearner
from metrad.training.speed import Pace

log = logging.getLogger(__name__)

MakeScorer = Callable[[], Scorer]

ENOUGH_CLASSES = 3  # for any head
OWN_SCORER = "scorer"  # the name of the run's own among the scorers that a selection compares


@dataclass(frozen=True)
class Parts:
    """What a run is made of: factories and plain settings.

    Attributes:
        seed: draws the split, the order of the images and the initial weights.
        batch_size: training images a step, of all ranks together.
        image_size: height and width that the backbone sees; None for the size that its weights prefer.
        trainer: settings of Lightning's trainer.
        settings: what an evaluation measures.
        pace: what decides the precision and whether to compile.
        blueprint: what the run's detector is built from.
        make_data: makes the images for an image size; nothing is read yet.
        make_embedder: makes the embedder with its initial weights.
        make_learner: makes the learner of an embedder and a number of classes.
        make_trainer: makes Lightning's trainer for a run, a pace and callbacks.
        make_scorer: makes the run's scorer, not fitted.
        make_studied: makes, by name, the scorers of a study by epochs, the run's own first; empty for no study.
        checkpoint: the checkpoint to go on from; None to begin anew.
        selection: how epochs, settings and scorer are chosen; None if nothing is.
        selected: what a selection chose; None if there was none.
        held_out: the class that stands in for the anomalous one in a fold of a selection; None for a whole run.
        config: the configuration, for the record.
    """

    seed: int
    batch_size: int
    image_size: int | None
    trainer: dict[str, Any]
    settings: Settings
    pace: PaceSettings
    blueprint: Blueprint
    make_data: Callable[[int], PreparedData]
    make_embedder: Callable[[], Embedder]
    make_learner: Callable[[Embedder, int], MetricLearner]
    make_trainer: Callable[..., pl.Trainer]
    make_scorer: MakeScorer
    make_studied: dict[str, MakeScorer]
    checkpoint: str | Path | None
    selection: "Selection | None"
    selected: Selected | None
    held_out: str | None
    config: DictConfig

    @property
    def epochs(self) -> int | None:
        """How many epochs to train; None if the trainer's own default decides."""
        return self.trainer.get("max_epochs")

    def head_size(self, data: PreparedData) -> int:
        """Return how many classes the head tells apart; one that is never trained gets enough for any head."""
        classes = len(data.head_classes)
        return max(classes, ENOUGH_CLASSES) if self.epochs == 0 else classes

    def make_datamodule(self, data: PreparedData) -> MetradDataModule:
        """Return what serves the training images of ``data`` to Lightning."""
        return MetradDataModule(data, batch_size=self.batch_size, least_images=devices.least_images(self.trainer))


@dataclass(frozen=True)
class Selection:
    """What a selection compares, and what it makes.

    Attributes:
        candidates: the settings to choose among, by dotted keys.
        scheduled: for each candidate whether its learning rate follows a schedule.
        make_scorers: makes, by name, the scorers to choose among with the settings of each candidate.
        classes: the classes to hold out: all for None, a count, or names.
        normal_share: share of the normal images that are tested on while choosing.
        fold: makes the parts of a training with a candidate and without a class.
        chosen: makes the parts of the run with a candidate, a number of epochs and a scorer.
    """

    candidates: list[dict[str, Any]]
    scheduled: list[bool]
    make_scorers: list[dict[str, MakeScorer]]
    classes: Any
    normal_share: float
    fold: Callable[[int, str], Parts]
    chosen: Callable[[int, int, str], Parts]


def build(cfg: DictConfig) -> Parts:
    """Return the parts of the run that a configuration describes, after everything is checked that needs no data.

    Raises:
        InputError: a setting cannot be used; the message names its key.
    """
    checks.check(cfg)
    build_scorer(cfg)
    return _parts(cfg, studied=_studied(cfg), selection=_selection(cfg) if cfg.selection else None)


def _parts(
    cfg: DictConfig,
    *,
    studied: dict[str, MakeScorer],
    selection: Selection | None = None,
    held_out: tuple[str, float] | None = None,
) -> Parts:
    return Parts(
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        image_size=cfg.image_size,
        trainer=plain(cfg.trainer),
        settings=build_settings(cfg),
        pace=_pace(cfg),
        blueprint=_blueprint(cfg),
        make_data=partial(build_data, cfg, held_out=held_out),
        make_embedder=partial(build_embedder, cfg),
        make_learner=partial(build_learner, cfg),
        make_trainer=partial(build_trainer, cfg),
        make_scorer=partial(build_scorer, cfg),
        make_studied=studied,
        checkpoint=cfg.ckpt_path,
        selection=selection,
        selected=None,
        held_out=held_out[0] if held_out else None,
        config=cfg,
    )


def _pace(cfg: DictConfig) -> PaceSettings:
    return PaceSettings(
        precision=cfg.trainer.precision,
        compiled=cfg.compile,
        accelerator=cfg.trainer.accelerator,
        epochs=max(cfg.trainer.get("max_epochs") or 0, 0),
        batch_size=cfg.batch_size,
        channels_last=cfg.channels_last,
        backbone={key: value for key, value in plain(cfg.backbone).items() if key != "weights"},
    )


def _blueprint(cfg: DictConfig) -> Blueprint:
    return Blueprint(
        backbone=plain(cfg.backbone),
        embedder={
            "image_size": cfg.image_size,
            "channels_last": cfg.channels_last,
            "whiten": cfg.get("whiten", False),  # older runs do not say
            "test_time_flip": cfg.get("test_time_flip", False),  # same
        },
        head=plain(cfg.head),
        scorer=plain(cfg.scorer),
    )


def _studied(cfg: DictConfig) -> dict[str, MakeScorer]:
    """Return the scorers of a study by epochs."""
    if not cfg.study.epochs:
        return {}
    if not cfg.selection:
        return {OWN_SCORER: partial(build_scorer, cfg)}
    epochs, trained = cfg.trainer.max_epochs, cfg.copy()
    trained.trainer.max_epochs = max(1, epochs)
    # Where no training was chosen, there is no head to ask.
    return {name: make for name, make in _makers(trained, _compared(cfg)).items() if epochs or not make().needs_head}


def _selection(cfg: DictConfig) -> Selection:
    candidates = [dict(settings) for settings in cfg.selection.candidates]
    changed = [checks.with_settings(cfg, settings) for settings in candidates]
    makers = [_makers(one, _compared(cfg)) for one in changed]
    classes = cfg.selection.classes

    def fold(candidate: int, held_out: str) -> Parts:
        return _parts(changed[candidate], studied=makers[candidate], held_out=(held_out, cfg.selection.normal_share))

    def chosen(candidate: int, epochs: int, scorer: str) -> Parts:
        final = _with_choice(cfg, changed[candidate], epochs, scorer) if cfg.selection.apply else cfg
        return _parts(final, studied=_studied(final))

    return Selection(
        candidates=candidates,
        scheduled=[bool(one.scheduler) for one in changed],
        make_scorers=makers,
        classes=OmegaConf.to_container(classes) if OmegaConf.is_list(classes) else classes,
        normal_share=cfg.selection.normal_share,
        fold=fold,
        chosen=chosen,
    )


def _with_choice(cfg: DictConfig, candidate: DictConfig, epochs: int, scorer: str) -> DictConfig:
    """Return the configuration of ``candidate`` with what was chosen, and the selection for the record."""
    final = candidate.copy()
    final.trainer.max_epochs = epochs
    final.scorer = _compared(cfg)[scorer]
    final.selection = cfg.selection
    return final


def _compared(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of the scorers that a selection compares, by name: the run's own first, each once."""
    own = plain(cfg.scorer)
    others = plain(cfg.selection.scorers)
    return {OWN_SCORER: own, **{name: node for name, node in others.items() if node != own}}


def _makers(cfg: DictConfig, scorers: dict[str, Any]) -> dict[str, MakeScorer]:
    made: dict[str, MakeScorer] = {}
    for name, node in scorers.items():
        changed = cfg.copy()
        changed.scorer = node
        made[name] = partial(build_scorer, changed)
    return made


def build_data(cfg: DictConfig, image_size: int, *, held_out: tuple[str, float] | None = None) -> PreparedData:
    """Return the images of a configuration; nothing is read yet. ``held_out`` is as in ``Roles``."""
    dataset = plain(cfg.dataset)
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
        **devices.trainer_arguments(plain(cfg.trainer)),
        **({} if keeping else {"enable_checkpointing": False}),
    )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the user has none of their own in trainer.plugins
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def _bars_wanted() -> bool:
    """Tell whether progress bars go to a terminal, and no view of a whole sweep is in their place."""
    return sys.stderr.isatty() and not os.environ.get("TQDM_DISABLE")
