"""Secrets among the settings of a run, which no message, traceback or log may show.

A value is secret if it is given as ``${oc.env:NAME}``, or if the name of its key says so, as in ``logger.api_key``.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metrad.errors import InputError

_NAMES = re.compile(r"(.*_)?(api_?key|access_?key|token|secret|password|passwd|credentials?)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)")
_FOLDER = "paths.data"  # it may be an environment variable, and errors must name the folder


def secrets(cfg: Any = None, given: Sequence[str] = ()) -> dict[str, str]:
    """Return what to write in place of each secret value.

    Args:
        cfg: the configuration (an OmegaConf ``DictConfig``), unresolved; None before it is composed.
        given: the arguments of the command.
    """
    from omegaconf import OmegaConf

    node = {} if cfg is None else OmegaConf.to_container(cfg)
    typed = (item.partition("=")[::2] for item in given if "=" in item)
    leaves = [*_leaves(node, ""), *((key.lstrip("+"), value.strip("'\"")) for key, value in typed)]
    found: dict[str, str] = {}
    for key, value in leaves:
        names = _VARIABLE.findall(value) if key != _FOLDER else []
        found |= {os.environ[name]: f"${{oc.env:{name}}}" for name in names if len(os.environ.get(name, "")) > 3}
        if is_secret(key) and value and "${" not in value:
            found[value] = "***"
    return found


def is_secret(key: str) -> bool:
    """Return whether the name of the setting at the dotted ``key`` says that its value is secret."""
    return _NAMES.fullmatch(key.rpartition(".")[2]) is not None


def require_hidden(key: str, node: Any) -> None:
    """Raise ``InputError`` if a secret among the settings ``node`` is given in plain text, which a run would keep."""
    for name, value in _leaves(node, key):
        if is_secret(name) and value and "${" not in value:
            variable = name.rpartition(".")[2].upper()
            raise InputError(
                f"{name} would stand in the run directory in plain text; set an environment variable and write "
                f"'+{name}=${{oc.env:{variable}}}'"
            )


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, key)
    elif node is not None:
        yield key, str(node)
