"""The training of a run, or of a fold of a selection, and the embedding of its images."""

import logging
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from metrad import collectives
from metrad.app.build import Parts
from metrad.app.pace import Pace, choose_pace
from metrad.data.broken_images import names_left_out
from metrad.data.prepared import PreparedData
from metrad.data.sizing import Automatic
from metrad.data.sources import listed
from metrad.errors import InputError, TrainingError
from metrad.evaluation.audit import confound
from metrad.evaluation.conformal import DEFAULT_RATES, calibration_groups_needed
from metrad.evaluation.embeddings import Embedded, fit_and_embed
from metrad.evaluation.measures import Settings
from metrad.evaluation.planning import needed, needed_beside_test
from metrad.files import write_all, write_json
from metrad.models.embedder import Embedder
from metrad.runs.directory import Run
from metrad.runs.environment import environment
from metrad.runs.identity import changes
from metrad.training.checkpoints import epochs_behind
from metrad.training.datamodule import MetradDataModule
from metrad.training.devices.plan import least_images
from metrad.training.epoch_log import EpochLog
from metrad.training.epoch_study import EpochStudy
from metrad.training.fitted import Fitted
from metrad.training.learner import MetricLearner
from metrad.training.tracking import Tracker

log = logging.getLogger(__name__)


def prepare(parts: Parts) -> PreparedData:
    """Return the run's data, read and split.

    A training that goes on, and whose groups were found by ``dataset.group=auto``, takes the split that it began with
    from ``split.json`` beside its checkpoints. So it does not depend on finding the same groups again.
    """
    data = parts.make_data(parts.image_size or parts.make_embedder().size)
    begun = Run(Path(parts.begun.path).absolute().parent.parent) if parts.begun else None
    if begun is not None and data.finds_groups and begun.split.is_file():
        data.restore_split(begun.saved_split())
    else:
        data.draw()
    return data


def check_data(parts: Parts, data: PreparedData) -> None:
    """Check that there are enough images for the run's scorer and thresholds.

    Raises:
        InputError: there are too few images, or no classes for a scorer that needs the head.
    """
    scorer = parts.make_scorer()
    scorer.check_size(len(data.split.indices["normal"]))
    scorer.check_reference(len(data.split.indices["reference"]))
    if scorer.needs_head and len(data.head_classes) == len(data.classes.normal):
        raise InputError(
            "scorer=head takes a head that was trained on other classes than the normal ones, but dataset.reference "
            "names none; choose scorer=knn"
        )
    _require_rates(parts.settings, data)


def _require_rates(settings: Settings, data: PreparedData) -> None:
    """Raise ``InputError`` if there are too few calibration groups for a rate that was asked for."""
    there = _calibration_groups(data)
    for rate in settings.false_alarm_rates or () if _is_automatic(data) else ():
        if calibration_groups_needed(rate) > there:
            raise InputError(f"a false-alarm rate of {rate:g} takes more good {_counted(data)}: {_more(rate, data)}")
    settings.rates(there)


def log_data(parts: Parts, data: PreparedData) -> None:
    """Log how many images there are, which thresholds they are too few for, and which were left out."""
    log_counts(data)
    log_found(data)
    if parts.audit and (found := confound(data.properties())):
        log.warning("%s (audit=false: not said)", found.line)
    log_thresholds(parts.settings, data)
    log_range(data)
    log_left_out(data)


def _calibration_groups(data: PreparedData) -> int:
    """Return the number of calibration images, or of their groups if images have groups."""
    found = data.split.indices["calibration"] if data.groups is None else np.unique(data.groups["calibration"])
    return len(found)


def _counted(data: PreparedData) -> str:
    return "images" if data.groups is None else "groups"


def _is_automatic(data: PreparedData) -> bool:
    """Return whether the number of calibration images follows from the number of good ones."""
    return isinstance(data.roles.sizes["calibration"], Automatic)


def _more(rate: float, data: PreparedData) -> str:
    """Return in words what a false-alarm rate takes that there are too few calibration groups for."""
    counted, takes = _counted(data), calibration_groups_needed(rate)
    found = data.split.indices if data.groups is None else data.groups
    normal, calibration, tested = (len(np.unique(found[role])) for role in ("normal", "calibration", "test_normal"))
    untested = normal + calibration
    if not _is_automatic(data) and (takes < untested or data.roles.sizes["normal"] is not None):
        return f"set dataset.sizes.calibration={takes}" if counted == "images" else "raise dataset.sizes.calibration"
    if isinstance(data.roles.test_share, Automatic) and data.image_set.pool.in_test_part is None:
        whole = needed(rate).parts
        missing = whole - untested - tested
        return f"{whole:,} good {counted} in all, {missing:,} more than there are (metrad plan --rate {rate:g})"
    whole = needed_beside_test(takes)
    return f"{whole:,} good {counted} beside those tested on, {whole - untested:,} more than there are"


def fit(parts: Parts, run: Run, tracker: Tracker | None = None) -> Fitted:
    """Train, then embed the images; each rank does its part.

    A fold of a selection writes nothing into ``run`` and embeds nothing after training. If a fold diverges, the
    metrics of its earlier epochs are kept.

    Args:
        parts: the parts of the run.
        run: its directory.
        tracker: its record at a logger; None for a fold.

    Raises:
        InputError: the images, the model or the checkpoint do not suit the settings.
        TrainingError: training diverged.
    """
    start, first, whole = time.perf_counter(), collectives.rank() == 0, parts.held_out is None
    pl.seed_everything(parts.seed, workers=True, verbose=False)
    data = prepare(parts)
    if whole:
        check_data(parts, data)
    pl.seed_everything(parts.seed, workers=True, verbose=False)  # the first weights depend on the seed alone
    embedder = parts.make_embedder()
    learner = parts.make_learner(embedder, len(data.head_classes))
    pace = _paced(parts, embedder, data)
    epochs = EpochLog(lambda done, of: run.note(epoch=done, epochs=of) if first and whole else None)
    study = EpochStudy(data, epochs, parts.make_studied, label="study" if whole else "selection")
    datamodule = MetradDataModule(data, batch_size=parts.batch_size, least_images=least_images(parts.trainer))
    logger = tracker.logger if tracker else None
    trainer = parts.make_trainer(run, pace, epochs, study, logger=logger, keeping=whole)
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    checkpoint = parts.begun.path if parts.begun else None
    datamodule.first_epoch = epochs_behind(parts.begun, learner, datamodule, trainer, changes)
    _log_start(parts, data, pace, datamodule.first_epoch)
    if first and whole:
        ranks, speed = collectives.world_size(), pace.describe()
        about = {"precision": precision, "ranks": ranks, "speed": speed, **environment(str(device))}
        split = data.describe_split()
        write_all({run.split: split, run.environment: about})
    _begin(tracker, run)
    prepared = time.perf_counter()
    try:
        trainer.fit(learner, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except TrainingError as error:
        if whole or collectives.several():  # on several ranks the others would wait for this one
            raise
        log.warning("selection: %s; later epochs of this training get no AUROC", error)
    trained = time.perf_counter()
    if first and whole and (kept := pace.kept(trainer.callbacks)) != pace:  # type: ignore[attr-defined]
        write_json(run.environment, {**about, "speed": kept.describe()})
    embedded = Embedded({}, {})
    if whole:
        _log_reach(learner, spoken=first)
        embedded = fit_and_embed(learner.evaluated, data, [parts.make_scorer()], device=device, precision=precision)
    seconds = {"prepare": prepared - start, "train": epochs.seconds, "embed": time.perf_counter() - trained}
    seconds |= {"study": study.seconds} if study.wanted else {}
    return Fitted(learner, data, embedded, epochs, study, precision, parts.selected, seconds, start, first)


def _paced(parts: Parts, embedder: Embedder, data: PreparedData) -> Pace:
    """Return the pace of the training, as the first rank chooses it."""
    begun_in = parts.begun.precision if parts.begun else None
    chosen = choose_pace(parts.pace, embedder, data.epoch_images, begun_in) if collectives.rank() == 0 else None
    pace = collectives.same(chosen)
    assert pace is not None
    return pace


def _log_start(parts: Parts, data: PreparedData, pace: Pace, epochs_done: int) -> None:
    """Log what the training begins with. Nothing is logged before all is checked, so that a refusal is one line."""
    if collectives.rank() == 0 and (parts.epochs or parts.held_out is None):
        pace.log_choice()
    if epochs_done:
        log.info("going on after epoch %d of %s", epochs_done, parts.epochs)
    if parts.held_out is None:
        log_data(parts, data)


def _begin(tracker: Tracker | None, run: Run) -> None:
    """Begin the run at its logger, and note its id there, by which it continues after an interruption."""
    number = tracker.begin() if tracker else None
    if number is not None:
        run.note(tracked=number)


def _log_reach(learner: MetricLearner, *, spoken: bool) -> None:
    """Log the settings of the head that had no effect in training."""
    for line in learner.reach.without_effect(learner.head):
        if spoken:
            log.warning("%s; see docs/heads.md", line)


def log_thresholds(settings: Settings, data: PreparedData) -> None:
    """Log for which default false-alarm rates there are too few calibration images or groups.

    An automatic size takes what it can. So only the largest rate is then worth a line.
    """
    if settings.false_alarm_rates is not None:
        return
    there = _calibration_groups(data)
    for rate in (max(DEFAULT_RATES),) if _is_automatic(data) else DEFAULT_RATES:
        takes = calibration_groups_needed(rate)
        if takes > there:
            log.info(
                "no threshold for %g %% false alarms, which takes %d calibration %s and not %d; %s",
                *(100 * rate, takes, _counted(data), there, _more(rate, data)),
            )


def log_counts(data: PreparedData) -> None:
    """Log the number of images of each role and, if images have groups, of groups."""
    counts = ", ".join(f"{len(indices):,} {role}" for role, indices in data.split.indices.items())
    log.info("images: %s; classes to tell apart: %d", counts, len(data.head_classes))
    if data.groups is not None:
        held = ", ".join(f"{len(np.unique(found)):,} {role}" for role, found in data.groups.items())
        left_out = data.split.left_out_for_groups
        log.info("groups: %s%s", held, f"; left out {left_out:,} images of groups on another side" if left_out else "")


def log_found(data: PreparedData) -> None:
    """Log the groups that ``dataset.group=auto`` found, or that it would find in images without groups."""
    for line in data.found:
        log.info("dataset.group=auto: %s", line)
    unnamed = data.unnamed_groups()
    if unnamed:
        log.warning(
            "images seem to show one part several times: %s. Set dataset.group=auto (metrad fit: --group auto), "
            "or a pattern that says which belong together; else "
            "new parts give more false alarms than promised (docs/scoring.md, Groups)",
            unnamed,
        )


def log_left_out(data: PreparedData) -> None:
    """Log the images that were left out, with the reason."""
    if data.split.copies_left_out:
        log.warning("left out %d copies of images that the dataset has more than once", data.split.copies_left_out)
    for name in names_left_out(data.image_set.corrupt, data.image_set.names):
        log.warning("left out %s, which cannot be decoded", name)
    if data.image_set.left_out:
        log.info("left out files that dataset.source.pattern does not match: %s", listed(data.image_set.left_out))


def log_range(data: PreparedData) -> None:
    """Log how images of more than 8 bits were scaled, if there are any, and how many exceed the range."""
    bits = data.image_set.depth
    if bits is not None:
        log.info(
            "images of more than 8 bits: 0 to %d become 0 to 255 (dataset.range=%d)%s",
            (1 << bits) - 1,
            bits,
            f"; larger values are clipped, in {data.clipped:,} images" if data.clipped else "",
        )
