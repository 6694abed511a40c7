"""The strict reader of the YAML files in a run directory.

A few lines of YAML can stand for billions of values: by aliases, which YAML copies, and by interpolations, which
OmegaConf copies. metrad writes no aliases, so they are refused; interpolations may grow a configuration only so far.
"""

import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from metrad.errors import InputError
from metrad.files import DEPTH, read_bytes

YAML_BYTES = 2**20
NODES = 50_000  # largest number of values in a file
MOST_IN_A_TEXT = 20  # interpolations; OmegaConf takes long to read many
GROWTH = 2**22  # largest number of values and characters after all interpolations are resolved
_FOLLOWED = re.compile(r"(?:[^$]|\$(?!\{)|\$\{[\w.]+\})*")  # every other text stays text: see config/stored.py
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")  # YAML 1.1 reads 1:30 as 90
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def read_yaml(path: Path) -> DictConfig | ListConfig:
    """Return the content of a YAML file, with its interpolations unresolved.

    Raises:
        InputError: the file cannot be read.
    """
    return yaml_of(read_bytes(path, YAML_BYTES), path)


def config_of(data: bytes, path: Path) -> DictConfig:
    """Return the configuration in the YAML file at ``path`` from its bytes; it may be resolved once it is inert.

    Raises:
        InputError: it cannot be read, is no mapping, or its references stand for too many values.
    """
    cfg = yaml_of(data, path)
    if not isinstance(cfg, DictConfig):
        raise InputError(f"{path} holds no configuration")
    plain: Any = OmegaConf.to_container(cfg)
    _require_names(plain, path)
    _require_bounded(plain, path)
    return cfg


def yaml_of(data: bytes, path: Path) -> DictConfig | ListConfig:
    """Return the content of the YAML file at ``path`` from its bytes; see ``read_yaml``."""
    try:
        text = data.decode("utf-8")
        _require_small(text, path)
        content = OmegaConf.load(io.StringIO(text))
    except InputError:
        raise
    except Exception as error:  # errors of YAML, OmegaConf, its grammar and Python's numbers share no base
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())[:300]})") from error
    return content


def is_base_60(text: str) -> bool:
    """Return whether YAML reads ``text``, such as 1:30, as a number in base 60, which nobody means by it."""
    return bool(_BASE_60.fullmatch(text))


def made_by_metrad(path: Path) -> bool:
    """Return whether the YAML file at ``path`` is Hydra's configuration of a run or sweep of metrad's."""
    try:
        return bool(_at(OmegaConf.to_container(read_yaml(path)), "hydra.job.name") == "metrad")
    except InputError:
        return False


def _require_small(text: str, path: Path) -> None:
    depth = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{path} has an alias (*{event.anchor}), which metrad never writes; create it again")
        if isinstance(event, yaml.ScalarEvent) and event.value.count("${") > MOST_IN_A_TEXT:
            raise InputError(f"{path} has {event.value[:40]!r}, which is no interpolation metrad writes")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and is_base_60(event.value):
            raise InputError(f"{path} has {event.value} without quotes, which YAML reads as a number; put it in quotes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH or nodes > NODES:
            raise InputError(f"{path} nests too deep or holds too many values; create it again")


def _require_names(root: dict[Any, Any], path: Path) -> None:
    """Raise ``InputError`` if a setting, or an argument of a part, is named by a number or the like, as in ``1: x``."""
    groups = {str(name): node for name, node in root.items() if isinstance(node, dict)}
    groups |= {f"dataset.{name}": node for name, node in groups.get("dataset", {}).items() if isinstance(node, dict)}
    for group, node in {"": root, **groups}.items():
        for name in node:
            if not isinstance(name, str):
                raise InputError(f"{path}: {group or 'the configuration'} has a setting {name}; names are text")


def _require_bounded(root: Any, path: Path) -> None:
    """Raise ``InputError`` if resolving all interpolations in ``root`` would make more than ``GROWTH`` values."""
    open_keys: set[str] = set()

    @cache
    def size(key: str) -> int:
        if key in open_keys:
            raise InputError(f"{path}: {key or 'the configuration'} refers to itself; create it again")
        open_keys.add(key)
        total = 0
        for place, value in _leaves(_at(root, key), key):
            total += 1 + (len(value) if isinstance(value, str) else 0)
            for reference in _references(value, place):
                total += size(reference)
            if total > GROWTH:
                raise InputError(f"{path}: the interpolations of {key or place} stand for too many values")
        open_keys.discard(key)
        return total

    for key in root if isinstance(root, dict) else ():
        size(str(key))


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each leaf below ``node``."""
    if isinstance(node, dict | list) and node:
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _references(value: Any, place: str) -> Iterator[str]:
    """Yield the dotted keys that the text ``value`` at ``place`` refers to."""
    if not isinstance(value, str) or not _FOLLOWED.fullmatch(value):
        return
    for name in _REFERENCE.findall(value):
        dots = len(name) - len(name.lstrip("."))
        above = place.split(".")[:-dots] if dots else []
        yield ".".join([*above, *filter(None, name.split("."))])


def _at(root: Any, key: str) -> Any:
    """Return the node of ``root`` at a dotted key; None if there is none."""
    node = root
    for name in key.split(".") if key else ():
        if isinstance(node, dict):
            node = node.get(name, node.get(int(name)) if name.isdecimal() else None)
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node
