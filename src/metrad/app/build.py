"""The parts of a run, built from its configuration. No other module builds parts from a DictConfig."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from metrad import collectives
from metrad.app.pace import Pace, PaceSettings
from metrad.data.decoding import DECODER_VERSION, Reading
from metrad.data.groups import Pattern
from metrad.data.prepared import PreparedData
from metrad.data.roles import HeldOut, Roles
from metrad.data.sizing import AUTO, Automatic
from metrad.data.splits import SyntheticFold
from metrad.data.store import GIB, Storage
from metrad.detector.bundle import Blueprint
from metrad.errors import InputError, first_line, is_of_memory
from metrad.evaluation.measures import Settings
from metrad.models.base import Backbone
from metrad.models.embedder import Embedder
from metrad.models.heads import Head
from metrad.progress import bars_allowed, bars_wanted
from metrad.runs.config import checks
from metrad.runs.config.build import factory, instantiate, plain
from metrad.runs.config.limits import require_centres, require_held
from metrad.runs.config.secrets import is_secret
from metrad.runs.directory import Run
from metrad.runs.identity import shaping
from metrad.scorers import Scorer
from metrad.training import tracking
from metrad.training.callbacks import KeepSigterm, LeanMemory
from metrad.training.checkpoints import Begun, WholeCheckpoints
from metrad.training.compiling import CompileEmbedder
from metrad.training.devices import plan as devices
from metrad.training.finetuning import Finetuning
from metrad.training.fitted import Selected
from metrad.training.learner import MetricLearner
from metrad.training.tracking import Tracker

log = logging.getLogger(__name__)

MakeScorer = Callable[[], Scorer]

ENOUGH_CLASSES = 3  # number of classes that every head accepts
OWN_SCORER = "scorer"  # name of the run's own scorer among those that a selection compares


@dataclass(frozen=True)
class Parts:
    """The parts of a run: factories and plain settings.

    Attributes:
        seed: seed of the split, the order of the images and the initial weights.
        batch_size: training images per step, over all ranks.
        image_size: height and width of the backbone's input in pixels; None for the size that its weights prefer.
        trainer: settings of Lightning's trainer.
        settings: settings of the evaluation.
        pace: settings that decide the precision and whether to compile.
        blueprint: settings of the parts of the run's detector.
        make_data: makes the data for an image size; no image is read yet.
        make_embedder: makes the embedder with its initial weights.
        make_learner: makes the learner from an embedder and a number of classes.
        make_trainer: makes Lightning's trainer from a run, a pace and callbacks.
        make_tracker: makes the record of the run at its logger.
        make_scorer: makes the run's scorer, unfitted.
        make_studied: by name, factories of the scorers of an epoch study, the run's own first; empty for no study.
        audit: whether to audit a given test part.
        begun: training to continue; None to begin anew.
        selection: the selection to make before the training; None for no selection.
        selected: result of the selection; None without a selection.
        held_out: name of the stand-in in a fold of a selection; None for a whole run.
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
    make_tracker: Callable[[Run], Tracker]
    make_scorer: MakeScorer
    make_studied: dict[str, MakeScorer]
    audit: bool
    begun: Begun | None
    selection: "Selection | None"
    selected: Selected | None
    held_out: str | None
    config: DictConfig

    @property
    def epochs(self) -> int | None:
        """Number of epochs to train; None for the trainer's default."""
        return self.trainer.get("max_epochs")


@dataclass(frozen=True)
class Selection:
    """A selection: its candidates, its scorers, its stand-ins and the parts of its trainings.

    Attributes:
        candidates: settings to choose among, by dotted keys.
        scheduled: for each candidate, whether its learning rate follows a schedule.
        make_scorers: for each candidate, factories of the scorers to choose among, by name.
        classes: stand-ins as names or numbers of reference classes, or the count to draw; None for every reference
            class.
        normal_share: share of the normal images that a fold tests on.
        minutes: time after which no further candidate is begun; None for no limit.
        sure: whether the run is trained as configured unless another recipe is better beyond chance.
        synthetic: the folds with synthetic defects; empty if reference classes stand in.
        fold: makes the parts of a training from a candidate's position, and the name of a stand-in or a synthetic fold.
        chosen: makes the parts of the run from a candidate's position, a number of epochs and the name of a scorer.
    """

    candidates: list[dict[str, Any]]
    scheduled: list[bool]
    make_scorers: list[dict[str, MakeScorer]]
    classes: Any
    normal_share: float
    minutes: float | None
    sure: bool
    synthetic: list[SyntheticFold]
    fold: Callable[[int, str | SyntheticFold], Parts]
    chosen: Callable[[int, int, str], Parts]


def build(cfg: DictConfig, checkpoint: str | Path | None = None) -> Parts:
    """Return the parts of the run that a configuration describes, after all checks that need no data.

    Args:
        cfg: the whole configuration.
        checkpoint: checkpoint to continue from; None to begin anew.

    Raises:
        InputError: a setting cannot be used; the message names its key.
    """
    candidates = checks.check(cfg)
    require_held(plain(cfg), on_cpu=devices.is_cpu(plain(cfg.trainer)))
    begun = None if checkpoint is None else Begun.of(checkpoint)
    selection = _selection(cfg, candidates, begun) if cfg.selection else None
    parts = _parts(cfg, studied=_studied(cfg), selection=selection, begun=begun)
    parts.make_scorer()  # raises the errors of a scorer's constructor before data is read
    return parts


def _parts(
    cfg: DictConfig,
    *,
    studied: dict[str, MakeScorer],
    selection: Selection | None = None,
    held_out: HeldOut | None = None,
    begun: Begun | None = None,
) -> Parts:
    return Parts(
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        image_size=cfg.image_size,
        trainer=plain(cfg.trainer),
        settings=build_settings(cfg),
        pace=_pace(cfg),
        blueprint=_blueprint(cfg),
        make_data=partial(build_data, cfg, held_out=held_out, decoder=begun.decoder if begun else DECODER_VERSION),
        make_embedder=partial(build_embedder, cfg),
        make_learner=partial(build_learner, cfg),
        make_trainer=partial(build_trainer, cfg),
        make_tracker=partial(build_tracker, cfg),
        make_scorer=partial(build_scorer, cfg),
        make_studied=studied,
        audit=cfg.audit,
        begun=begun,
        selection=selection,
        selected=None,
        held_out=held_out.name if isinstance(held_out, SyntheticFold) else held_out[0] if held_out else None,
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
            "whiten": cfg.whiten,
            "test_time_flip": cfg.test_time_flip,
        },
        head=plain(cfg.head),
        scorer=plain(cfg.scorer),
    )


def _studied(cfg: DictConfig) -> dict[str, MakeScorer]:
    """Return factories of the scorers of an epoch study, by name."""
    if not cfg.study.epochs:
        return {}
    if not cfg.selection:
        return {OWN_SCORER: partial(build_scorer, cfg)}
    epochs, trained = cfg.trainer.max_epochs, cfg.copy()
    trained.trainer.max_epochs = max(1, epochs)
    # Without epochs of training, the head is untrained and cannot serve a scorer.
    return {name: make for name, make in _makers(trained, _compared(cfg)).items() if epochs or not make().needs_head}


def _selection(cfg: DictConfig, changed: list[DictConfig], begun: Begun | None) -> Selection:
    """Return the selection; ``changed`` has the configuration of each candidate."""
    makers = [_makers(one, _compared(cfg)) for one in changed]
    classes = cfg.selection.classes

    def fold(candidate: int, held_out: str | SyntheticFold) -> Parts:
        stand_in = (held_out, cfg.selection.normal_share) if isinstance(held_out, str) else held_out
        return _parts(changed[candidate], studied=makers[candidate], held_out=stand_in)

    def chosen(candidate: int, epochs: int, scorer: str) -> Parts:
        final = _with_choice(cfg, changed[candidate], epochs, scorer) if cfg.selection.apply else cfg
        return _parts(final, studied=_studied(final), begun=begun)

    return Selection(
        candidates=plain(cfg.selection)["candidates"],
        scheduled=[bool(one.scheduler) for one in changed],
        make_scorers=makers,
        classes=OmegaConf.to_container(classes) if OmegaConf.is_list(classes) else classes,
        normal_share=cfg.selection.normal_share,
        minutes=cfg.selection.get("minutes"),  # older runs lack these keys
        sure=cfg.selection.get("sure", False),
        synthetic=_synthetic(plain(cfg.selection)),
        fold=fold,
        chosen=chosen,
    )


def _synthetic(selection: dict[str, Any]) -> list[SyntheticFold]:
    """Return the folds of a selection by synthetic defects; none if reference classes stand in."""
    kinds, folds = tuple(selection.get("defects") or ()), selection.get("folds", 0)  # older runs lack the keys
    return [SyntheticFold(number, folds, kinds) for number in range(folds)] if kinds else []


def _with_choice(cfg: DictConfig, candidate: DictConfig, epochs: int, scorer: str) -> DictConfig:
    """Return the configuration of ``candidate`` with the chosen epochs and scorer, and the selection for the record."""
    final = candidate.copy()
    final.trainer.max_epochs = epochs
    final.scorer = _compared(cfg)[scorer]
    final.selection = cfg.selection
    return final


def _compared(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of the scorers that a selection compares, by name: the run's own first, none twice."""
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


def build_data(
    cfg: DictConfig,
    image_size: int,
    *,
    held_out: HeldOut | None = None,
    decoder: int = DECODER_VERSION,
) -> PreparedData:
    """Return the data of a configuration; no image is read yet.

    ``held_out`` is as in ``Roles``. ``decoder`` is the version of the decoder: a training that an earlier version of
    metrad began goes on with the images that it began with.
    """
    dataset = plain(cfg.dataset)
    chosen = {name: dataset[name] for name in ("normal", "anomalous", "reference")}
    chosen |= _sizes(dataset, build_settings(cfg))
    group, rotations = dataset.get("group"), dataset.get("rotations", False)  # older runs lack the keys
    group = Pattern(**group) if isinstance(group, dict) else group
    roles = Roles(**chosen, group=group, rotations=rotations, held_out=held_out)
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
        reading=_reading(dataset, decoder),
    )


def _sizes(dataset: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the sizes of the roles; automatic ones follow from what the thresholds of ``settings`` take."""
    automatic = Automatic(settings.calibration_steps)
    sizes = {role: automatic if size == AUTO else size for role, size in dataset["sizes"].items()}
    share = dataset["test_share"]
    return {"sizes": sizes, "test_share": automatic if share is None else share}


def _reading(dataset: dict[str, Any], decoder: int) -> Reading:
    """Return how image files are read, by settings of ``dataset`` that older runs lack."""
    bits = dataset.get("range", "auto")
    limit = dataset.get("max_megapixels", Reading.max_megapixels)
    return Reading(decoder, max_megapixels=limit, depth=None if bits == "auto" else bits)


def build_embedder(cfg: DictConfig) -> Embedder:
    """Return the embedder of a configuration, with the initial weights.

    Raises:
        InputError: the backbone is not a ``Backbone``, or does not accept the image size.
    """
    backbone = instantiate(cfg, "backbone")
    if not isinstance(backbone, Backbone):
        raise InputError(f"backbone._target_ must make a metrad.models.base.Backbone, got {type(backbone).__name__}")
    embedder = Embedder(
        backbone,
        image_size=cfg.image_size,
        channels_last=cfg.channels_last,
        whiten=cfg.whiten,
        test_time_flip=cfg.test_time_flip,
    )
    fault = _misfit(embedder, embedder.size)
    if fault:
        other = next((size for size in _by_distance(embedder.size) if not _misfit(embedder, size)), None)
        hint = f"set image_size={other}" if other else "choose another backbone"
        raise InputError(f"image_size={embedder.size} does not suit the backbone ({fault}); {hint}")
    embedder.train()
    return embedder


def _misfit(embedder: Embedder, size: int) -> str | None:
    """Return why the backbone cannot embed images of ``size`` pixels; None if it can."""
    image, before = torch.zeros(1, size, size, 3, dtype=torch.uint8), embedder.size
    embedder.size = size
    try:
        with torch.inference_mode():
            embedder.eval()(image)
    except (RuntimeError, AssertionError, ValueError) as error:  # vision transformers assert their size
        if is_of_memory(error):
            raise
        return first_line(error)
    finally:
        embedder.size = before
    return None


def _by_distance(size: int) -> list[int]:
    """Return the sizes that backbones usually take, the nearest to ``size`` first."""
    return sorted((4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256, 299, 384, 448, 512), key=lambda one: abs(one - size))


def build_scorer(cfg: DictConfig) -> Scorer:
    """Return the scorer of a configuration, unfitted.

    Raises:
        InputError: the scorer needs a head that the run does not provide.
    """
    scorer: Scorer = instantiate(cfg, "scorer")
    if scorer.needs_head and cfg.trainer.get("max_epochs") == 0:
        raise InputError("scorer=head asks the trained head and trainer.max_epochs=0 trains none; choose scorer=knn")
    if scorer.needs_head and cfg.whiten:
        raise InputError("scorer=head asks the head, which cannot take whitened embeddings; choose scorer=knn")
    return scorer


def build_settings(cfg: DictConfig) -> Settings:
    """Return the settings of the evaluation."""
    wanted = cfg.evaluation
    rates = None if wanted.false_alarm_rates is None else [float(rate) for rate in wanted.false_alarm_rates]
    return Settings(rates, wanted.level, wanted.resamples, wanted.get("confidence", 0.95))


def build_head(cfg: DictConfig, in_features: int, num_classes: int) -> Head:
    """Return the head of a configuration, untrained."""
    require_centres(plain(cfg.head), in_features, num_classes)
    head: Head = instantiate(cfg, "head", in_features=in_features, num_classes=num_classes)
    return head


def build_augmentation(cfg: DictConfig) -> nn.Module | None:
    """Return the augmentation of a configuration; None for no augmentation."""
    if not cfg.augmentation:
        return None
    augmentation: nn.Module = instantiate(cfg, "augmentation")
    return augmentation


def build_learner(cfg: DictConfig, embedder: Embedder, num_classes: int) -> MetricLearner:
    """Return the learner, which combines ``embedder``, a head and an optimiser.

    An untrained head gets enough classes for every kind of head.
    """
    if cfg.trainer.get("max_epochs") == 0:
        num_classes = max(num_classes, ENOUGH_CLASSES)
    learner = MetricLearner(
        embedder,
        build_head(cfg, embedder.out_features, num_classes),
        factory(cfg, "optimizer"),
        augmentation=build_augmentation(cfg),
        scheduler=factory(cfg, "scheduler") if cfg.scheduler else None,
        finetuning=Finetuning(**cfg.finetuning),
        seed=cfg.seed,
    )
    learner.settings = shaping(cfg)
    try:
        learner.configure_optimizers()
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer or scheduler: {str(error).splitlines()[0]}") from error
    return learner


def build_tracker(cfg: DictConfig, run: Run) -> Tracker:
    """Return the record of ``run`` at its logger."""
    if not cfg.logger:
        return Tracker(None, {})
    path, number = run.path.resolve(), run.noted().get("tracked")
    given = tracking.arguments(cfg.logger["_target_"], cfg.logger, path.name, number)
    logger = instantiate(cfg, "logger", save_dir=str(run.path), **given)
    return Tracker(logger, _recorded(cfg), continues=number is not None)


def _recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration for a logger: without secrets and the logger's own settings."""

    def hidden(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: "***" if is_secret(key) else hidden(value) for key, value in node.items()}
        if isinstance(node, list):
            return [hidden(value) for value in node]
        return re.sub(r"[${}]", "", node) if isinstance(node, str) and "oc.env" in node else node

    return plain(OmegaConf.create({**hidden(OmegaConf.to_container(cfg)), "logger": cfg.logger["_target_"]}))


def build_trainer(
    cfg: DictConfig, run: Run, pace: Pace, *callbacks: pl.Callback, logger: Logger | None = None, keeping: bool = True
) -> pl.Trainer:
    """Return Lightning's trainer at ``pace``; if ``keeping``, it writes checkpoints into ``run``."""
    checkpoint = ModelCheckpoint(
        run.checkpoints, filename=run.last_checkpoint.stem, save_top_k=1, enable_version_counter=False
    )
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # at INFO it logs devices, tips and adverts
    progress = cfg.trainer.enable_progress_bar
    compiling = [CompileEmbedder()] if pace.compiled else []
    trainer: pl.Trainer = instantiate(
        cfg,
        "trainer",
        logger=logger or False,
        callbacks=[*([checkpoint] if keeping else []), KeepSigterm(), *callbacks, LeanMemory(), *compiling],
        default_root_dir=run.path,
        precision=pace.precision,
        enable_progress_bar=bars_wanted() if progress == "auto" else progress and bars_allowed(),
        **devices.trainer_arguments(plain(cfg.trainer)),
        **({} if keeping else {"enable_checkpointing": False}),
    )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # trainer.plugins has no checkpoint plugin
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer
