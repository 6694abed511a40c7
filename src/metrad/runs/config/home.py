"""``~`` at the beginning of a path in the configuration, as users write it in their own YAML files."""

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

_AT_HOME = re.compile(r"~($|/)")


def expanded(path: str) -> str:
    """Return ``path`` with the user's home in place of a ``~`` at its beginning."""
    return str(Path(path).expanduser()) if _AT_HOME.match(path) else path


def expand_home(cfg: DictConfig) -> DictConfig:
    """Return a copy of ``cfg`` in which every text that begins with ``~/`` begins with the user's home."""
    copy = cfg.copy()
    _expand(copy)
    return copy


def _expand(node: DictConfig) -> None:
    for key in map(str, node):
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            _expand(value)
        elif isinstance(value, str) and expanded(value) != value:
            node[key] = expanded(value)
