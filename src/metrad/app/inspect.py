"""A detector from a folder of good images, without a configuration of the user's own: ``metrad fit``.

It is a run of ``experiment=inspect``: the settings are written as the arguments of ``metrad train`` and go through the
same training, so that both make the same run.
"""

import logging
import math
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from metrad.app import group_option, hydra_seam
from metrad.app.arguments import for_hydra
from metrad.app.given_images import is_folder, written
from metrad.data.good_folder import GoodFolder, absolute, find_good
from metrad.data.groups import PARENT
from metrad.data.ungrouped import UngroupedViews
from metrad.detector.core import Detector
from metrad.detector.images import Images
from metrad.errors import InputError
from metrad.evaluation.conformal import DEFAULT_RATES, calibration_groups_needed
from metrad.evaluation.planning import needed
from metrad.files import replacing
from metrad.quoting import argument, value
from metrad.runs.config import checks
from metrad.runs.config.home import expand_home
from metrad.runs.directory import Run
from metrad.runs.naming import folder_name

log = logging.getLogger(__name__)

#: What tells which images show one part: a setting, or a label for each image.
Group: TypeAlias = str | Sequence[object] | np.ndarray | None
LISTED = 4  # folders that are not used, named in the summary
SIZE = 224  # height and width of images in pixels that ImageNet weights are made for
#: Settings that ``--try`` compares, in this order, each with the default's scorer and with the angle (``knn``).
RECIPES: tuple[dict[str, Any], ...] = (
    {},
    {"image_size": 160},
    {"test_time_flip": True},
    {"image_size": 320},
    {"backbone.layers": None, "whiten": False},
    {"backbone.layers": None},
    {"image_size": 96},
    {"image_size": 320, "test_time_flip": True},
)


@dataclass(frozen=True)
class Wanted:
    """What a detector is made from.

    Attributes:
        good: folder of good images, as ``find_good`` searches it.
        reference: folders of known images of other kinds; a score then also says how near an image is to these.
        weights: file of the backbone's weights; None for ImageNet weights, which are downloaded once.
        pattern: shell pattern of image files; None for the usual endings.
        group: which images show one part, as the setting ``dataset.group``; None if each image is alone.
        size: height and width in pixels that images are scaled to.
        confidence: probability with which confident thresholds keep their rate.
        seed: seed of the choice of images for each role.
        rates: false-alarm rates to compute thresholds for; empty for 0.01 and 0.05, each if the images suffice for it.
        minutes: time to compare recipes by synthetic defects, before the run is made; None to take the default recipe.
        label: what the good images are called in the summary; empty for their folder.
    """

    good: str | Path
    reference: Sequence[str | Path] = ()
    weights: str | Path | None = None
    pattern: str | None = None
    group: str | None = None
    size: int = SIZE
    confidence: float = 0.95
    seed: int = 0
    rates: Sequence[float] = ()
    minutes: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Made:
    """A finished run, the folder of its good images, the content of ``metrics.json``, and what its warning found."""

    run: Run
    good: GoodFolder
    wanted: Wanted
    metrics: Mapping[str, Any]
    ungrouped: UngroupedViews | None = None


def fit(  # noqa: PLR0913 - each is a choice that the command has too
    good: Images,
    reference: str | Path | Sequence[str | Path] | None = None,
    *,
    weights: str | Path | None = None,
    pattern: str | None = None,
    group: Group = None,
    size: int = SIZE,
    rate: float | Sequence[float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    minutes: float | None = None,
    out: str | Path | None = None,
) -> Detector:
    """Return a detector made from good images.

    A fifth of the images, or of their groups, is kept to test on, and as many as the thresholds take to calibrate on.
    Nothing is trained: the features are those of the weights as they come. What was chosen and found is logged in five
    lines by the logger ``metrad`` and kept as ``detector.summary``; ``logging.basicConfig(level="INFO")`` prints it.

    Args:
        good: folder of good images: flat, with a subfolder ``good`` or ``ok``, or with ``train/good``. Or the images
            themselves, of 8 bits: an array (N, H, W, C) of uint8, or a list or iterator of arrays (H, W) or (H, W, C),
            PIL images and paths. They are written as PNG files beside ``out``, or for as long as the call takes.
        reference: folders of known images of other kinds; a score then also says how near an image is to these.
        weights: file of MobileNetV2 weights; None for ImageNet weights, which are downloaded once.
        pattern: shell pattern of image files, such as ``*.jpg``; None for the usual endings.
        group: which images show one part: ``parent`` for a folder a part, ``auto``, or a regular expression over the
            path with a named group; for images that are no folder, a label of its part for each; None if each image
            is alone.
        size: height and width in pixels that images are scaled to.
        rate: false-alarm rates to compute thresholds for; None for 0.01 and 0.05, each if the images suffice for it.
        confidence: probability with which confident thresholds keep their rate.
        seed: seed of the choice of images for each role.
        minutes: time to compare recipes by synthetic defects first, as ``metrad fit --try`` does; None to take the
            default recipe.
        out: directory to keep the run in, for ``metrad report`` and the like; None to keep the detector alone.

    Raises:
        InputError: a folder, file or image cannot be used, there are too few images, or ``out`` exists.
    """
    folders = [reference] if isinstance(reference, str | Path) else list(reference or ())
    rates = [rate] if isinstance(rate, int | float) else list(rate or ())
    wanted = Wanted("", folders, weights, pattern, None, size, confidence, seed, rates, minutes)
    with tempfile.TemporaryDirectory(prefix="metrad-") as folder:
        detector = _told(_made(wanted, good, group, Path(out or Path(folder, "run"))), kept=out is not None)
        if out is None:
            _ = detector.scorer, detector.backend.embedder, detector.backend.head  # the files are gone afterwards
        return detector


def _made(wanted: Wanted, good: Images, group: Group, out: Path) -> Made:
    """Make a run of a folder of good images, or of the images themselves, as ``wanted`` says else."""
    setting = group if isinstance(group, str) or group is None else PARENT
    labels = None if isinstance(group, str) or group is None else group
    if is_folder(good):
        if labels is not None:
            raise InputError("group must be parent, auto or a pattern for a folder; it takes labels for pixels")
        return make(replace(wanted, good=Path(good), group=setting), out)
    if wanted.pattern is not None or (labels is None and setting == PARENT):
        raise InputError("pattern and group='parent' are for a folder of images; group takes a label for each image")
    with written(good, out, labels) as (place, count):
        return make(replace(wanted, good=place, group=setting, label=f"{count:,} images given in memory"), out)


def _told(made: Made, *, kept: bool) -> Detector:
    """Return the detector of a finished run, with its summary, which is logged.

    Args:
        made: the run.
        kept: whether its directory stays.
    """
    lines = summary(made)
    if not kept:
        lines[-1] = (
            "the run is not kept; give out=DIR to keep it, and look first at its unusual.png, since a good folder may "
            "hold defects"
        )
    detector = Detector.load(made.run.path)
    detector.summary = tuple(lines)
    for line in lines:
        log.info("%s", line)
    return detector


def make(wanted: Wanted, out: Path) -> Made:
    """Make a run in the directory ``out``, all or nothing.

    Raises:
        InputError: a folder or file cannot be used, there are too few images, or ``out`` exists.
    """
    if os.path.lexists(out):
        raise InputError(f"--out={out} is there already; choose another folder")
    good = find_good(wanted.good, wanted.pattern, all_good=wanted.group == PARENT)
    given = arguments(wanted, good)
    if not wanted.label and wanted.minutes is None:
        log.info("the same by configuration: %s", _command(given))
    given += _trying(wanted)
    checks.register()
    cfg, hydra = hydra_seam.compose(for_hydra(given))
    from metrad.app.train import train  # imports torch and Lightning, which a refusal above does not need

    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        metrics = train(expand_home(cfg), Run(partial), hydra)
    if wanted.minutes is not None:
        _log_tried(metrics["selection"], arguments(wanted, good))
    return Made(Run(out), good, wanted, metrics, Detector.load(out).ungrouped_views)


def _command(given: list[str]) -> str:
    return shlex.join(["metrad", "train", *given])


def _trying(wanted: Wanted) -> list[str]:
    """Return the arguments that compare recipes first; none without ``--try``."""
    if wanted.minutes is None:
        return []
    if wanted.minutes <= 0 or not math.isfinite(wanted.minutes):
        raise InputError(f"--try must be a number of minutes above 0, such as --try 5, got {wanted.minutes:g}")
    each = ["{" + ", ".join(f"{key}: {value(given)}" for key, given in recipe.items()) + "}" for recipe in RECIPES]
    limits = [f"selection.minutes={wanted.minutes:g}", "selection.sure=true"]
    return ["selection=synthetic", *limits, f"selection.candidates=[{', '.join(each)}]"]


def _log_tried(selection: Mapping[str, Any], given: list[str]) -> None:
    """Log the recipes that were compared, what was not reached, and the command of the one that was taken."""
    from metrad.app.build import OWN_SCORER
    from metrad.app.select import AS_CONFIGURED

    def named(settings: str, scorer: str) -> str:
        words = [] if settings == AS_CONFIGURED else [settings]
        return ", ".join(words + ([] if scorer == OWN_SCORER else [f"scorer={scorer}"])) or "the default"

    folds = len(selection["held_out"])
    log.info(
        "recipes by synthetic defects in %d folds of the good images; p that one is better than the default:", folds
    )
    for row in sorted(selection["tried"], key=lambda row: -(row["auroc"] or 0)):
        p = "" if row["p"] in (None, 1) else f", p {row['p']:.2g}"
        log.info("  AUROC %.3f: %s%s", row["auroc"] or math.nan, named(row["settings"], row["scorer"]), p)
    if selection["not_reached"]:
        log.info("not reached: %s", "; ".join(selection["not_reached"]))
    changed = [f"{key}={value(content)}" for key, content in selection["settings"].items()]
    changed += [] if selection["scorer"] == OWN_SCORER else [f"scorer={selection['scorer']}"]
    why = "it is better beyond chance" if changed else "no recipe is better beyond chance (p below 0.05)"
    log.info("taken: %s, since %s: %s", ", ".join(changed) or "the default", why, _command(given + changed))


def default_out(wanted: Wanted) -> Path:
    """Return a new directory for a run, named by the time, the good folder and the seed."""
    name = folder_name([f"good={absolute(wanted.good).name}", f"seed={wanted.seed}"])
    return Path("outputs", f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S-%f}-{name}")


def arguments(wanted: Wanted, good: GoodFolder) -> list[str]:
    """Return the arguments of ``train.py`` that make the same run.

    Raises:
        InputError: a reference folder or the file of weights does not exist, or ``wanted.group`` cannot be read.
    """
    reference = [_folder("--reference", path) for path in wanted.reference]
    root = Path(os.path.commonpath([path.parent for path in (good.path, *reference)]))
    names = [path.relative_to(root).as_posix() for path in (good.path, *reference)]
    settings: dict[str, Any] = {
        "dataset.source.root": str(root),
        "dataset.source.folders": names,
        "dataset.normal": names[:1],
    }
    if reference:
        settings |= {"dataset.reference": names[1:], "scorer": "contrast", "scorer.k": 1}
        settings |= {"backbone": "mobilenet_v2", "whiten": False}
    chosen: dict[str, tuple[Any, Any]] = {
        "dataset.source.pattern": (wanted.pattern, None),
        "backbone.weights": (wanted.weights and str(_weights(wanted.weights)), None),
        "image_size": (wanted.size, SIZE),
        "evaluation.confidence": (wanted.confidence, 0.95),
        "evaluation.false_alarm_rates": (list(wanted.rates), []),
        "seed": (wanted.seed, 0),
    }
    settings |= {key: given for key, (given, default) in chosen.items() if given != default}
    group = [] if wanted.group is None else [f"dataset.group={_group(wanted.group)}"]
    return ["experiment=inspect", *(f"{key}={value(content)}" for key, content in settings.items()), *group]


def _folder(option: str, path: str | Path) -> Path:
    folder = absolute(path)
    if not folder.is_dir():
        raise InputError(f"{option} {path} is no folder; give a folder of images")
    return folder


def _weights(path: str | Path) -> Path:
    file = absolute(path)
    if not file.is_file():
        raise InputError(f"--weights {path}: no such file; give a file of MobileNetV2 weights, or leave --weights out")
    return file


def _group(text: str) -> str:
    """Return ``dataset.group`` as Hydra reads it; ``text`` is as for ``group_option.read``."""
    content = group_option.read(text)
    if isinstance(content, str):
        return value(content)
    return "{" + ", ".join(f"{key}: {value(each)}" for key, each in content.items()) + "}"


def summary(made: Made) -> list[str]:
    """Return what was chosen and found, in five lines."""
    return [_taken(made), _fitted(made), _promised(made), _realised(made), _next(made)]


def _taken(made: Made) -> str:
    unused = made.good.unused
    named = ", ".join(f"{name} ({count:,} image{'s'[: count != 1]})" for name, count in list(unused.items())[:LISTED])
    left = len(unused) - LISTED
    more = f" and {left} more folder{'s'[: left > 1]}" if left > 0 else ""
    reference = f"; reference: {', '.join(map(str, made.wanted.reference))}" if made.wanted.reference else ""
    return f"good images: {made.wanted.label or made.good.path}{reference}" + (
        f"; not used: {named}{more}" if unused else ""
    )


def _fitted(made: Made) -> str:
    features, scorer = "features of three middle layers", "the nearest good image"
    if made.wanted.reference:
        features, scorer = "features of the last layer", f"{scorer}, less half of that to the nearest reference image"
    roles = {"normal": "compared with", "calibration": "calibrated on", "test_normal": "tested on"}
    counted = ", ".join(f"{word} {_count(made, role)}" for role, word in roles.items())
    size = made.wanted.size
    weights = "as the weights come" if made.wanted.reference else "as the weights come, whitened"
    return f"{features} {weights}, at {size} pixels, no training; score: distance to {scorer}; {counted}"


def _count(made: Made, role: str) -> str:
    images, groups = made.metrics["sizes"][role], made.metrics.get("groups")
    return f"{images:,} images" if groups is None else f"{images:,} images in {groups[role]:,} groups"


def _promised(made: Made) -> str:
    """Return the thresholds with the rates that they promise, to which parts, and what the others take."""
    counted, groups = "images", made.metrics.get("groups")
    there = made.metrics["sizes"]["calibration"]
    if groups is not None:
        counted, there = "groups", groups["calibration"]
    parts, missing = [], []
    asked = made.wanted.confidence
    kinds = (("thresholds", None, "on average"), ("confident_thresholds", asked, f"with confidence {asked:g}"))
    for kind, probability, how in kinds:
        found = {entry["false_alarm_rate"]: entry["threshold"] for entry in made.metrics[kind]}
        parts += [f"{100 * rate:g} % {how} above {threshold:.4g}" for rate, threshold in sorted(found.items())]
        lacking = sorted(set(made.wanted.rates or DEFAULT_RATES) - found.keys())
        missing += [f"{100 * rate:g} % {how} takes {needed(rate, probability).parts:,}" for rate in lacking]
    if not parts:
        parts = [f"{100 / (there + 1):.2g} % on average at least (metrad predict --rate {_least(there):g})"]
    takes = f"; of the {_all_normal(made):,} good {counted}, {', '.join(missing)}" if missing else ""
    same = " for images of the same parts; not for new parts, see the warning: --group auto"
    return f"false alarms promised{same if made.ungrouped else ''}: {', '.join(parts)}{takes}"


def _all_normal(made: Made) -> int:
    """Return the number of good images, or of their groups."""
    counts = made.metrics.get("groups") or made.metrics["sizes"]
    return sum(counts[role] for role in ("normal", "calibration", "test_normal"))


def _least(groups: int) -> float:
    """Return the smallest rate, in whole thousandths, that so many calibration groups can promise."""
    return next(rate / 1000 for rate in range(1, 1000) if calibration_groups_needed(rate / 1000) <= groups)


def _realised(made: Made) -> str:
    """Return the false alarms of each threshold on the images kept for testing, with their intervals.

    Without groups these may show the parts that the detector was fitted on.
    """
    found = [
        f"{100 * entry['test_false_alarm_rate']:.1f} % ({_ends(entry['test_false_alarm_interval'])}) where "
        f"{100 * entry['false_alarm_rate']:g} %{_how(entry)} is promised"
        for entry in [*made.metrics["thresholds"], *made.metrics["confident_thresholds"]]
    ]
    level, tested = made.metrics["intervals"]["level"], _count(made, "test_normal")
    tested += " (of the same parts)" if made.ungrouped else ""
    measured = ", ".join(found) if found else "not measured, for want of a threshold"
    return (
        f"false alarms on the {tested} kept for testing, with intervals of {100 * level:g} %: {measured}; which "
        "defects are found is not known before some are tested"
    )


def _ends(interval: Sequence[float]) -> str:
    return " to ".join(f"{100 * end:.1f}" for end in interval)


def _how(entry: Mapping[str, Any]) -> str:
    return f" with confidence {entry['confidence']:g}" if "confidence" in entry else ""


def _next(made: Made) -> str:
    run, picture = made.run.path, made.run.pictures["unusual"]
    return (
        f"run: {run}; look first at {picture}, since a good folder may hold defects; then: "
        f"metrad predict {argument(run)} IMAGES"
    )
