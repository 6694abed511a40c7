"""The main job: from a configuration to a trained, scored run."""

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from metrad import collectives
from metrad.app.build import (
    build_data,
    build_datamodule,
    build_embedder,
    build_learner,
    build_scorer,
    build_settings,
    build_trainer,
    classes_of_head,
    log_images,
    log_thresholds,
    trainer_settings,
)
from metrad.app.pace import choose_pace
from metrad.app.select import Selected, scorers_studied, select
from metrad.data.prepared import PreparedData
from metrad.errors import InputError
from metrad.evaluation.embeddings import Embedded, fit_and_embed, roles_for
from metrad.evaluation.evaluate import attach_head, evaluate
from metrad.files import read_json, write_json
from metrad.runs.artifacts import save_embeddings, save_model
from metrad.runs.config import checks
from metrad.runs.config.build import renamed_targets
from metrad.runs.directory import Run
from metrad.runs.environment import environment
from metrad.runs.identity import differences, identity
from metrad.runs.outputs import save_evaluation, save_evidence, save_history, save_selection, split_figures
from metrad.training.checkpoints import epochs_behind, read_checkpoint
from metrad.training.devices import launch
from metrad.training.devices import plan as devices
from metrad.training.epoch_log import EpochLog
from metrad.training.epoch_study import Study
from metrad.training.learner import MetricLearner
from metrad.training.speed import Pace

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # batches are gathered from one array in this process; workers would copy them
    ".*dirpath has changed from.*",  # a run that goes on from another's checkpoint has a directory of its own
    ".*Checkpoint directory .* exists and is not empty.*",  # that of an interrupted run that goes on
    ".*Experiment logs directory .* exists and is not empty.*",  # so does one that goes on in its own directory
    ".*The `srun` command is available.*",  # one process a run needs no srun
    ".*module.s. in eval mode at the start of training.*",  # moving averages, and batch normalisation that is held
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
        checks.check(cfg)
    with run.held():
        checkpoint = cfg.ckpt_path
        if sweeping:
            if has_finished(run, cfg):
                return cast("dict[str, Any]", read_json(run.metrics))
            goes_on = _goes_on(run, cfg)
            checkpoint = (own_checkpoint(run) if goes_on else None) or checkpoint
            run.clear(keep_training=checkpoint == run.last_checkpoint, keep_selection=goes_on)
            run.begin(**_identity(cfg))
        else:
            run.claim(**_identity(cfg))
        with run.recorded(keep_refused=sweeping), expected_warnings():
            run.save_config(cfg, hydra, list(hydra.hydra.overrides.task))
            checks.check(cfg)
            for line in renamed_targets(cfg):
                log.warning(line)
            return _train(cfg, run, checkpoint)


def has_finished(run: Run, cfg: DictConfig) -> bool:
    """Tell whether a run has finished, with the settings of ``cfg``, and kept its figures.

    Raises:
        InputError: it has finished with others.
    """
    if run.state != "finished" or run.figures() is None:
        return False
    other = differences(run.asked_config(), cfg)
    if other:
        raise InputError(f"{run.path} was made with other settings: {'; '.join(other)}; choose another sweep=NAME")
    return True


def _goes_on(run: Run, cfg: DictConfig) -> bool:
    """Tell whether what is left of an unfinished run is of the settings of ``cfg`` and of use.

    A run that failed begins anew, since what it failed of may be in its checkpoint.
    """
    if run.state not in ("interrupted", "finished") or not run.config.exists():
        return False
    return not differences(run.asked_config(), cfg)


def own_checkpoint(run: Run) -> Path | None:
    """Return where an unfinished run goes on from; None if it is to begin anew."""
    if not run.last_checkpoint.exists():
        return None
    try:
        read_checkpoint(run.last_checkpoint)
    except InputError:  # cut off, as a machine that went down may leave it
        return None
    return run.last_checkpoint


def _identity(cfg: DictConfig) -> dict[str, str]:
    try:
        return {"identity": identity(cfg)}
    except OmegaConfBaseException:  # its check will tell
        return {}


def _train(cfg: DictConfig, run: Run, checkpoint: str | Path | None) -> dict[str, Any]:
    """Train on the devices asked for, each in a process of its own if they are several."""
    plan = devices.plan(trainer_settings(cfg), cfg.batch_size)
    if plan.to_start:
        launch.start(_train_as_rank, (cfg, run.path, checkpoint, torch.get_num_threads()), plan.count)
        return cast("dict[str, Any]", read_json(run.metrics))
    return _score(run, _fit(cfg, run, checkpoint, plan.count))


def _train_as_rank(cfg: DictConfig, path: Path, checkpoint: str | Path | None, threads: int) -> None:
    """Be one of the ranks that ``_train`` starts; the first one writes the run, all but what tells how it ended."""
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    checks.register()
    run = Run(path)
    with expected_warnings():
        trained = _fit(cfg, run, checkpoint, int(os.environ["WORLD_SIZE"]))
        if trained.first:
            _score(run, trained)


def follow(cfg: DictConfig) -> None:
    """Be one of the ranks that torchrun or srun started, but not the first, which calls ``train``."""
    launch.mute()
    with expected_warnings():
        checks.check(cfg)
        _fit(cfg, Run("."), cfg.ckpt_path, devices.plan(trainer_settings(cfg), cfg.batch_size).count)


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    """Keep quiet the warnings that say nothing to the user."""
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


@dataclass(frozen=True)
class Trained:
    """A trained model and the embeddings it gave.

    Attributes:
        learner: embedder and head.
        data: the images.
        split: what ``split.json`` holds.
        embedded: the embeddings; none on other ranks than the first.
        epochs: what was noted while training.
        study: what was found after each epoch, if that was asked for.
        cfg: the configuration, with what was chosen.
        selected: how that was chosen; None if nothing was.
        seconds: time of each phase.
        started: when it began, by ``time.perf_counter``.
        first: this is the first rank, or the only one.
    """

    learner: MetricLearner
    data: PreparedData
    split: dict[str, Any]
    embedded: Embedded
    epochs: EpochLog
    study: Study
    cfg: DictConfig
    selected: Selected | None
    seconds: dict[str, float]
    started: float
    first: bool


def _fit(cfg: DictConfig, run: Run, checkpoint: str | Path | None, count: int) -> Trained:
    """Train as one of ``count`` ranks and embed the images."""
    start = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    with devices.joined(trainer_settings(cfg), count):
        run, first = Run(collectives.same(run.path)), collectives.rank() == 0
        data = _checked_data(cfg)
        selected = select(cfg, run, data) if cfg.selection else None
        if selected:
            cfg = selected.cfg
            data = _checked_data(cfg)
            if first:
                run.save_choice(cfg)
        # Whatever came before, the first weights are those of the seed.
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        learner = build_learner(cfg, build_embedder(cfg), classes_of_head(cfg, data))
        epochs = EpochLog(lambda done, of: run.note(epoch=done, epochs=of) if first else None)
        study = Study(data, epochs, scorers_studied(cfg))
        pace = collectives.same(choose_pace(cfg, learner.embedder, data.epoch_images) if first else None)
        assert pace is not None
        trainer = build_trainer(cfg, run, pace, epochs, study)
        datamodule = build_datamodule(cfg, data)
        datamodule.first_epoch = epochs_behind(checkpoint, learner, datamodule, trainer.max_epochs)
        split, device = data.describe_split(), trainer.strategy.root_device
        if first:
            write_json(run.split, split)
            _note_environment(run, trainer, pace)
        prepared = time.perf_counter()
        trainer.fit(learner, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        trained = time.perf_counter()
        if first and (kept := pace.kept(trainer.callbacks)) != pace:  # type: ignore[attr-defined]
            _note_environment(run, trainer, kept)
        embedder, precision = learner.evaluated, str(trainer.precision)
        roles = roles_for([build_scorer(cfg)])
        embedded = fit_and_embed(embedder, data, roles, device=device, precision=precision)
    seconds = {"prepare": prepared - start, "train": epochs.seconds, "embed": time.perf_counter() - trained}
    seconds |= {"study": study.seconds} if study.wanted else {}
    if selected:
        seconds |= {"select": selected.seconds, "prepare": seconds["prepare"] - selected.here}
    return Trained(learner, data, split, embedded, epochs, study, cfg, selected, seconds, start, first)


def _note_environment(run: Run, trainer: pl.Trainer, pace: Pace) -> None:
    device, precision = str(trainer.strategy.root_device), str(trainer.precision)
    write_json(run.environment, environment(device, precision, pace.describe(), collectives.world_size()))


def _checked_data(cfg: DictConfig) -> PreparedData:
    """Return the images of a configuration, which its scorer and thresholds can do with."""
    scorer, settings = build_scorer(cfg), build_settings(cfg)
    data = build_data(cfg, cfg.image_size or build_embedder(cfg).size)
    data.draw()
    log_images(data)
    scorer.check_size(len(data.split.indices["normal"]))
    scorer.check_reference(len(data.split.indices["reference"]))
    if scorer.needs_head and len(data.head_classes) == len(data.classes.normal):
        raise InputError(
            "scorer=head asks how little an image looks like the normal classes, which takes others in training, and "
            "dataset.reference names none; choose another scorer"
        )
    log_thresholds(settings, len(data.split.indices["calibration"]))
    return data


def _score(run: Run, trained: Trained) -> dict[str, Any]:
    """Score the test images and write what a finished run leaves; return what ``metrics.json`` holds."""
    split, epochs, embedded, learner = trained.split, trained.epochs, trained.embedded, trained.learner
    cfg, selected = trained.cfg, trained.selected
    scorer = build_scorer(cfg)
    attach_head(scorer, learner.head, split["head_classes"], split["classes"]["normal"])
    try:
        result = evaluate(scorer, embedded, build_settings(cfg))
    except InputError as error:
        raise InputError(f"{error}; training is done: repeat with ckpt_path={run.last_checkpoint}") from error
    save_model(run, learner.evaluated, learner.head, scorer, result.calibration_scores)
    save_embeddings(run, embedded)
    save_evidence(run, result, embedded, trained.data)
    save_history(run, epochs.history, trained.study.history if trained.study.wanted else [])
    seconds = {**trained.seconds, **result.seconds}
    seconds["total"] = time.perf_counter() - trained.started + epochs.earlier - trained.study.here
    if selected:
        save_selection(run, selected.rows, selected.figures)
        seconds["total"] += selected.seconds - selected.here
    about = {
        "training": epochs.history[-1] if epochs.history else {},
        **({"selection": selected.figures} if selected else {}),
        **split_figures(split),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {"train": round(epochs.images / epochs.seconds, 1)} if epochs.seconds else {},
    }
    return save_evaluation(run, result, embedded, about)
