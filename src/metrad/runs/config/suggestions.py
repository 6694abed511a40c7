"""Suggestions for a mistyped name: "did you mean …?", and the names that are allowed."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown ``name``: the closest name, if one is close, and all allowed names."""
    public = sorted(item for item in known if not item.startswith("_"))
    close = difflib.get_close_matches(name, public, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"allowed: {', '.join(public) or 'no settings here'}"


def unknown_choice(group: str, name: str, known: Iterable[str]) -> str:
    """Return a line on a ``name`` that is no choice of ``group``."""
    return f"{group}={name} is no choice; {suggestion(name, known)}"


def unknown_key(key: str, node: "DictConfig") -> str:
    """Return a line on a ``key`` that is not in ``node``, with the allowed keys."""
    from omegaconf import DictConfig, OmegaConf

    parent, _, name = key.rpartition(".")
    while parent and not isinstance(OmegaConf.select(node, parent), DictConfig):
        parent, _, name = parent.rpartition(".")
    found = OmegaConf.select(node, parent) if parent else node
    return unknown_name(key, name, (str(item) for item in found))


def unknown_name(key: str, name: str, known: Iterable[str]) -> str:
    """Return a line on a ``key`` whose part ``name`` is unknown where ``known`` names are allowed."""
    from metrad.runs.config.schema import RANGES, SETTINGS

    names = list(known)
    elsewhere = [found for found in (*SETTINGS, *RANGES) if f".{found}".endswith(f".{name.replace('/', '.')}")]
    meant = f"did you mean {' or '.join(dict.fromkeys(elsewhere))}? " if elsewhere and name not in names else ""
    return f"unknown configuration key {key}; {meant}{suggestion(name, names)}"
