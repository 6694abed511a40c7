"""Errors of Hydra's and OmegaConf's in one line that says what is allowed."""

import re
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from metrad.runs.config.catalogue import choices, folder, suggestion
from metrad.runs.config.schema import Config


def explain(error: BaseException) -> str:
    """Return an error of Hydra's or OmegaConf's as one line that names the key and what is allowed."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    added = re.match(r"Key '[^']+' not in '\w+' full_key: (\S+)", text)
    if added:
        return unknown_key(added[1], OmegaConf.structured(Config))
    unknown = re.search(r"Could not (?:override|append to config)[^']*'([^']+)'", text)
    if unknown and re.search(r"Key '[^']+'(?: is)? not in", text):
        of_hydra = unknown[1].startswith("hydra.")
        return unknown_key(unknown[1], _composed(of_hydra=of_hydra))
    choice = re.search(r"Could not find '([\w/]+)/([^'/]+)'", text)
    available = re.search(r"Available options in '[^']+': (.*?) Config search path", text + " Config search path")
    if choice and available:
        return f"{choice[1]}={choice[2]} is no choice; {suggestion(choice[2], available[1].split())}"
    return _of_a_value(text)


def _of_a_value(text: str) -> str:
    """Return what an error says of a value that some part cannot take, without what surrounds it."""
    raised = re.search(r"Error in call to target '[^']+': \w+\((['\"])(.*?)\1\)", text)
    if raised:
        return raised[2]
    no_list = re.search(r"Invalid value assigned: (\w+) is not a ListConfig, list or tuple\. full_key: (\S+)", text)
    if no_list:
        return f"{no_list[2]} must be a list, such as [A,B], not a single value ({no_list[1]})"
    wrong = re.search(r"(Value '.*) full_key: (\S+)", text)
    if not wrong:
        return text
    return f"{wrong[2]}: {wrong[1]}" + ("; true and false are" if "is not a valid bool" in wrong[1] else "")


def explain_null(overrides: list[str]) -> str | None:
    """Return a line on the first override of a setting in a part that is null as it is configured, if there is one."""
    composed = _composed()
    for item in overrides:
        key = item.partition("=")[0].lstrip("+")
        part = key.partition(".")[0]
        if part != key and part in composed and composed[part] is None:
            return f"{key} cannot be set: {part} is null; choose {part}=, one of {', '.join(choices().get(part, ()))}"
    return None


def _composed(*, of_hydra: bool = False) -> DictConfig:
    """Return the configuration with nothing but the choices of the command line, and Hydra's own where asked."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    groups = (*choices(), "hydra/launcher", "hydra/sweeper")
    chosen = [item for item in sys.argv[1:] if re.fullmatch(r"[\w/]+=\w+", item) and item.split("=")[0] in groups]
    own = re.search(r"\0(?:--config-dir|-cd)[\0=]([^\0]+)", "\0".join(sys.argv))
    if own:
        chosen.append(f"hydra.searchpath=['file://{Path(own[1]).resolve()}']")
    with initialize_config_dir(str(folder()), version_base="1.3"):
        try:
            return compose("config", chosen, return_hydra_config=of_hydra)
        except (HydraException, ValueError):  # what was chosen is at fault itself
            return compose("config", return_hydra_config=of_hydra)


def unknown_key(key: str, node: DictConfig) -> str:
    """Return a line on a ``key`` that ``node`` does not know, with what is allowed in its place."""
    parent, _, name = key.rpartition(".")
    while parent and not isinstance(OmegaConf.select(node, parent), DictConfig):
        parent, _, name = parent.rpartition(".")
    found = OmegaConf.select(node, parent) if parent else node
    return f"unknown configuration key {key}; {suggestion(name, [str(item) for item in found])}"
