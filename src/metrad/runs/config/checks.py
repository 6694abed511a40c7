"""Configuration: the checks before anything is read, and the one place that builds parts from it."""

import inspect
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from metrad.errors import InputError
from metrad.runs.config.build import locate, targets
from metrad.runs.config.catalogue import suggestion
from metrad.runs.config.explain import explain, unknown_key
from metrad.runs.config.schema import Config
from metrad.runs.identity import WITHOUT_IDENTITY
from metrad.runs.naming import run_name, sweep_name

PARTS = ("head", "backbone", "scorer", "augmentation", "optimizer", "scheduler", "trainer", "logger")
SELECTABLE = (  # by selection.candidates
    *("augmentation", "backbone", "batch_size", "finetuning", "head", "image_size", "optimizer", "scheduler"),
    *("test_time_flip", "trainer", "whiten"),
)
MAY_BE_EMPTY = ("augmentation", "scheduler", "logger")
_RUN_TIME_ARGUMENTS = {"in_features", "num_classes", "optimizer", "params", "save_dir"}
_RUN_TIME_ARGUMENTS |= {"callbacks", "default_root_dir", "logger"}  # of the trainer


def register() -> None:
    """Make the schema and the resolvers ``run_name`` and ``sweep_name`` known to Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_name", lambda seed: run_name(HydraConfig.get(), seed), replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


def check(cfg: DictConfig) -> None:
    """Check everything that can be told before data is read.

    Raises:
        InputError: a value is missing, unknown, of a wrong type or out of range; the message names the key.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise InputError(f"{', '.join(missing)} must be set, as in: {missing[0]}=VALUE")
    try:
        plain = OmegaConf.create(OmegaConf.to_container(cfg))
        resolved: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Config), plain), resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from error
    _check_ranges(resolved)
    for part in (*PARTS, "dataset.source"):
        node = resolved["dataset"]["source"] if part == "dataset.source" else resolved[part]
        if "_target_" not in node and (node or part not in MAY_BE_EMPTY):
            raise InputError(f"{part}._target_ must name the class to build")
        for key, found in targets(part, node):
            _check_call(key, found, resolved["allow_targets"])
    if resolved["selection"] is not None:
        _check_selection(cfg, resolved)


def with_settings(cfg: DictConfig, settings: Mapping[str, Any]) -> DictConfig:
    """Return a copy of ``cfg`` with ``settings``, by their dotted keys, and without a selection.

    Raises:
        InputError: a key is none that a selection may choose, or unknown.
    """
    changed = cfg.copy()
    OmegaConf.set_struct(changed, True)
    changed.selection = None
    for key, value in settings.items():
        group, _, name = key.partition(".")
        nothing = group not in SELECTABLE or (not name and isinstance(cfg[group], DictConfig))
        if nothing or key in WITHOUT_IDENTITY:
            raise InputError(
                f"selection.candidates: {key} is nothing to choose; settings of {', '.join(SELECTABLE)} are, such as "
                "optimizer.lr (a head or a backbone itself is chosen by comparing runs)"
            )
        try:
            OmegaConf.update(changed, key, value, merge=True)
        except (ConfigAttributeError, ConfigKeyError) as error:
            raise InputError(f"selection.candidates: {unknown_key(key, cfg)}") from error
        except OmegaConfBaseException as error:
            raise InputError(f"selection.candidates: {explain(error)}") from error
    return changed


def _check_selection(cfg: DictConfig, resolved: dict[str, Any]) -> None:
    selection = resolved["selection"]
    classes = selection["classes"]
    one_by_one = [classes] if isinstance(classes, int | str) else classes or []
    rules = {
        "selection.candidates": (bool(selection["candidates"]), "a list of at least one choice, such as [{}]"),
        "selection.normal_share": (0 < selection["normal_share"] < 1, "between 0 and 1"),
        "selection.classes": (
            classes is None
            or (bool(one_by_one) and _are_classes(one_by_one) and (not isinstance(classes, int) or classes >= 1)),
            "null, a count of at least 1, or a list of class names or numbers",
        ),
    }
    _require(rules, resolved)
    twice = [settings for i, settings in enumerate(selection["candidates"]) if settings in selection["candidates"][:i]]
    if twice:
        raise InputError(f"selection.candidates names {twice[0]} twice; each is trained with once")
    for name, node in selection["scorers"].items():
        key = f"selection.scorers.{name}"
        if name == "scorer":
            raise InputError(
                f"{key} cannot be set: scorer is the run's own, which is compared anyway; take another name"
            )
        if not isinstance(node, dict) or "_target_" not in node:
            raise InputError(f"{key} must be a scorer, as by: +scorer@{key}=knn")
        _check_call(key, node, resolved["allow_targets"])
    for settings in selection["candidates"]:
        changed = with_settings(cfg, settings)
        check(changed)
        epochs = changed.trainer.get("max_epochs")
        if not isinstance(epochs, int) or epochs < 0:
            raise InputError(
                f"selection chooses among up to trainer.max_epochs epochs, which must be at least 0, got {epochs}"
            )


def _check_ranges(cfg: dict[str, Any]) -> None:
    dataset, finetuning = cfg["dataset"], cfg["finetuning"]
    rules = {
        "seed": (cfg["seed"] >= 0, "at least 0"),
        "image_size": (cfg["image_size"] is None or cfg["image_size"] >= 1, "at least 1, or null"),
        "batch_size": (cfg["batch_size"] >= 2, "at least 2"),
        "compile": (cfg["compile"] == "auto" or isinstance(cfg["compile"], bool), "auto, true or false"),
        "dataset.on_corrupt": (dataset["on_corrupt"] in ("error", "skip"), "error or skip"),
        "dataset.test_share": (0 < dataset["test_share"] < 1, "between 0 and 1"),
        "dataset.memory_limit_gib": (dataset["memory_limit_gib"] >= 0, "at least 0"),
        "dataset.disk_limit_gib": (dataset["disk_limit_gib"] >= 0, "at least 0"),
        "dataset.workers": (dataset["workers"] >= 0, "at least 0"),
        "finetuning.layer_decay": (0 <= finetuning["layer_decay"] <= 1, "between 0 and 1"),
        "finetuning.distillation": (0 <= finetuning["distillation"] < math.inf, "at least 0"),
        "finetuning.ema": (finetuning["ema"] is None or 0 < finetuning["ema"] < 1, "between 0 and 1, or null"),
        "evaluation.level": (0 < cfg["evaluation"]["level"] < 1, "between 0 and 1"),
        "evaluation.resamples": (cfg["evaluation"]["resamples"] >= 100, "at least 100"),
        "evaluation.false_alarm_rates": (_are_rates(cfg["evaluation"]["false_alarm_rates"]), _RATES),
        "trainer.accumulate_grad_batches": (cfg["trainer"].get("accumulate_grad_batches", 1) != 0, "at least 1"),
        "trainer.enable_progress_bar": (
            cfg["trainer"].get("enable_progress_bar", "auto") in ("auto", True, False),
            "auto, true or false",
        ),
    }
    _require(rules, cfg)
    open_roles = [role for role in ("normal", "anomalous", "reference") if dataset[role] is None]
    if len(open_roles) > 1:
        raise InputError(
            f"only one of dataset.{' and dataset.'.join(open_roles)} can be null (all classes that are left); "
            f"list the classes of {'the others' if len(open_roles) > 2 else 'the other'}, such as dataset.reference=[]"
        )
    for role in ("normal", "anomalous", "reference"):
        value = dataset[role]
        if not _are_classes(value if isinstance(value, list) else [] if value is None else [value]):
            raise InputError(f"dataset.{role} must list class names or numbers, got {value}")
    ckpt_path = cfg["ckpt_path"]
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise InputError(f"ckpt_path={ckpt_path}: no such file; give RUN/checkpoints/last.ckpt of an interrupted run")


def _require(rules: Mapping[str, tuple[Any, str]], cfg: dict[str, Any]) -> None:
    """Raise ``InputError`` for the first rule, by the key that it is about, that does not hold."""
    for key, (holds, allowed) in rules.items():
        if not holds:
            group, _, name = key.rpartition(".")
            raise InputError(f"{key} must be {allowed}, got {(cfg[group] if group else cfg)[name]}")


def _are_classes(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(i, str | int) and not isinstance(i, bool) for i in items)


_RATES = "a list of different rates between 0 and 1, such as [0.01,0.05], or null"


def _are_rates(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(isinstance(rate, int | float) and 0 < rate < 1 for rate in value)
        and len(set(value)) == len(value)
    )


def _check_call(key: str, node: dict[str, Any], extra: list[str]) -> None:
    """Check the settings in ``node`` against the signature of what it builds: names first, then types."""
    from pydantic import PydanticUserError, ValidationError

    found = locate(key, node["_target_"], extra)
    parameters = inspect.signature(found).parameters
    settings = {name: value for name, value in node.items() if not re.fullmatch(r"_\w+_", name)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        known = [name for name in parameters if name not in _RUN_TIME_ARGUMENTS]
        for name in settings:
            if name not in known and name not in _RUN_TIME_ARGUMENTS:
                raise InputError(f"unknown configuration key {key}.{name}; {suggestion(name, known)}")
    for name in settings:
        if name in _RUN_TIME_ARGUMENTS:
            raise InputError(f"{key}.{name} cannot be set: metrad sets it itself; leave it out")
    for name, parameter in parameters.items():
        given = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in _RUN_TIME_ARGUMENTS
        if parameter.default is parameter.empty and not given and name not in settings:
            raise InputError(f"{key}.{name} must be set: {node['_target_']} cannot do without")
    for name, value in settings.items():
        if (isinstance(value, dict) and "_target_" in value) or (key, name) in _OWN_VALUES:
            continue
        adapter = _adapter(found, name)
        try:
            if adapter is not None:  # without strictness true would pass for the number 1
                adapter.validate_python(value, strict=isinstance(value, bool))
        except ValidationError as error:
            wanted = "; ".join(dict.fromkeys(item["msg"] for item in error.errors()))
            raise InputError(f"{key}.{name}={value} has a wrong type or value: {wanted}") from error
        except PydanticUserError:  # no schema for this annotation: the class itself has the last word
            continue


@cache
def _adapter(found: Any, name: str) -> Any:
    """Return what checks the type of the argument ``name`` of ``found``; None where its annotation cannot tell.

    A sweep checks the same classes for each run, and making this takes longer than using it.
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
        return TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True)) if name in hints else None
    except (NameError, TypeError, PydanticUserError):  # annotations for type checkers alone, or without a schema
        return None


# auto is metrad's own word for these; Lightning checks the rest
_OWN_VALUES = {("trainer", "precision"), ("trainer", "enable_progress_bar")}
