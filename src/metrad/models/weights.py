"""Weights of backbones: downloaded, or read from a file without running its code, and loaded into a model."""

import logging
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from metrad.errors import InputError, first_line

log = logging.getLogger(__name__)

CLASSIFIERS = ("fc", "classifier", "heads", "head")
# Names under which training programs keep a state dict beside other things, and what they put before its names.
_WRAPPINGS = ("state_dict", "model_state_dict", "model_state", "model", "weights", "net", "module")
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "encoder_q.", "net.", "_orig_mod.")


def read_weights(weights: str) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors or PyTorch file; code in the file is never run.

    A state dict is also found in its usual wrapping, such as ``{"state_dict": ...}``.

    Raises:
        InputError: the file does not exist or holds no state dict.
    """
    path = Path(weights)
    if "://" in weights:
        raise InputError(f"backbone.weights={weights} is an address; download the file and give its path")
    if not path.is_file():
        raise InputError(f"backbone.weights={path}: no such file; give the path of a file, or null for random weights")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _loaded(path)
    except Exception as error:  # torch, pickle and zip errors share no base
        raise InputError(f"backbone.weights={path} cannot be read as weights ({_reason(path, error)})") from error
    return _unwrapped(state, path)


def _loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # of another program; the error says the same
        return torch.load(path, map_location="cpu", weights_only=True)


def _reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read as weights; torch's own words advise to run its code."""
    if path.suffix == ".safetensors":
        return first_line(error)
    if "Unsupported" in str(error) or "Weights only load failed" in str(error):
        return "it holds objects beside tensors, such as a whole model; save torch.save(model.state_dict(), FILE)"
    return "it was not written by torch.save(model.state_dict(), FILE), or it is cut off"


def _unwrapped(state: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in what a file holds: itself, or the one of its entries that is called like one."""
    if isinstance(state, dict) and not _is_state_dict(state):
        inside = [name for name in _WRAPPINGS if _is_state_dict(state.get(name))]
        if len(inside) == 1:
            log.info("weights: %s of %s", inside[0], path)
            return dict(state[inside[0]])
        entries = ", ".join(str(name) for name in list(state)[:8])
        several = f"several state dicts, {' and '.join(inside)}" if inside else f"the entries {entries}"
        raise InputError(
            f"backbone.weights={path} holds {several}, not one state dict of tensors; save the wanted one alone by "
            "torch.save(model.state_dict(), FILE)"
        )
    if not _is_state_dict(state):
        raise InputError(f"backbone.weights={path} holds {type(state).__name__}, not a state dict of tensors")
    return dict(state)


def _is_state_dict(found: Any) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(value, Tensor) for value in found.values())


def download_weights(enum: Any) -> dict[str, Tensor]:
    """Return torchvision's own weights, an entry of a weights enumeration, from the cache or the internet.

    Raises:
        InputError: the weights cannot be downloaded; the message says where to place the file.
    """
    try:
        state: dict[str, Tensor] = enum.get_state_dict(check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        file = enum.url.rsplit("/", 1)[1]
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise InputError(
            f"backbone.weights=imagenet cannot be downloaded ({first_line(error)}); place {file} in {folder}, "
            "or give a file with backbone.weights=FILE (metrad fit: --weights FILE)"
        ) from error
    return state


def fit_weights(model: nn.Module, state: dict[str, Tensor], weights: str) -> None:
    """Load ``state`` into ``model``; only its classifier may be missing or of another shape.

    Where the names of ``state`` all begin with a prefix such as ``module.``, they are taken without it.
    """
    own = model.state_dict()
    ours = {key for key in own if key.split(".")[0] not in (*CLASSIFIERS, "AuxLogits", "aux1", "aux2")}
    state = _without_prefix(state, ours)
    wrong = [key for key in sorted(ours) if key not in state or state[key].shape != own[key].shape]
    if wrong:
        absent = f"nothing; the first in the file is {next(iter(state), 'missing')}"
        came = tuple(state[wrong[0]].shape) if wrong[0] in state else absent
        raise InputError(
            f"backbone.weights={weights} does not fit the backbone: {len(wrong)} of {len(ours)} tensors are missing or "
            f"of another shape, first {wrong[0]}: wanted {tuple(own[wrong[0]].shape)}, got {came}"
        )
    model.load_state_dict({key: state[key] for key in ours}, strict=False)


def _without_prefix(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Return ``state`` without the prefix of its names, if its names are the wanted ones only without it."""
    prefix = ""
    while not wanted & {key.removeprefix(prefix) for key in state if key.startswith(prefix)}:
        under = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        found = [one for one in _PREFIXES if any(key.startswith(one) for key in under)]
        if not found:
            return state
        prefix += found[0]
    if prefix:
        log.info("weights: names without %s", prefix)
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
