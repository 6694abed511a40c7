"""The evaluation of finished runs, from their directories and saved configurations."""

import errno
import itertools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from metrad.app.arguments import require_few_runs
from metrad.app.build import build_data, build_scorer, build_settings
from metrad.app.messages import is_expected, log_thresholds, log_trivial, one_line, summary
from metrad.data.prepared import PreparedData
from metrad.detector.bundle import same_part
from metrad.detector.core import Detector
from metrad.errors import InputError
from metrad.evaluation.embeddings import Embedded, embed, roles_for
from metrad.evaluation.evaluate import Evaluation, attach_head, evaluate
from metrad.evaluation.good_images import curve, readable
from metrad.files import replacing, require_inside, write_all
from metrad.quoting import setting
from metrad.runs import outputs, property_table
from metrad.runs.artifacts import load_detector, load_embeddings, save_embeddings
from metrad.runs.config import stored
from metrad.runs.config.build import plain
from metrad.runs.config.catalogue import choices, contents, folder
from metrad.runs.config.explain import explain
from metrad.runs.config.home import expand_home
from metrad.runs.config.schema import LATER, PARTS
from metrad.runs.config.suggestions import suggestion, unknown_choice, unknown_key
from metrad.runs.directory import Run
from metrad.runs.naming import folder_name
from metrad.runs.pictures import ScoredImages
from metrad.runs.saved import is_base_60
from metrad.scorers.neighbours import NeighbourScorer
from metrad.sweeps.table import evaluation_row, table_text
from metrad.terminal import printable

log = logging.getLogger(__name__)

CHANGEABLE = (
    *("scorer", "evaluation", "paths", "dataset.source.root", "dataset.source.path", "dataset.source.sources"),
    *("dataset.workers", "dataset.memory_limit_gib", "allow_targets"),
)


def runs_at(path: str | Path) -> list[Run]:
    """Return the finished run at ``path``, or all finished runs of the sweep at ``path``.

    Unfinished runs of a sweep are logged and left out.

    Raises:
        InputError: there is no finished run.
    """
    sweep = sorted(one for one in Path(path).glob("*/status.json") if Run(one.parent).config.exists())
    if not sweep or Run(path).status.exists():
        return [Run.finished(path)]
    runs = []
    for status in sweep:
        try:
            runs.append(Run.finished(status.parent))
        except InputError as error:
            log.warning("left out: %s", error)
    if not runs:
        raise InputError(f"none of the {len(sweep)} runs in {path} is finished")
    return runs


def expand(overrides: list[str]) -> list[list[str]]:
    """Return the overrides of each evaluation; ``scorer=knn,lof`` and ``scorer=glob(*)`` ask for several evaluations.

    Raises:
        InputError: a value cannot be read, or an override stands for no value.
    """
    with initialize_config_dir(str(folder()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return [list(each) for each in itertools.product(*(_values(item, parser) for item in overrides))]


def _values(item: str, parser: OverridesParser) -> list[str]:
    """Return the overrides that ``item`` stands for: several if it sweeps over scorer or evaluation, else itself."""
    if not re.match(r"(scorer|evaluation)[.\w]*=", item):
        return [item]
    try:
        override = parser.parse_overrides([item])[0]
    except HydraException as error:
        raise InputError(f"{item} cannot be read ({' '.join(str(error).split())})") from error
    require_few_runs([item])
    if not override.is_sweep_override():
        return [item]
    if not override.is_discrete_sweep():
        raise InputError(f"{item} stands for infinitely many values; list some, as in scorer.k=1,5")
    values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise InputError(f"{item} stands for no value; list some, as in scorer=knn,lof or scorer.k=1,5")
    scorers = choices()["scorer"]
    for name in (value.partition("=")[2] for value in values if item.startswith("scorer=")):
        if name not in scorers:
            raise InputError(unknown_choice("scorer", name, scorers))
    return values


def evaluate_all(
    path: str | Path,
    overrides: list[str],
    name: str | None = None,
    *,
    evidence: bool = False,
    good_images: bool = False,
) -> bool:
    """Make every evaluation that ``overrides`` ask for of the run or the runs of the sweep at ``path``.

    The results are logged. If one of several evaluations fails, its error is logged and the others are made.

    Args:
        path: directory of a finished run or of a sweep.
        overrides: as for ``evaluate_run``; a setting with several values stands for several evaluations.
        name: as for ``evaluate_run``; for a single evaluation of each run.
        evidence: as for ``evaluate_run``.
        good_images: as for ``evaluate_run``.

    Returns:
        Whether all evaluations succeeded.

    Raises:
        InputError: as for ``evaluate_run``, if there is a single evaluation.
    """
    runs, changes = runs_at(path), expand(overrides)
    if name is not None and len(changes) > 1:
        raise InputError(f"--name={name} names a single evaluation, but there are {len(changes)}; leave it out")
    jobs = [(run, change) for run in runs for change in changes]
    rows: list[dict[str, Any]] = []
    for run, change in jobs:
        run_name = run.path.resolve().name  # the path can be a dot
        try:
            folder, metrics = evaluate_run(run.path, change, name, evidence=evidence, good_images=good_images)
        except Exception as error:
            if len(jobs) == 1 or not is_expected(error):
                raise
            typer.echo(printable(f"{run_name} {' '.join(change)} failed: {one_line(error)}"), err=True)
        else:
            log.info("%s -> %s", summary(metrics), folder)
            if len(jobs) == 1:
                log_thresholds(metrics)
                log_trivial(metrics)
            rows.append(evaluation_row(run_name, change, metrics))
    if len(rows) > 1:
        log.info("\n%s", table_text(rows))
    return len(rows) == len(jobs)


def evaluate_run(
    path: str | Path,
    overrides: list[str],
    name: str | None = None,
    *,
    evidence: bool = False,
    good_images: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Score a finished run again, from its saved embeddings, and write the results into a new folder.

    Args:
        path: directory of the run.
        overrides: ``key=value`` with keys in or below ``CHANGEABLE``; ``scorer=NAME`` chooses another scorer.
        name: name of the new folder in ``evaluations``; None for a name made of the overrides.
        evidence: whether to read the images again and draw ``neighbours.png`` and ``hardest.png``.
        good_images: whether to fit the scorer to fewer normal images too, and to write and log ``good_images.csv``.

    Returns:
        The new folder and the content of its ``metrics.json``.

    Raises:
        InputError: the run has not finished, an override cannot be applied, or data or files have changed.
    """
    run = _opened(path)
    cfg = changed_config(run, overrides)
    detector = load_detector(run, cfg.allow_targets)
    target = _free_folder(run, overrides, name)
    scorer, settings, split = build_scorer(cfg), build_settings(cfg), run.saved_split()
    scorer.check_size(len(split["images"]["normal"]))
    scorer.check_reference(len(split["images"]["reference"]))
    kept = load_embeddings(run, detector.digest) if os.path.lexists(run.embeddings) else Embedded({}, {})
    missing = [role for role in roles_for([scorer]) if role not in kept.arrays]
    data = restored_data(run, stored.confined(cfg, overrides), detector, split) if missing or evidence else None
    embedded = _embed_again(run, kept, missing, detector, data) if missing and data else kept
    calibration, groups = None, {role: np.array(numbers) for role, numbers in split.get("groups", {}).items()}
    if same_part("scorer", plain(cfg.scorer), detector.blueprint.scorer):
        scorer, calibration = detector.scorer, detector.calibration
        _require_fitted_to(run, detector, embedded)
    elif scorer.needs_head:
        attach_head(scorer, detector.backend.head, split["head_classes"], split["classes"]["normal"])
    result = evaluate(scorer, embedded, settings, calibration=calibration, groups=groups)
    rows = curve(scorer, embedded, result, groups) if good_images else []
    seconds = {phase: round(value, 3) for phase, value in result.seconds.items()}
    properties = property_table.read(run, split)
    beside = {} if properties is None else outputs.beside_trivial(result, properties)
    metrics = {**result.metrics, **beside, **outputs.split_entries(split), "seconds": seconds}
    while True:
        try:
            _write(target, cfg, metrics, result, embedded, data if evidence else None, rows)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            target = _free_folder(run, overrides, name)  # another evaluation has just taken the folder
        else:
            break
    if rows:
        log.info("%s", table_text(readable(rows)))
    return target, metrics


def _opened(path: str | Path) -> Run:
    """Return the finished run at ``path``, whose folders of evaluations and embeddings can be used."""
    run = Run.finished(path)
    if not run.verified:
        log.warning("%s is unverified: it is from before runs had a manifest of checksums", run.path)
    require_inside(run.path, run.evaluations)
    if os.path.lexists(run.evaluations) and not run.evaluations.is_dir():
        raise InputError(f"{run.evaluations} is no folder, and evaluations are written there; remove it")
    require_inside(run.path, run.embeddings)
    return run


def _require_fitted_to(run: Run, detector: Detector, embedded: Embedded) -> None:
    """Raise ``InputError`` if the saved scorer or the calibration scores are not of as many images as ``embedded``."""
    scorer, arrays = detector.scorer, embedded.arrays
    fitted = scorer.index_.ntotal if isinstance(scorer, NeighbourScorer) else len(arrays["normal"])
    if fitted != len(arrays["normal"]) or len(detector.calibration.scores) != len(arrays["calibration"]):
        raise InputError(f"{run.model} was fitted to other images than {run.embeddings} holds; train the run again")


def _write(
    target: Path,
    cfg: DictConfig,
    metrics: dict[str, Any],
    result: Evaluation,
    embedded: Embedded,
    images: PreparedData | None,
    curve_rows: list[dict[str, Any]],
) -> None:
    """Write an evaluation into the new folder ``target``, all or nothing; with ``images``, also the pictures of them.

    ``curve_rows`` are the rows of ``good_images.csv``; without any it is not written.

    Raises:
        OSError: the folder exists, or cannot be written.
    """
    with replacing(target) as partial:
        partial.mkdir(parents=True)
        OmegaConf.save(cfg, partial / "config.yaml")
        contents = outputs.evaluation(Run(partial), result, embedded)
        if images is not None:
            contents |= outputs.drawn(Run(partial), "images", ScoredImages(result, embedded, images))
        if curve_rows:
            contents |= outputs.good_images(Run(partial), curve_rows)
        write_all({**contents, Run(partial).metrics: metrics})


def changed_config(run: Run, overrides: list[str]) -> DictConfig:
    """Return the run's configuration with ``overrides`` applied, checked.

    Raises:
        InputError: an override cannot be applied, or the configuration cannot be used.
    """
    cfg = expand_home(override(_saved_config(run), overrides))
    stored.check(cfg)
    return cfg


def _saved_config(run: Run) -> DictConfig:
    """Return the run's configuration, inert and without its ``allow_targets``: the user must allow packages again."""
    saved = stored.inert(run.load_config())
    without = [] if OmegaConf.is_dict(OmegaConf.select(saved, "evaluation")) else ["evaluation"]
    for key, value in LATER.items():  # settings that came after the run was made
        part = key.partition(".")[0]
        unset = OmegaConf.select(saved, key, default=...) is ... and saved.get(part, ...) is not None
        if part not in PARTS.keys() - {key} and unset:
            OmegaConf.update(saved, key, value, force_add=True)
    lacking = [part for part in PARTS if not OmegaConf.is_dict(OmegaConf.select(saved, part))] + without
    if lacking:
        raise InputError(f"{run.config} holds no configuration of a run: it lacks {', '.join(lacking)}")
    saved.merge_with({"ckpt_path": None, "allow_targets": []})
    return saved


def _require_root(run: Run, cfg: DictConfig) -> None:
    """Check that ``dataset.source.root`` or ``dataset.source.path`` leads to a folder or file from here.

    Raises:
        InputError: it does not; the line gives the place that a relative path led to where the run was made, if it is
            still there.
    """
    for key, kind in (("dataset.source.root", "folder"), ("dataset.source.path", "file")):
        place = OmegaConf.select(cfg, key)
        if not isinstance(place, str) or Path(place).exists():
            continue
        if Path(place).is_absolute():
            if OmegaConf.select(cfg, "dataset.source.download"):
                continue
            raise InputError(
                f"{key}={place}: there is no such {kind} any more, and the run's images are read again from there; if "
                f"they were moved, add {key}={kind.upper()}"
            )
        found = next((folder for folder in run.path.resolve().parents if (folder / place).exists()), None)
        given = setting(key, found / place) if found else f"{key}={kind.upper()}"
        raise InputError(
            f"{key}={place}: no such {kind} below {Path.cwd()}; the run, made in another folder, read its images "
            f"there: add {given}"
        )


def restored_data(run: Run, cfg: DictConfig, detector: Detector, split: dict[str, Any]) -> PreparedData:
    """Return the run's data, read again and checked against the run's split.

    Raises:
        InputError: an image is missing, cannot be decoded, or has changed since the run was made.
    """
    _require_root(run, cfg)
    data = build_data(cfg, detector.backend.embedder.size)
    data.restore_split(split)
    return data


def _embed_again(run: Run, kept: Embedded, roles: Sequence[str], detector: Detector, data: PreparedData) -> Embedded:
    """Compute the embeddings of ``roles`` from the images, add them to ``kept``, save and return all of them."""
    lost = f"{run.embeddings} is gone" if not kept.arrays else f"no embeddings of {' or '.join(roles)} images were kept"
    log.info("%s; computing them from the images", lost)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = embed(detector.backend.embedder, data, roles, device=device, precision=detector.precision)
    embedded = Embedded(kept.arrays | found.arrays, kept.records | found.records)
    save_embeddings(run, embedded, detector.digest)
    return embedded


def override(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Return ``cfg`` with ``overrides`` applied; an unknown key is an error, never a new key.

    Raises:
        InputError: a key is unknown or cannot change after training.
    """
    OmegaConf.set_struct(cfg, True)
    keys = [item.partition("=")[0] for item in overrides]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice; several values are written {twice[0]}=A,B")
    for item in sorted(overrides, key=lambda item: not item.startswith("scorer=")):  # scorer=NAME before its settings
        key, equals, value = item.partition("=")
        if os.path.exists(item):  # noqa: PTH110 - Path.exists raises an error if a name is too long
            raise InputError(f"{item} is a second folder; one run or one sweep is evaluated at a time")
        if key in ("paths", "evaluation"):
            raise InputError(f"{key} is a group of settings; write {key}.NAME=VALUE")
        if not (key and equals):
            raise InputError(f"{item} is no override; write key=value")
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE):
            raise InputError(f"{key} cannot change after training; {suggestion(key, list(CHANGEABLE))}")
        if any(is_base_60(word) for word in re.split(r"[\s\[\]{},]+", value)):
            raise InputError(f"{item}: YAML reads a value with colons as a number in base 60; write it without colons")
        if key == "scorer":
            scorers = choices()["scorer"]
            if value not in scorers:
                raise InputError(unknown_choice("scorer", value, scorers))
            cfg.scorer = OmegaConf.create(contents("scorer")[value])
            OmegaConf.set_struct(cfg, True)
            continue
        try:
            cfg.merge_with_dotlist([item])
        except YAMLError as error:
            raise InputError(f"{item} cannot be read; a list is written {key}=[a,b]") from error
        except (ConfigAttributeError, ConfigKeyError) as error:
            raise InputError(unknown_key(key, cfg)) from error
        except OmegaConfBaseException as error:
            raise InputError(explain(error)) from error
    return cfg


def _free_folder(run: Run, overrides: list[str], name: str | None) -> Path:
    """Return a folder for new results; it does not exist yet."""
    if name is not None:
        target = run.evaluations / name
        if name in ("", ".", "..") or target.parent != run.evaluations or Path(name).is_absolute():
            raise InputError(f"--name must be a plain folder name, got {name!r}")
        if printable(name) != name or "\n" in name or "\t" in name:
            raise InputError(f"--name={name!r} has control characters; choose a name of letters, digits, - and _")
        if target.exists():
            raise InputError(f"{target} is there already; choose another --name")
        return target
    stem = folder_name(overrides) or "repeated"
    numbered = (run.evaluations / (f"{stem}-{i}" if i > 1 else stem) for i in range(1, 10**6))
    return next(path for path in numbered if not path.exists())
