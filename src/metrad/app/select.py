"""Which epochs, settings and scorer to train with, chosen without anomalies.

Each reference class in turn is left out of training and stands in for the anomalous one. What tells these classes from
the normal one best, on average, is what a run then trains with, on all its images. No calibration and no test image is
looked at.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from metrad import collectives
from metrad.app.build import (
    build_data,
    build_datamodule,
    build_embedder,
    build_learner,
    build_scorer,
    build_trainer,
    classes_of_head,
)
from metrad.app.pace import choose_pace
from metrad.data.prepared import PreparedData
from metrad.data.roles import class_numbers
from metrad.data.splits import to_test_on
from metrad.errors import InputError, TrainingError
from metrad.files import read_json, write_json
from metrad.runs.config import checks
from metrad.runs.directory import Run
from metrad.training.epoch_log import EpochLog
from metrad.training.epoch_study import Study

log = logging.getLogger(__name__)

Row = dict[str, Any]
AS_CONFIGURED = "as configured"
OWN = "scorer"  # the name of the run's own among the scorers


@dataclass(frozen=True)
class Choice:
    """What a run trains with.

    Attributes:
        candidate: position of its settings among ``selection.candidates``.
        epochs: how many; 0 for the weights as they come.
        scorer: name among ``scorers_of``.
        auroc: mean over the classes held out.
        folds: how many these were.
        recipes: how many were compared.
    """

    candidate: int
    epochs: int
    scorer: str
    auroc: float
    folds: int
    recipes: int


@dataclass(frozen=True)
class Selected:
    """How a run was chosen.

    Attributes:
        cfg: the run's configuration, with what was chosen.
        figures: what ``metrics.json`` says of it.
        rows: for each candidate, class held out, epoch and scorer the AUROC.
        seconds: time it took; of a resumed run, in all.
        here: the part of ``seconds`` that this process took.
    """

    cfg: DictConfig
    figures: dict[str, Any]
    rows: list[Row]
    seconds: float
    here: float


def scorers_of(cfg: DictConfig) -> dict[str, Any]:
    """Return the scorers that a selection compares, by name: the run's own first, each once."""
    own = OmegaConf.to_container(cfg.scorer, resolve=True)
    others = OmegaConf.to_container(cfg.selection.scorers, resolve=True)
    assert isinstance(others, dict)
    return {OWN: own, **{str(name): node for name, node in others.items() if node != own}}


def makers(cfg: DictConfig, candidate: DictConfig | None = None) -> dict[str, Callable[[], Any]]:
    """Return what makes each of ``scorers_of``, not fitted, for the settings of a candidate; None for those of all."""
    made: dict[str, Callable[[], Any]] = {}
    for name, node in scorers_of(cfg).items():
        changed = (candidate or cfg).copy()
        changed.scorer = node
        made[name] = partial(build_scorer, changed)
    return made


def scorers_studied(cfg: DictConfig) -> dict[str, Callable[[], Any]]:
    """Return what makes the scorers of a study by epochs, the run's own first; none if no study is asked for."""
    if not cfg.study.epochs:
        return {}
    if not cfg.selection:
        return {OWN: partial(build_scorer, cfg)}
    epochs, trained = cfg.trainer.max_epochs, cfg.copy()
    trained.trainer.max_epochs = max(1, epochs)
    # Where no training was chosen, there is no head to ask.
    return {name: make for name, make in makers(trained).items() if epochs or not make().needs_head}


def select(cfg: DictConfig, run: Run, data: PreparedData) -> Selected:
    """Train with each candidate and each class held out, and choose.

    What was trained before, as by a run that was interrupted, is read from the run's ``selection`` folder.

    Args:
        cfg: the whole configuration, with a ``selection``.
        run: where to keep what is found.
        data: the run's images.

    Raises:
        InputError: a class is not there, or no scorer can serve the embeddings.
    """
    start = time.perf_counter()
    held_out, candidates = _held_out(cfg, data), list(cfg.selection.candidates)
    _check_scorers(cfg, data, held_out)
    jobs = [(i, number) for i in range(len(candidates)) for number in held_out]
    log.info(
        "selection: %d candidates, %d classes held out in turn: %d trainings of up to %s epochs before the run's own",
        *(len(candidates), len(held_out), len(jobs), cfg.trainer.max_epochs),
    )
    first = collectives.rank() == 0
    rows: list[Row] = []
    seconds = 0.0
    for done, (i, number) in enumerate(jobs):
        if first:
            run.note(training=done, trainings=len(jobs) + 1)
        name, told = data.image_set.classes[number], describe(candidates[i])
        log.info("selection %d of %d: %s held out, %s", done + 1, len(jobs), name, told)
        found = _kept(run.selection / f"{i}-{number}.json", partial(_fold, cfg, run, candidates[i], name))
        seconds += found["seconds"]
        rows += [{"candidate": i, "settings": told, "held_out": name, **row} for row in found["rows"]]
    choice = best(rows, last_only=[bool(checks.with_settings(cfg, one).scheduler) for one in candidates])
    figures = _figures(choice, candidates, [data.image_set.classes[number] for number in held_out])
    if first:
        run.note(training=len(jobs))
    log.info(
        "selection: %d epochs, %s, scorer %s: mean AUROC %.4f over the classes held out, the best of %d recipes",
        *(choice.epochs, describe(candidates[choice.candidate]), choice.scorer, choice.auroc, choice.recipes),
    )
    return Selected(_chosen(cfg, choice), figures, rows, seconds, time.perf_counter() - start)


def best(rows: Sequence[Row], *, last_only: Sequence[bool]) -> Choice:
    """Return the candidate, epoch and scorer with the highest mean AUROC; of equal ones that of fewer epochs.

    Args:
        rows: with ``candidate``, ``held_out``, ``epoch``, ``scorer`` and ``auroc``, which is None where there is none.
        last_only: for each candidate whether its last epoch alone may be chosen: with a learning rate that is scheduled
            over all epochs, stopping early is another schedule.

    Raises:
        InputError: none has an AUROC for each class held out.
    """
    last: dict[int, int] = {}
    for row in rows:
        last[row["candidate"]] = max(row["epoch"], last.get(row["candidate"], 0))
    found: dict[tuple[int, int, str], list[float | None]] = {}
    for row in rows:
        if not last_only[row["candidate"]] or row["epoch"] in (0, last[row["candidate"]]):
            found.setdefault((row["epoch"], row["candidate"], row["scorer"]), []).append(row["auroc"])
    folds = len({row["held_out"] for row in rows})
    means = {
        key: float(np.mean([x for x in values if x is not None]))
        for key, values in found.items()
        if len(values) == folds and None not in values
    }
    if not means:
        raise InputError("selection: no scorer could serve the embeddings of any epoch; see the log above")
    (epochs, candidate, scorer), auroc = max(sorted(means.items(), key=lambda item: item[0][:2]), key=lambda it: it[1])
    return Choice(candidate, epochs, scorer, auroc, folds, len(means))


def describe(settings: Mapping[str, Any]) -> str:
    """Return a candidate's settings in words."""
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or AS_CONFIGURED


def _held_out(cfg: DictConfig, data: PreparedData) -> list[int]:
    """Return the numbers of the classes to hold out."""
    there = set(data.image_set.pool.labels[data.split.indices["reference"]].tolist())
    reference, wanted = [number for number in data.classes.reference if number in there], cfg.selection.classes
    if not reference:
        raise InputError(
            "selection: there are no reference images whose class could stand in for anomalies; name classes in "
            "dataset.reference, or take selection=none"
        )
    if wanted is None:
        return reference
    if isinstance(wanted, int):
        if wanted > len(reference):
            raise InputError(f"selection.classes={wanted}: there are {len(reference)} reference classes to draw from")
        drawn = np.random.default_rng([cfg.seed, len(reference)]).permutation(reference)[:wanted]
        return sorted(int(number) for number in drawn)
    names: Any = OmegaConf.to_container(wanted) if OmegaConf.is_list(wanted) else wanted
    numbers = class_numbers("selection.classes", names, data.image_set.classes)
    other = [data.image_set.classes[number] for number in numbers if number not in reference]
    if other:
        named = ", ".join(data.image_set.classes[number] for number in reference)
        raise InputError(f"selection.classes: {other[0]} is no reference class with images to train on; {named} are")
    return list(numbers)


def _check_scorers(cfg: DictConfig, data: PreparedData, held_out: list[int]) -> None:
    normal = len(data.split.indices["normal"])
    left = normal - to_test_on(normal, cfg.selection.normal_share)
    by_class = np.bincount(data.image_set.pool.labels[data.split.indices["reference"]])
    reference = int(by_class.sum() - by_class[held_out].max())
    candidates = [checks.with_settings(cfg, settings) for settings in cfg.selection.candidates]
    for name, make in (pair for candidate in candidates for pair in makers(cfg, candidate).items()):
        key = OWN if name == OWN else f"selection.scorers.{name}"
        try:
            scorer = make()
        except InputError as error:
            raise InputError(f"selection: {key}: {error}") from error
        if scorer.needs_head and len(data.classes.reference) == 1 and data.turns == 1:
            raise InputError(
                f"selection: {key}=head takes classes in training that are not normal, and there are none while the "
                "only reference class is held out; choose another scorer"
            )
        try:
            scorer.check_size(left)
            scorer.check_reference(reference)
        except InputError as error:
            fitted = f"while choosing, a scorer is fitted on {left} of {normal} normal images"
            if scorer.needs_reference:
                fitted += f", and on as few as {reference} reference images"
            raise InputError(f"selection: {key}: {error}; {fitted}") from error


def _kept(path: Path, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``path`` holds, or else what ``find`` finds, and keep it there."""
    kept = collectives.same(_read(path) if collectives.rank() == 0 else None)
    if kept is not None:
        return kept
    found = collectives.same(find())
    if collectives.rank() == 0:
        path.parent.mkdir(exist_ok=True)
        write_json(path, found)
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a fold found; None if it did not end, or a machine that went down left it cut off."""
    try:
        found = read_json(path)
    except InputError:
        return None
    return found if isinstance(found, dict) and found.keys() == {"seconds", "rows"} else None


def _fold(cfg: DictConfig, run: Run, settings: Mapping[str, Any], held_out: str) -> dict[str, Any]:
    """Train with ``settings`` and without a class, and return its AUROC after each epoch by each scorer."""
    start, changed = time.perf_counter(), checks.with_settings(cfg, settings)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    embedder = build_embedder(changed)
    data = build_data(changed, embedder.size, (held_out, cfg.selection.normal_share))
    data.draw()
    try:
        learner = build_learner(changed, embedder, classes_of_head(changed, data))
    except InputError as error:
        raise InputError(f"selection, with class {held_out} held out: {error}") from error
    epochs, scorers = EpochLog(), makers(cfg, changed)
    study = Study(data, epochs, scorers, told="selection")
    pace = collectives.same(choose_pace(changed, embedder, data.epoch_images) if collectives.rank() == 0 else None)
    assert pace is not None
    trainer = build_trainer(changed, run, pace, epochs, study, keeping=False)
    try:
        trainer.fit(learner, datamodule=build_datamodule(changed, data))
    except TrainingError as error:
        if collectives.several():  # the others wait for this rank
            raise
        log.warning("selection: %s; what comes after counts as unfit", error)
    rows = list(_long(study.history, scorers, changed.trainer.max_epochs))
    return {"seconds": time.perf_counter() - start, "rows": rows}


def _long(history: Sequence[Mapping[str, Any]], scorers: Mapping[str, Callable[[], Any]], epochs: int) -> Iterator[Row]:
    """Give a row an epoch, those that training did not reach among them, and a scorer."""
    noted = {row["epoch"]: row for row in history}
    for epoch in range(epochs + 1):
        for i, (name, make) in enumerate(scorers.items()):
            if epoch or not make().needs_head:  # a head that is not trained knows nothing
                auroc = noted.get(epoch, {}).get(f"auroc {name}" if i else "auroc")
                yield {"epoch": epoch, "scorer": name, "auroc": auroc}


def _figures(choice: Choice, candidates: Sequence[Mapping[str, Any]], held_out: list[str]) -> dict[str, Any]:
    return {
        "settings": dict(candidates[choice.candidate]),
        "epochs": choice.epochs,
        "scorer": choice.scorer,
        "pseudo_anomaly_auroc": choice.auroc,
        "held_out": held_out,
        "recipes": choice.recipes,
    }


def _chosen(cfg: DictConfig, choice: Choice) -> DictConfig:
    """Return ``cfg`` with what was chosen, and its selection for the record."""
    if not cfg.selection.apply:
        return cfg
    changed = checks.with_settings(cfg, cfg.selection.candidates[choice.candidate])
    changed.trainer.max_epochs = choice.epochs
    changed.scorer = scorers_of(cfg)[choice.scorer]
    changed.selection = cfg.selection
    return changed
