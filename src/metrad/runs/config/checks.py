"""The checks of a configuration before data is read."""

import inspect
import re
from collections.abc import Collection, Mapping
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from metrad.detector import targets
from metrad.errors import InputError
from metrad.renamed import present
from metrad.runs.config.explain import explain
from metrad.runs.config.fields import Rule, shown
from metrad.runs.config.roles import role_of
from metrad.runs.config.schema import (
    OF_TRAINER,
    PARTS,
    RANGES,
    SELECTABLE,
    SETTINGS,
    WITHOUT_IDENTITY,
    Config,
    SweepSettings,
    refusal,
    such_as,
)
from metrad.runs.config.secrets import require_hidden
from metrad.runs.config.suggestions import suggestion, unknown_key
from metrad.runs.naming import run_name, sweep_name

_RUN_TIME_ARGUMENTS = {name for part in PARTS.values() for name in part.given}


def register() -> None:
    """Register the schema and the resolvers ``run_name`` and ``sweep_name`` with Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_name", lambda seed: run_name(HydraConfig.get(), seed), replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


def check(cfg: DictConfig, built: Collection[str] | None = None) -> list[DictConfig]:
    """Check everything in a configuration that needs no data.

    Args:
        cfg: the configuration.
        built: keys of the parts whose settings are checked against their classes; None for all parts.

    Returns:
        The configuration of a training with each candidate of the selection; none without a selection.

    Raises:
        InputError: a value is missing, unknown, of a wrong type or out of range; the message names the key.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            hint = "; without images of anomalies, dataset.anomalous=[]" if "dataset.anomalous" in missing else ""
            raise InputError(f"{', '.join(missing)} must be set, as in: {missing[0]}=VALUE{hint}")
        plain: Any = OmegaConf.create(OmegaConf.to_container(cfg))
        resolved: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Config), plain), resolve=True)
        Config(**resolved)
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from error
    except ValidationError as error:
        raise InputError(refusal(error)) from error
    ckpt_path = resolved["ckpt_path"]
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise InputError(f"ckpt_path={ckpt_path}: no such file; give RUN/checkpoints/last.ckpt of an interrupted run")
    for name, part in PARTS.items():
        node: Any = reduce(getitem, name.split("."), resolved)
        if "_target_" not in node and (node or not part.may_be_empty):
            raise InputError(f"{name}._target_ must name the class to build")
        if name == "logger" and built is None:
            require_hidden(name, OmegaConf.to_container(plain[name]))
        if node and (built is None or name in built):
            _check_calls(name, node, resolved["allow_targets"])
            if name != "scheduler" or resolved["trainer"].get("max_epochs") != 0:  # T_max=${trainer.max_epochs}, unused
                _check_ranges(name, node, part.ranges)
    if built is None:
        _require_trainer(resolved["trainer"])
    return [] if resolved["selection"] is None else _candidates(cfg, resolved)


def _require_trainer(trainer: Mapping[str, Any]) -> None:
    """Check that no setting of the trainer that every training reads was removed, or left out in a YAML file."""
    for name, default in OF_TRAINER.items():
        if name not in trainer:
            raise InputError(f"trainer.{name} must be set, and is not; set trainer.{name}={default}")


def require_here(hydra: Any) -> None:
    """Raise ``InputError`` if Hydra's configuration ``hydra`` asks for work in the folder of the run."""
    if hydra.job.chdir:
        raise InputError(
            "hydra.job.chdir=true is not supported: paths in settings, such as dataset.source.root, are relative to "
            "the folder that the command starts in; leave it out"
        )


def check_sweep(cfg: DictConfig) -> None:
    """Check the settings of a whole sweep, before it begins; ``cfg`` contains Hydra's.

    Raises:
        InputError: a value has a wrong type, or Hydra is asked for what it cannot do here; the message names the key.
    """
    require_here(cfg.hydra)
    given: Any = OmegaConf.to_container(cfg.sweep)
    try:
        SweepSettings(**given)
    except ValidationError as error:
        raise InputError(refusal(error, "sweep")) from error


def with_settings(cfg: DictConfig, settings: Mapping[str, Any]) -> DictConfig:
    """Return a copy of ``cfg`` with ``settings``, given by dotted keys, and without a selection.

    Raises:
        InputError: a key is unknown, or a selection may not choose its value.
    """
    changed = cfg.copy()
    OmegaConf.set_struct(changed, True)
    changed.selection = None
    for key, value in settings.items():
        group, _, name = key.partition(".")
        nothing = group not in SELECTABLE or (not name and isinstance(cfg[group], DictConfig))
        if nothing or key in WITHOUT_IDENTITY:
            raise InputError(
                f"selection.candidates: {key} cannot be chosen; give settings of {', '.join(SELECTABLE)}, such as "
                "optimizer.lr (compare runs to choose a head or a backbone)"
            )
        try:
            OmegaConf.update(changed, key, value, merge=True)
        except (ConfigAttributeError, ConfigKeyError) as error:
            raise InputError(f"selection.candidates: {unknown_key(key, cfg)}") from error
        except OmegaConfBaseException as error:
            raise InputError(f"selection.candidates: {explain(error)}") from error
    return changed


def _candidates(cfg: DictConfig, resolved: dict[str, Any]) -> list[DictConfig]:
    """Check a selection and return the configuration of each candidate."""
    selection = resolved["selection"]
    for name, node in selection["scorers"].items():
        key = f"selection.scorers.{name}"
        if name == "scorer":
            raise InputError(
                f"{key} cannot be set: scorer is the run's own scorer, which always takes part; choose another name"
            )
        if not isinstance(node, dict) or "_target_" not in node:
            raise InputError(f"{key} must be a scorer, as by: +scorer@{key}=knn")
        _check_calls(key, node, resolved["allow_targets"])
        _check_ranges(key, node, PARTS["scorer"].ranges)
    candidates = [with_settings(cfg, settings) for settings in selection["candidates"]]
    for changed in candidates:
        check(changed)
    return candidates


def _check_ranges(key: str, node: dict[str, Any], ranges: Mapping[str, Rule]) -> None:
    """Check the numbers among the settings in ``node``. A class of the user's own has ranges of its own."""
    if not present(node["_target_"]).startswith(tuple(f"{module}." for module in role_of(key).modules)):
        return
    for name, rule in ranges.items():
        if name in node and not rule.holds(node[name]):
            must = f"{key}.{name} must {rule.must}, got {shown(node[name])}"
            raise InputError(must + such_as(f"{key}.{name}"))


def _check_calls(key: str, node: dict[str, Any], allow: list[str]) -> None:
    """Check the targets in the settings ``node`` of a part by role, then the settings of each target."""
    role = role_of(key)
    targets.check(key, node, role, allow)
    for name, inner in targets.named(key, node):
        found = targets.located(name, inner["_target_"], targets.role_inside(key, name, role), allow)
        _check_call(name, inner, found)


def _check_call(key: str, node: dict[str, Any], found: Any) -> None:
    """Check the settings in ``node`` against the signature of its target ``found``: names first, then types."""
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
            raise InputError(f"{key}.{name} must be set: {node['_target_']} needs it")
    for name, value in settings.items():
        setting = SETTINGS.get(f"{key}.{name}")
        if (isinstance(value, dict) and "_target_" in value) or (setting and setting.key.own_values):
            continue
        _check_type(f"{key}.{name}", value, _adapter(found, name))


def _check_type(key: str, value: Any, adapter: Any) -> None:
    """Check the type of a value; an adapter of None accepts every value."""
    try:
        if adapter is None:
            return
        read = adapter.validate_python(value, strict=isinstance(value, bool))  # else true would pass for the number 1
    except ValidationError as error:
        wanted = "; ".join(dict.fromkeys(_words(item["msg"]) for item in error.errors() if "Tensor" not in item["msg"]))
        wanted += f"; it must {RANGES[key].must}" if key in RANGES else ""
        raise InputError(f"{key}={shown(value)} has a wrong type or value: {wanted}{such_as(key)}") from error
    except PydanticUserError:  # no schema for this annotation: the class checks the value itself
        return
    if not _same_kind(value, read):
        raise InputError(
            f"{key}={shown(value)} has a wrong type: write {key}={shown(read)}, a value of type {type(read).__name__}"
        )


def _words(message: str) -> str:
    """Return a message of pydantic in the words of YAML."""
    return _YAML_WORDS.get(message, message)


_YAML_WORDS = {"Field required": "an item is missing", "Input should be a valid tuple": "Input should be a list"}


def _same_kind(value: Any, read: Any) -> bool:
    """Return whether pydantic read a value without converting it, as it does with "3" and 3.0 for a whole number."""
    if isinstance(value, list | tuple) and isinstance(read, list | tuple):
        return all(_same_kind(*pair) for pair in zip(value, read, strict=True))
    converted = isinstance(value, str | float) and isinstance(read, bool | int | float)
    return not converted or type(value) is type(read)


@cache
def _adapter(found: Any, name: str) -> Any:
    """Return an adapter that checks the type of argument ``name`` of ``found``; None if its annotation cannot be used.

    It is cached, because a sweep checks the same classes for each run and making an adapter is slow.
    """
    try:
        hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
        return TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True)) if name in hints else None
    except (NameError, TypeError, PydanticUserError):  # annotations for type checkers alone, or without a schema
        return None
