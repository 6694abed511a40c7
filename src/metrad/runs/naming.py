"""The folder names of runs and sweeps."""

import hashlib
import re
from pathlib import Path
from typing import Any, cast

from metrad.errors import InputError

_UNNAMED = ("paths", "hydra", "logger", "allow_targets", "study", "sweep")


def run_name(hydra: Any, seed: int) -> str:
    """Return the folder name of a run: its head, dataset and seed, then every other override.

    Values that do not suit a folder name are shortened and get a hash, so that the runs of a sweep have distinct names.
    """
    overrides = dict(item.lstrip("+~").partition("=")[::2] for item in _unresolved(hydra.overrides.task))
    named = [_slug(hydra.runtime.choices["head"]), _slug(hydra.runtime.choices["dataset"]), str(seed)]
    main = ("head", "dataset", "seed")
    others = [(key, value) for key, value in overrides.items() if key not in main and key.split(".")[0] not in _UNNAMED]
    return _short("-".join([*named, *(f"{key.split('.')[-1]}={_slug(value)}" for key, value in others)]))


def _unresolved(overrides: Any) -> list[str]:
    """Return overrides as text: ``${oc.env:NAME}`` may be a secret, which no folder name may show."""
    from omegaconf import OmegaConf

    return cast("list[str]", OmegaConf.to_container(overrides)) if OmegaConf.is_list(overrides) else overrides


def sweep_name(name: str | None, time: str) -> str:
    """Return the folder name of a sweep: ``name``, or the start time ``time`` if there is no name.

    Raises:
        InputError: the name cannot be the name of a folder.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", str(name)):
        raise InputError(f"sweep={name} must be a folder's name of letters, digits, _, -, + and dots")
    return time if name is None else str(name)


def folder_name(overrides: list[str]) -> str:
    """Return a folder name made of ``overrides`` of the form key=value."""
    return _short("-".join(f"{key}={_slug(value)}" for key, _, value in (item.partition("=") for item in overrides)))


def _slug(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", value) and value[0] not in ".-":
        return value
    return f"{re.sub(r'[^A-Za-z0-9_.+-]', '', Path(value).stem)[:40]}~{short_hash(value)}"


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:190]}~{short_hash(name)}"


def short_hash(text: str, size: int = 4) -> str:
    """Return a hash of ``text`` with ``2 * size`` hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
