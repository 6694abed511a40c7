"""Errors of Hydra and OmegaConf, explained in one line that says what is allowed."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import BooleanNode, DictConfig, ListConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from metrad.quoting import argument
from metrad.runs.config.catalogue import choices, folder
from metrad.runs.config.fields import shown
from metrad.runs.config.schema import SETTINGS, such_as
from metrad.runs.config.suggestions import unknown_choice, unknown_name


def explain(error: BaseException, given: Sequence[str] = ()) -> str:
    """Return an error of Hydra or OmegaConf as one line that names the key and what is allowed.

    Args:
        error: the error.
        given: the arguments of the command, which may contain a mistyped key in full.
    """
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = error.options or choices().get(group)
        if options:
            return unknown_choice(group, name, options)
    if isinstance(error, InstantiationException) and error.__cause__:
        return " ".join(str(error.__cause__).split())
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return _in_file(error) + _of_a_key(cause, given)
    if isinstance(cause, ValidationError) and cause.full_key:
        return _in_file(error) + _of_a_value(cause)
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    removed = re.match(r"Could not delete (?:from config\. )?'([^']+)'", text)
    if removed:
        return f"~{removed[1]} removes what is not there: the key is unknown or null; leave it out"
    short = re.sub(r" full_key: .*", "", text)  # OmegaConf's own types, and a key that only refers to the setting
    return _of_a_kind(text, given) or short + _interpolated(text, given)


def _of_a_kind(text: str, given: Sequence[str]) -> str | None:
    """Return a line on a setting that is given a list in place of a mapping, or a mapping in place of a list."""
    found = re.search(r"Cannot merge DictConfig with ListConfig full_key: ([\w.]+)", text)
    if not found:
        return None
    override = next((one for one in _overrides(given) if one.key_or_group == found[1]), None)
    if override is None:
        return None
    if isinstance(override.value(), dict):
        return f"{found[1]} must be a list, such as [A,B], not a mapping"
    return f"{found[1]} holds settings and takes no list; set one of them, as in {found[1]}.NAME=VALUE"


def _interpolated(text: str, given: Sequence[str]) -> str:
    """Return the settings that refer to others, for an error of such a reference; else the one that the error names."""
    if "nterpolation" not in text:
        return ""
    named = re.search(r"full_key: (?!hydra)([\w.]+)", text)
    found = [argument(item) for item in given if "${" in item] or ([named[1]] if named else [])
    return "".join(f"; see {item}" for item in found)


def _in_file(error: BaseException) -> str:
    """Return the beginning of a line on an error in a YAML file; empty if the error is not in a file.

    Hydra names the file without its ending, and only in the text of its error.
    """
    found = re.match(r"In '([^']+)': ", str(error))
    return f"{found[1]}.yaml: " if found else ""


def _of_a_key(error: ConfigAttributeError | ConfigKeyError, given: Sequence[str]) -> str:
    """Return a line on an unknown key.

    OmegaConf reports a key only up to its first unknown part, so the whole key is looked up in ``given``.
    """
    keys = [override.key_or_group for override in _overrides(given)]
    key = next((key for key in keys if f"{key}.".startswith(f"{error.full_key}.")), error.full_key)
    parent = error.parent_node
    known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
    if error.full_key == error.key:  # at the top level, which also holds Hydra's own settings
        known = [name for name in known if name != "hydra"]
    return unknown_name(str(key), str(error.key), known)


def _of_a_value(error: ValidationError) -> str:
    """Return a line on a value that its key does not accept."""
    given_list = isinstance(error.value, list | tuple | ListConfig)
    if isinstance(error.child_node, ListConfig) and error.value is not None and not given_list:
        kind = type(error.value).__name__
        return f"{error.full_key} must be a list, such as [A,B], not a single value ({kind})"
    hint = "; true and false are" if isinstance(error.child_node, BooleanNode) and error.value is not None else ""
    setting = SETTINGS.get(str(error.full_key))
    hint += f"; it must {setting.must}" if setting and setting.must else ""
    if error.value is None:
        return f"{error.full_key} cannot be null{hint or '; leave it out'}"
    if isinstance(error.child_node, DictConfig) or re.search(r"not a subclass|Cannot assign", str(error)):
        name = str(error.full_key)
        return f"{name} holds settings and takes no value itself; set one of them, as in {name}.NAME=VALUE"
    text = str(error).splitlines()[0].replace(str(error.value), shown(error.value))
    return f"{error.full_key}: {text}{hint}{such_as(str(error.full_key))}"


def explain_null(given: Sequence[str]) -> str | None:
    """Return a line on the first override of a setting whose part is null, if there is one."""
    overrides = _overrides(given)
    composed = _composed(overrides, _config_dir(given))
    for key in (override.key_or_group for override in overrides):
        part = key.partition(".")[0]
        if part != key and part in composed and composed[part] is None:
            return f"{key} cannot be set: {part} is null; choose {part}=, one of {', '.join(choices().get(part, ()))}"
    return None


def explain_choice(given: Sequence[str]) -> str | None:
    """Return a line on the first override of a part by null or a number, if there is one."""
    for override in _overrides(given):
        group, value = override.key_or_group, override.value()
        if group in choices() and not override.is_delete() and (value is None or isinstance(value, int | float)):
            return unknown_choice(group, "null" if value is None else str(value), choices()[group])
    return None


def _overrides(given: Sequence[str]) -> list[Override]:
    """Return the overrides among the arguments of a command."""
    parser, found = OverridesParser.create(), []
    for item in given:
        try:
            found += parser.parse_overrides([item])
        except (OverrideParseException, ValueError):  # a flag, or the faulty override itself
            continue
    return found


def _config_dir(given: Sequence[str]) -> str | None:
    """Return the value of ``--config-dir`` among the arguments of a command; None without it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd")
    found: str | None = parser.parse_known_args(given)[0].config_dir
    return found


def _composed(overrides: Sequence[Override], config_dir: str | None) -> DictConfig:
    """Return the configuration composed from only those ``overrides`` that choose a part."""
    from hydra import compose, initialize_config_dir

    chosen = [item.input_line for item in overrides if item.key_or_group in choices() and not item.is_sweep_override()]
    lines = [line for line in chosen if line is not None]
    if config_dir is not None:
        lines.append(f"hydra.searchpath=['file://{Path(config_dir).resolve()}']")
    with initialize_config_dir(str(folder()), version_base="1.3"):
        try:
            return compose("config", lines)
        except (HydraException, AssertionError, TypeError, ValueError):  # a choice is faulty itself
            return compose("config")
