"""What a run is called, and what makes it the run it is."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metrad.errors import InputError
from metrad.training.finetuning import Finetuning

_UNNAMED = ("paths", "hydra", "logger", "allow_targets", "study", "sweep")
# What a run's figures do not depend on, or only by rounding: where things lie, what it runs on, what is told of it.
WITHOUT_IDENTITY = (
    *("paths", "logger", "study", "sweep", "ckpt_path", "allow_targets", "compile"),
    *("dataset.workers", "dataset.memory_limit_gib", "dataset.disk_limit_gib"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.precision"),
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps"),
)
# Settings that came later, each with the value that is as good as the lack of it in older runs.
LATER: dict[str, Any] = {
    "augmentation": {},
    "backbone.layers": None,
    **{f"finetuning.{name}": value for name, value in asdict(Finetuning()).items()},
    "selection": None,
    "test_time_flip": False,
    "whiten": False,
}
_DATA = "data"  # stands for paths.data wherever a setting is made with it


def run_name(hydra: Any, seed: int) -> str:
    """Return a folder name that tells a run's choices: head, dataset and seed, then every other override.

    Values that make no good folder names are shortened and carry a hash, so that the runs of a sweep keep names apart.
    """
    overrides = dict(item.lstrip("+~").partition("=")[::2] for item in hydra.overrides.task)
    named = [_slug(hydra.runtime.choices["head"]), _slug(hydra.runtime.choices["dataset"]), str(seed)]
    told = ("head", "dataset", "seed")
    others = [(key, value) for key, value in overrides.items() if key not in told and key.split(".")[0] not in _UNNAMED]
    return _short("-".join([*named, *(f"{key.split('.')[-1]}={_slug(value)}" for key, value in others)]))


def sweep_name(name: str | None, time: str) -> str:
    """Return the folder name of a sweep: what it is called, or else the time it began.

    Raises:
        InputError: the name would not make one folder.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", str(name)):
        raise InputError(f"sweep={name} must be a folder's name of letters, digits, _, -, + and dots")
    return time if name is None else str(name)


def folder_name(overrides: list[str]) -> str:
    """Return a folder name that tells ``overrides`` of the form key=value."""
    return _short("-".join(f"{key}={_slug(value)}" for key, _, value in (item.partition("=") for item in overrides)))


def settings(cfg: Any) -> dict[str, Any]:
    """Return the resolved settings of a configuration that its figures depend on, by their dotted keys.

    Args:
        cfg: the whole configuration (an OmegaConf ``DictConfig``), from Hydra or from a run directory.

    Raises:
        OmegaConfBaseException: it has a value that cannot be resolved.
    """
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    own = OmegaConf.create({**{key: plain[key] for key in plain if key != "hydra"}, "paths": {"data": _DATA}})
    resolved: Any = OmegaConf.to_container(own, resolve=True)
    left_out = tuple(f"{key}." for key in WITHOUT_IDENTITY)
    return {
        key: value
        for key, value in _leaves(resolved)
        if not f"{key}.".startswith(left_out) and (key not in LATER or value != LATER[key])
    }


def identity(cfg: Any) -> str:
    """Return a hash of ``settings``: two runs with the same one are the same run."""
    return _hash(json.dumps(settings(cfg), sort_keys=True, default=str), 16)


def differences(one: Any, other: Any) -> list[str]:
    """Return in words what ``settings`` of two configurations differ in, such as 'seed is 0 and not 1'."""
    a, b = settings(one), settings(other)
    keys = [key for key in a | b if a.get(key) != b.get(key)]
    return [f"{key} is {a.get(key, 'not set')} and not {b.get(key, 'not set')}" for key in keys]


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping) or not node:
        yield key, node
        return
    for name, value in node.items():
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def _slug(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", value) and value[0] not in ".-":
        return value
    return f"{re.sub(r'[^A-Za-z0-9_.+-]', '', Path(value).stem)[:40]}~{_hash(value)}"


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:190]}~{_hash(name)}"


def _hash(text: str, size: int = 4) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
