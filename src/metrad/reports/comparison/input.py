"""The input of a comparison: the table of the runs of a sweep, with the check that they may be compared."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from metrad.errors import InputError
from metrad.evaluation.metrics import by_name, is_value
from metrad.quoting import argument
from metrad.renamed import former
from metrad.reports.comparison.environments import environment_notes
from metrad.runs import contents
from metrad.runs.config.catalogue import folder as conf
from metrad.runs.config.schema import LATER, WITHOUT_IDENTITY
from metrad.runs.directory import Run
from metrad.runs.saved import yaml_of
from metrad.terminal import printable

IRRELEVANT = (*WITHOUT_IDENTITY, "hydra")
ABSENT = "none"
EPOCHS = "trainer.max_epochs"
_JOINED = "dataset.source.sources."
FROZEN = "frozen"  # replaces the head of a run without training


@dataclass(frozen=True)
class RunTable:
    """The runs to compare.

    Attributes:
        runs: a row for each run, with the columns that ``comparison.tables.Comparison`` describes.
        by: the compared choice, a column of ``runs``.
        conditions: the columns of ``runs`` that make a condition.
        origins: the names of the images of each run, such as their source and the hash of the split; conditions whose
            runs have a name in common share images.
        paired: whether runs of one seed can be paired.
        notes: notes on the origin of the runs.
        pairing: a note on the pairs, which an unpaired comparison leaves out; None without one.
    """

    runs: pd.DataFrame
    by: str
    conditions: list[str]
    origins: list[frozenset[str]]
    paired: bool = True
    notes: list[str] = field(default_factory=list)
    pairing: str | None = None


@dataclass(frozen=True)
class _Saved:
    """A saved run; ``settings`` and ``overrides`` are empty if the run was refused before they were saved."""

    run: Run
    state: str
    error: str
    settings: dict[str, str]
    overrides: dict[str, str]
    choices: dict[str, str]
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        return printable(self.run.path.name)

    @property
    def frozen(self) -> bool:
        """Whether the run did not train, so that its head cannot be compared."""
        return self.settings.get(EPOCHS) == "0"

    def value(self, key: str) -> str:
        """Return the value of ``key``: the name of a choice, or the value of a setting."""
        if key in self.choices:
            return self.choices[key]
        return self.settings.get(key, self.overrides.get(key, ABSENT))


def own_columns() -> tuple[str, ...]:
    """Return the columns of ``RunTable.runs`` that are neither the compared choice nor a condition."""
    return ("folder", "run", "state", "error", "seed", "split", "seconds", *by_name())


def require_metric(metric: str) -> None:
    """Raise ``InputError`` if ``metric`` does not exist."""
    if metric not in by_name():
        raise InputError(f"metric={metric} is unknown; choose one of {', '.join(by_name())}")


def read_sweep(folder: Path, by: str) -> RunTable:
    """Return the runs of the sweep in ``folder``, finished or not, that differ in ``by``.

    Raises:
        InputError: there are no runs, a run cannot be read, or compared runs also differ in other settings.
    """
    if by == "seed":
        raise InputError("by=seed compares nothing: runs are paired by their seed; give a choice such as head")
    saved = [_load(Run(path.parent)) for path in sorted(folder.glob("*/status.json"))]
    placed = [run for run in saved if run.settings]
    if not placed:
        raise InputError(f"{folder} holds no runs; give the folder of a sweep, such as multirun/TIME")
    having = [run for run in placed if any(_below(key, by) for key in run.settings)]
    if not having:
        raise InputError(f"by={by} is no setting of these runs; what differs is {_differing(placed, folder)}")
    without, placed = len(placed) - len(having), having
    names = _values_compared(placed, by, folder)
    conditions = _conditions(placed, by, names)
    rows = [_row(run, by, name, conditions) for run, name in zip(placed, names, strict=True)]
    _refuse_unlike(placed, rows, by, conditions)
    notes = [
        f"{run.name} stopped before its settings were saved and has no place in the grid: {run.error}"
        for run in saved
        if not run.settings
    ]
    finished = [(name, run.run) for name, run in zip(names, placed, strict=True) if run.state == "finished"]
    notes += environment_notes(finished, by)
    notes += _unverified(placed)
    unmeasured = [run.name for run in placed if contents.is_unmeasured(run.metrics)]
    if unmeasured:
        notes.append(
            f"{len(unmeasured)} runs, such as {unmeasured[0]}, have no anomalous test images (dataset.anomalous=[]), "
            "so no metric of theirs can be measured or compared; metrad report RUN has the false alarms of each."
        )
    lacking = [run.name for run in placed if contents.lacks_kinds(run.metrics)]
    if lacking:
        notes.append(
            f"{len(lacking)} runs, such as {lacking[0]}, have no detection of each kind of anomaly: metrics.json has "
            f"it since metrad {contents.BY_KIND_SINCE}, and metrad evaluate RUN computes it."
        )
    if without:
        notes.append(f"{without} runs have no setting {by} and are left out.")
    return RunTable(pd.DataFrame(rows), by, conditions, [_origins(run) for run in placed], notes=notes)


def _origins(run: _Saved) -> frozenset[str]:
    """Return the names of a run's images: its source, and the hash of its split if the run finished.

    A source is named by its class, its root, table and category, and by the sources it joins. Its other settings, such
    as a size, read the same images.
    """
    target = run.settings.get("dataset.source._target_", "")
    files = (run.settings.get(f"dataset.source.{key}") for key in ("root", "path"))
    named = (run.settings.get(f"dataset.{key}") for key in ("category", "source.category"))
    joined = (f"{key}={run.settings[key]}" for key in sorted(run.settings) if key.startswith(_JOINED))
    places = [*(os.path.normpath(path) for path in files if path), *named, *joined]
    place = " ".join(text for text in places if text and text != "null")
    source = f"source {target} {place}" if target else f"dataset {run.value('dataset')}"
    split = run.metrics.get("split")
    return frozenset([source, f"split {split}"] if isinstance(split, str) else [source])


def _unverified(runs: list[_Saved]) -> list[str]:
    """Return a note if finished runs have no manifest."""
    names = [saved.name for saved in runs if saved.state == "finished" and not saved.run.verified]
    if not names:
        return []
    which = f"{len(names)} runs are" if len(names) > 1 else f"{names[0]} is"
    return [f"{which} unverified: from before runs had a manifest, so a changed figure would not be noticed."]


def _load(run: Run) -> _Saved:
    status = contents.status(run.read_json(run.status), run.status)
    if not isinstance(status.get("state"), str):
        raise InputError(f"{run.status} holds no state of a run")
    state = run.state
    metrics = run.measured() if state == "finished" else {}
    settings, choices = {}, choices_of(run)
    if run.has(run.config):
        settings = dict(_leaves(OmegaConf.to_container(run.asked_config())))
        lacking = [key for key in LATER if not any(_below(given, key) for given in settings)]
        settings |= {key: _text(LATER[key]) for key in lacking}
        choices |= {key: "none" for key in lacking if (conf() / key).is_dir()}  # groups
    elif state == "finished":
        raise InputError(f"{run.path} has no .hydra/config.yaml, so its settings are unknown; move it away")
    overrides = dict(printable(str(item)).lstrip("+").partition("=")[::2] for item in _yaml(run, run.overrides, []))
    return _Saved(run, state, printable(status.get("error", "")), settings, overrides, choices, metrics)


def choices_of(run: Run) -> dict[str, str]:
    """Return the choice from each group, as saved by Hydra; empty if it was not saved.

    Raises:
        InputError: the file of the choices cannot be read.
    """
    path = run.config.with_name("hydra.yaml")
    node = _yaml(run, path, {})
    for key in ("hydra", "runtime", "choices"):
        node = node.get(key, {})
        if not isinstance(node, dict):
            raise InputError(f"{path} does not hold what Hydra writes there")
    return {str(key): printable(str(value)) for key, value in node.items()}


def _yaml(run: Run, path: Path, missing: Any) -> Any:
    """Return the content of a YAML file of ``run``, of the type of ``missing``; ``missing`` without a file."""
    if not run.has(path):
        return missing
    content = OmegaConf.to_container(yaml_of(run.read(path), path))
    if not isinstance(content, type(missing)):
        raise InputError(f"{path} does not hold what Hydra writes there")
    return content


def _leaves(node: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield the dotted key and the value of each setting; a list is one value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        named = isinstance(node, str) and prefix.endswith("._target_")
        yield prefix, _text(former(node) if named else node)


def _text(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))


def _below(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")


def _irrelevant(key: str) -> bool:
    return key.startswith("hydra/") or any(_below(key, parent) for parent in IRRELEVANT)


def _values_compared(runs: list[_Saved], by: str, folder: Path) -> list[str]:
    """Return the name of the compared value of each run: the choice, and the settings of it that differ."""
    choices = [_choice(run, by) for run in runs]
    names = []
    for run, choice in zip(runs, choices, strict=True):
        if choice == FROZEN:
            names.append(choice)
            continue
        alike = [other for other, theirs in zip(runs, choices, strict=True) if theirs == choice]
        keys = [key for key in run.settings if _below(key, by) and key != by and not _irrelevant(key)]
        varied = [key for key in keys if len({other.settings.get(key) for other in alike}) > 1]
        names.append(" ".join([choice, *(f"{key.removeprefix(f'{by}.')}={run.settings[key]}" for key in varied)]))
    if len(set(names)) < 2:
        raise InputError(
            f"by={by} has one value here, {names[0]}; a comparison takes two; what differs is "
            f"{_differing(runs, folder)}"
        )
    return names


def _choice(run: _Saved, group: str) -> str:
    """Return the name of the choice from a group, or the class name of its target if the name is unknown."""
    if group == "head" and run.frozen:
        return FROZEN
    name = run.value(group)
    return name if name != ABSENT else run.settings.get(f"{group}._target_", ABSENT).rpartition(".")[2]


def _differing(runs: list[_Saved], folder: Path) -> str:
    """Return the keys that runs can be compared by, and a command: swept settings (not experiment), or else choices."""
    for kind in ("overrides", "choices", "settings"):
        keys = dict.fromkeys(
            key for run in runs for key in getattr(run, kind) if key != "seed" and not _irrelevant(key)
        )
        held = [key for key in keys if any(_below(setting, key) for run in runs for setting in run.settings)]
        differing = [key for key in held if len({run.value(key) for run in runs}) > 1]
        if differing:
            command = ["metrad", "compare", argument(folder), "--by", argument(differing[0])]
            return f"{', '.join(differing)}, as in: {' '.join(command)}"
    return "nothing but the seed"


def _conditions(runs: list[_Saved], by: str, names: list[str]) -> list[str]:
    """Return the dataset and every other swept key: runs of one compared value and seed differ in it.

    Other differing keys are no conditions. They occur if two commands with different settings wrote to one folder.
    """
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    swept = []
    for key in ("dataset", *keys):
        if _below(key, by) or key == "seed" or _irrelevant(key) or key in swept:
            continue
        seen: dict[tuple[str, str], set[str]] = {}
        for run, name in zip(runs, names, strict=True):
            seen.setdefault((name, run.value("seed")), set()).add(_choice(run, key))
        if key == "dataset" or any(len(values) > 1 for values in seen.values()):
            swept.append(key)
    return swept


def _row(run: _Saved, by: str, name: str, conditions: list[str]) -> dict[str, Any]:
    finished = run.state == "finished"
    return {
        "folder": str(run.run.path.resolve()),
        "run": run.name,
        "state": run.state,
        "error": contents.UNMEASURED if contents.is_unmeasured(run.metrics) else run.error,
        "seed": _number(run.value("seed")),
        **{key: _choice(run, key) for key in conditions},
        by: name,
        **{metric: _metric(run, metric) if finished else math.nan for metric in by_name()},
        "seconds": _seconds(run) if finished else math.nan,
    }


def _number(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdecimal() else text


def _metric(run: _Saved, name: str) -> float:
    """Return a metric of a finished run; NaN if the version of metrad that made the run lacks the metric.

    It is NaN too if the run has no anomalous test images.
    """
    if name not in run.metrics or contents.is_unmeasured(run.metrics):
        return math.nan
    value = run.metrics[name]
    if not is_value(value):
        raise InputError(f"{run.run.metrics}: {name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def _seconds(run: _Saved) -> float:
    noted = run.metrics.get("seconds", {})
    total = noted.get("total", math.nan) if isinstance(noted, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float):
        raise InputError(f"{run.run.metrics}: seconds.total must be a number, got {noted!r}")
    return float(total)


def _refuse_unlike(runs: list[_Saved], rows: list[dict[str, Any]], by: str, conditions: list[str]) -> None:
    """Raise ``InputError`` if finished runs of a condition differ in a setting, or runs of one seed in images."""
    firsts: dict[tuple[Any, ...], tuple[_Saved, dict[str, str]]] = {}
    finished = [(run, row) for run, row in zip(runs, rows, strict=True) if run.state == "finished"]
    for run, row in sorted(finished, key=lambda pair: pair[0].frozen):
        condition = tuple(row[key] for key in conditions)
        settings = {k: v for k, v in run.settings.items() if not (_below(k, by) or k == "seed" or _irrelevant(k))}
        if by == "head" and run.frozen and condition in firsts:  # a frozen run is compared with trained runs
            settings[EPOCHS] = firsts[condition][1].get(EPOCHS, settings[EPOCHS])
        _require_like(firsts, condition, run, settings, by)
        if not _below(by, "dataset"):
            images = {"sizes": run.metrics.get("sizes"), "split": run.metrics.get("split")}
            _require_like(firsts, (*condition, row["seed"]), run, dict(_leaves(images)), by)


def _require_like(
    firsts: dict[tuple[Any, ...], tuple[_Saved, dict[str, str]]],
    place: tuple[Any, ...],
    run: _Saved,
    settings: dict[str, str],
    by: str,
) -> None:
    first, expected = firsts.setdefault(place, (run, settings))
    for key in dict.fromkeys([*expected, *settings]):
        ours, theirs = settings.get(key, ABSENT), expected.get(key, ABSENT)
        if ours != theirs:
            raise InputError(
                f"{key} is {theirs} in {first.name} and {ours} in {run.name}; "
                f"runs that are compared by {by} must be alike in all but {by} and the seed"
            )
