"""The identity of a run: a hash of the settings that its metrics depend on."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from metrad.renamed import former, present
from metrad.runs.config.catalogue import choice_of
from metrad.runs.config.schema import LATER, PARTS, WITHOUT_IDENTITY
from metrad.runs.config.secrets import secrets
from metrad.runs.naming import short_hash

_DATA = "data"  # replaces paths.data in all settings that interpolate it

# Settings that act after training, or that only end it. Of the dataset, a checkpoint has a hash of the split.
_WITHOUT_TRAINING = (
    *("dataset", "evaluation", "scorer", "selection", "test_time_flip", "whiten"),
    *(f"trainer.{name}" for name in ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")),
    *(f"trainer.{name}" for name in ("detect_anomaly", "enable_model_summary", "profiler")),
)
_WITHIN_TRAINING = ("dataset.range", "dataset.rotations")  # despite the entries above


def settings(cfg: Any) -> dict[str, Any]:
    """Return the resolved settings that the metrics of a run depend on, by dotted keys.

    Targets have their former names, because earlier versions hashed these.

    Args:
        cfg: the whole configuration (an OmegaConf ``DictConfig``), from Hydra or from a run directory.

    Raises:
        OmegaConfBaseException: a value cannot be resolved.
    """
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    own = OmegaConf.create({**{key: plain[key] for key in plain if key != "hydra"}, "paths": {"data": _DATA}})
    resolved: Any = OmegaConf.to_container(own, resolve=True)
    left_out = tuple(f"{key}." for key in WITHOUT_IDENTITY)
    return {
        key: former(value) if key.endswith("._target_") and isinstance(value, str) else value
        for key, value in _leaves(resolved)
        if not f"{key}.".startswith(left_out) and (key not in LATER or value != LATER[key])
    }


def shaping(cfg: Any) -> dict[str, Any]:
    """Return the resolved settings that the weights depend on, by dotted keys, for the record in checkpoints.

    The training images and the number of epochs are not among them. Targets have their present names. In place of a
    value that contains a secret stands its hash.
    """
    left_out, secret = tuple(f"{key}." for key in _WITHOUT_TRAINING), tuple(secrets(cfg))
    return {
        key: f"#{short_hash(str(value), 16)}" if any(one in str(value) for one in secret) else _presently(key, value)
        for key, value in settings(cfg).items()
        if key in _WITHIN_TRAINING or not f"{key}.".startswith(left_out)
    }


def _presently(key: str, value: Any) -> Any:
    return present(value) if key.endswith("._target_") and isinstance(value, str) else value


def identity(cfg: Any) -> str:
    """Return a hash of ``settings``; two runs with the same hash are the same run."""
    return short_hash(json.dumps(settings(cfg), sort_keys=True, default=str), 16)


def differences(one: Any, other: Any) -> list[str]:
    """Return a phrase for each differing setting of two configurations, such as 'seed is 0 and not 1'.

    Resolver calls are compared as text, since ``one`` may be of a run directory from elsewhere.
    """
    from metrad.runs.config.stored import inert

    found = _differing(settings(inert(one)), settings(inert(other)))
    return [f"{key} is {a} and not {b}" for key, a, b in found]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each differing entry of two ``shaping``s, such as 'augmentation was none and is flip now'."""
    return [f"{key} was {a} and is {b} now" for key, a, b in _differing(old, new)]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield key and both values of each differing setting.

    A part of another class is named once, by its choices, in place of all its settings.
    """
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    exchanged = {part for part in PARTS if f"{part}._target_" in keys}
    for part in sorted(exchanged):
        yield part, choice_of(part, _below(one, part)), choice_of(part, _below(other, part))
    for key in keys:
        if not any(f"{key}.".startswith(f"{part}.") for part in exchanged):
            yield key, one.get(key, "not set"), other.get(key, "not set")


def _below(flat: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {key.removeprefix(f"{part}."): value for key, value in flat.items() if key.startswith(f"{part}.")}


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping) or not node:
        yield key, node
        return
    for name, value in node.items():
        yield from _leaves(value, f"{key}.{name}" if key else str(name))
