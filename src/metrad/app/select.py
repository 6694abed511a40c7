"""The selection of epochs, settings and scorer without anomalies.

Each reference class in turn is the stand-in: it is held out of training and plays the anomalous class. Or each fold of
the normal images is held out in turn, and the same images with synthetic defects play the anomalous ones. A recipe is a
candidate's settings with a number of epochs and a scorer. The run then trains on all its images with the recipe of the
highest mean AUROC over the stand-ins. No calibration image and no test image is used.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metrad import collectives
from metrad.app.build import OWN_SCORER, MakeScorer, Parts, Selection
from metrad.app.fit import check_data, fit, log_data, prepare
from metrad.data.prepared import PreparedData
from metrad.data.roles import class_numbers
from metrad.data.splits import SyntheticFold, to_test_on
from metrad.errors import InputError
from metrad.files import replacing, sealed, unsealed
from metrad.quoting import value
from metrad.runs.directory import Run
from metrad.training.fitted import Selected

log = logging.getLogger(__name__)

Row = dict[str, Any]
COLUMNS = ("epoch", "scorer", "auroc")  # of a fold's rows; their file has the keys in alphabetical order
LEVEL = 0.05  # below which p says that a recipe is better than the run as configured
AS_CONFIGURED = "as configured"


@dataclass(frozen=True)
class Choice:
    """The chosen recipe.

    Attributes:
        candidate: position of the settings in ``selection.candidates``.
        epochs: number of epochs; 0 for the initial weights.
        scorer: name of the scorer.
        auroc: mean AUROC over the stand-ins.
        folds: number of stand-ins.
        recipes: number of recipes compared.
    """

    candidate: int
    epochs: int
    scorer: str
    auroc: float
    folds: int
    recipes: int


@dataclass(frozen=True)
class StandIn:
    """What plays anomalous in a training: its number and name, and what is held out, as ``Selection.fold`` takes it."""

    number: int
    name: str
    held_out: str | SyntheticFold


def select(parts: Parts, run: Run) -> Parts:
    """Train with each candidate and each stand-in; return the parts of the run with the best recipe.

    The run's saved configuration becomes that of the best recipe. Each training's result is kept in the run's
    ``selection`` folder. An interrupted run reads its results from there.

    Args:
        parts: parts of the run, with a selection.
        run: run whose ``selection`` folder is used.

    Raises:
        InputError: a class does not exist, or no scorer can serve the embeddings.
    """
    start, selection = time.perf_counter(), parts.selection
    assert selection is not None
    data = prepare(parts)
    check_data(parts, data)
    stand_ins = _synthetic(selection, data) if selection.synthetic else _classes(parts, selection, data)
    log_data(parts, data)
    rows, seconds, reached = _trained(parts, run, stand_ins)
    choice = best(rows, last_only=selection.scheduled, sure=selection.sure)
    log.info(
        "selection: %d epochs, %s, scorer %s: mean AUROC %.4f over the stand-ins, the best of %d recipes",
        *(choice.epochs, describe(selection.candidates[choice.candidate]), choice.scorer, choice.auroc, choice.recipes),
    )
    entries = _entries(choice, selection, [stand_in.name for stand_in in stand_ins])
    if selection.sure or selection.minutes:
        entries |= {"tried": tried(rows), "not_reached": [describe(one) for one in selection.candidates[reached:]]}
    chosen = selection.chosen(choice.candidate, choice.epochs, choice.scorer)
    kinds = selection.synthetic[0].kinds if selection.synthetic else ()
    selected = Selected(entries, rows, seconds, time.perf_counter() - start, kinds)
    if collectives.rank() == 0:
        run.save_choice(chosen.config)
    return replace(chosen, selected=selected)


def _classes(parts: Parts, selection: Selection, data: PreparedData) -> list[StandIn]:
    """Return the stand-ins that are reference classes."""
    numbers = _held_out(selection, data, parts.seed)
    reference = data.image_set.pool.labels[data.split.indices["reference"]]
    normal = len(data.split.indices["normal"])
    by_class = np.bincount(reference)
    left = normal - to_test_on(normal, selection.normal_share)
    alone = len(data.classes.reference) == 1
    _check_scorers(selection, data, left, int(by_class.sum() - by_class[numbers].max()), no_reference=alone)
    _check_head(parts, data, numbers)
    names = [data.image_set.classes[number] for number in numbers]
    return [StandIn(number, name, name) for number, name in zip(numbers, names, strict=True)]


def _synthetic(selection: Selection, data: PreparedData) -> list[StandIn]:
    """Return the stand-ins that are folds of normal images with synthetic defects."""
    splits = [data.folded(fold).indices for fold in selection.synthetic]
    left, reference = (min(len(indices[role]) for indices in splits) for role in ("normal", "reference"))
    _check_scorers(selection, data, left, reference, no_reference=not data.classes.reference)
    return [StandIn(fold.number, fold.name, fold) for fold in selection.synthetic]


def _trained(parts: Parts, run: Run, stand_ins: list[StandIn]) -> tuple[list[Row], float, int]:
    """Return a row for each candidate, stand-in, epoch and scorer, the seconds of all, and the candidates reached."""
    selection = parts.selection
    assert selection is not None
    count = len(selection.candidates) * len(stand_ins)
    log.info(
        "selection: %d candidates, %d stand-ins: %d trainings of up to %s epochs before the run's own",
        *(len(selection.candidates), len(stand_ins), count, parts.epochs),
    )
    rows: list[Row] = []
    first, seconds, longest = collectives.rank() == 0, 0.0, 0.0
    for i, candidate in enumerate(selection.candidates):
        if i and selection.minutes and seconds + longest > 60 * selection.minutes:
            log.info("selection: %g minutes reach %d of %d candidates", selection.minutes, i, len(selection.candidates))
            return rows, seconds, i
        before = seconds
        for done, stand_in in enumerate(stand_ins, i * len(stand_ins)):
            if first:
                run.note(training=done, trainings=count + 1)
            settings = describe(candidate)
            log.info("selection %d of %d: stand-in %s, %s", done + 1, count, stand_in.name, settings)
            fold = partial(_fold, selection.fold(i, stand_in.held_out), run)
            found = _kept(run.selection / f"{i}-{stand_in.number}.json", fold)
            seconds += found["seconds"]
            about = {"candidate": i, "settings": settings, "held_out": stand_in.name}
            rows += [{**about, **row} for row in found["rows"]]
        longest = max(longest, seconds - before)
    if first:
        run.note(training=count)
    return rows, seconds, len(selection.candidates)


def best(rows: Sequence[Row], *, last_only: Sequence[bool], sure: bool = False) -> Choice:
    """Return the recipe with the highest mean AUROC; of tied recipes, the one with fewer epochs.

    Args:
        rows: rows with ``candidate``, ``held_out``, ``epoch``, ``scorer`` and ``auroc``, which may be None.
        last_only: for each candidate, whether only epoch 0 and its last epoch may be chosen. A schedule of the learning
            rate spans all epochs, so stopping earlier would be another schedule.
        sure: return the run as configured, unless that one is better by a one-sided paired t-test over stand-ins.

    Raises:
        InputError: no recipe has an AUROC for every stand-in.
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
    own = (last[0], 0, OWN_SCORER)
    if sure and own in means and p_value(found[epochs, candidate, scorer], found[own]) >= LEVEL:
        (epochs, candidate, scorer), auroc = own, means[own]
    return Choice(candidate, epochs, scorer, auroc, folds, len(means))


def p_value(one: Sequence[float | None], other: Sequence[float | None]) -> float:
    """Return p of a one-sided paired t-test that ``one`` is higher than ``other``; 1 if they are equal or single."""
    from scipy.stats import ttest_1samp  # takes time to import

    gain = np.array(one, dtype=np.float64) - np.array(other, dtype=np.float64)
    return 1.0 if len(gain) < 2 or not gain.std() else float(ttest_1samp(gain, 0, alternative="greater").pvalue)


def tried(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the mean AUROC of each candidate and scorer after its last epoch, and p against the run as configured."""
    last: dict[tuple[int, str, str], dict[int, list[float | None]]] = {}
    for row in rows:
        key = (row["candidate"], row["settings"], row["scorer"])
        last.setdefault(key, {}).setdefault(row["epoch"], []).append(row["auroc"])
    figures = {key: by_epoch[max(by_epoch)] for key, by_epoch in last.items()}
    own = next((values for (number, _, scorer), values in figures.items() if (number, scorer) == (0, OWN_SCORER)), [])
    return [
        {
            "settings": settings,
            "scorer": scorer,
            "auroc": None if None in values else float(np.mean([x for x in values if x is not None])),
            "p": None if None in (*values, *own) or not own else p_value(values, own),
        }
        for (_, settings, scorer), values in figures.items()
    ]


def describe(settings: Mapping[str, Any]) -> str:
    """Return a candidate's settings as text."""
    words = {key: value(given) if isinstance(given, list) else given for key, given in settings.items()}
    return ", ".join(f"{key}={given}" for key, given in words.items()) or AS_CONFIGURED


def _held_out(selection: Selection, data: PreparedData, seed: int) -> list[int]:
    """Return the numbers of the stand-ins."""
    there = set(data.image_set.pool.labels[data.split.indices["reference"]].tolist())
    reference, wanted = [number for number in data.classes.reference if number in there], selection.classes
    if not reference:
        raise InputError(
            "selection: there are no reference images whose class could stand in for anomalies; take "
            "selection=synthetic, name classes in dataset.reference, or take selection=none"
        )
    if wanted is None:
        return reference
    if isinstance(wanted, int):
        if wanted > len(reference):
            raise InputError(f"selection.classes={wanted}: there are {len(reference)} reference classes to draw from")
        drawn = np.random.default_rng([seed, len(reference)]).permutation(reference)[:wanted]
        return sorted(int(number) for number in drawn)
    numbers = class_numbers("selection.classes", wanted, data.image_set.classes)
    other = [data.image_set.classes[number] for number in numbers if number not in reference]
    if other:
        named = ", ".join(data.image_set.classes[number] for number in reference)
        raise InputError(f"selection.classes: {other[0]} is no reference class with images to train on; {named} are")
    return list(numbers)


def _check_head(parts: Parts, data: PreparedData, held_out: list[int]) -> None:
    """Check that the head can be trained on the classes that are left without a stand-in."""
    classes = len(data.classes.reference) + len(data.classes.normal)
    try:
        parts.make_learner(parts.make_embedder(), len(data.head_classes) * (classes - 1) // classes)
    except InputError as error:
        name = data.image_set.classes[held_out[0]]
        raise InputError(f"selection, with stand-in {name}: {error}") from error


def _check_scorers(selection: Selection, data: PreparedData, left: int, reference: int, *, no_reference: bool) -> None:
    """Check that each scorer can be fitted in every fold, on ``left`` normal and ``reference`` reference images."""
    normal = len(data.split.indices["normal"])
    for name, make in (pair for makers in selection.make_scorers for pair in makers.items()):
        key = OWN_SCORER if name == OWN_SCORER else f"selection.scorers.{name}"
        try:
            scorer = make()
        except InputError as error:
            raise InputError(f"selection: {key}: {error}") from error
        if scorer.needs_head and no_reference and data.turns == 1:
            raise InputError(
                f"selection: {key}=head takes classes in training that are not normal, and there are none if the "
                f"only reference class is the stand-in; choose {key}=knn"
            )
        try:
            scorer.check_size(left)
            scorer.check_reference(reference)
        except InputError as error:
            fitted = f"in a selection, a scorer is fitted on {left} of {normal} normal images"
            if scorer.needs_reference:
                fitted += f", and on as few as {reference} reference images"
            raise InputError(f"selection: {key}: {error}; {fitted}") from error


def _kept(path: Path, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result kept in ``path``; if there is none, call ``find`` and keep its result there."""
    kept = collectives.same(_read(path) if collectives.rank() == 0 else None)
    if kept is not None:
        return kept
    found = collectives.same(find())
    if collectives.rank() == 0:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(sealed(found), encoding="utf-8")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """Return the result of a fold; None if the file is missing, has changed, or is of an earlier version."""
    try:
        found = unsealed(path)
    except InputError:
        return None
    if found.keys() != {"seconds", "rows"}:
        return None
    return {**found, "rows": [{name: row[name] for name in COLUMNS} for row in found["rows"]]}


def _fold(parts: Parts, run: Run) -> dict[str, Any]:
    """Train without the stand-in; return its AUROC after each epoch by each scorer, and the seconds of the fold."""
    start = time.perf_counter()
    try:
        fitted = fit(parts, run)
    except InputError as error:
        raise InputError(f"selection, with stand-in {parts.held_out}: {error}") from error
    rows = list(_long(fitted.study.history, parts.make_studied, parts.epochs or 0))
    return {"seconds": time.perf_counter() - start, "rows": rows}


def _long(history: Sequence[Mapping[str, Any]], scorers: Mapping[str, MakeScorer], epochs: int) -> Iterator[Row]:
    """Yield a row for each epoch and scorer; the AUROC is None for epochs that training did not reach."""
    noted = {row["epoch"]: row for row in history}
    for epoch in range(epochs + 1):
        for i, (name, make) in enumerate(scorers.items()):
            if epoch or not make().needs_head:  # the head is untrained at epoch 0
                auroc = noted.get(epoch, {}).get(f"auroc {name}" if i else "auroc")
                yield {"epoch": epoch, "scorer": name, "auroc": auroc}


def _entries(choice: Choice, selection: Selection, held_out: list[str]) -> dict[str, Any]:
    """Return the entries of ``metrics.json`` about the choice."""
    return {
        "settings": dict(selection.candidates[choice.candidate]),
        "epochs": choice.epochs,
        "scorer": choice.scorer,
        "synthetic_auroc" if selection.synthetic else "pseudo_anomaly_auroc": choice.auroc,
        "held_out": held_out,
        "recipes": choice.recipes,
    }
