"""Weights of backbones: downloaded, or read from a file without running its code, and loaded into a model."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from metrad.errors import InputError, first_line

CLASSIFIERS = ("fc", "classifier", "heads", "head")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors or PyTorch file; code in the file is never run.

    Raises:
        InputError: the file does not exist or holds no state dict.
    """
    if not path.is_file():
        raise InputError(f"backbone.weights={path}: no such file (allowed: imagenet, a file path, or null)")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zip errors share no base
        raise InputError(f"backbone.weights={path} cannot be read as weights ({first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"backbone.weights={path} holds {type(state).__name__}, not a state dict of tensors")
    return state


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
            "or give a file with backbone.weights=FILE"
        ) from error
    return state


def fit_weights(model: nn.Module, state: dict[str, Tensor], weights: str) -> None:
    """Load ``state`` into ``model``; only its classifier may be missing or of another shape."""
    own = model.state_dict()
    ours = {key for key in own if key.split(".")[0] not in (*CLASSIFIERS, "AuxLogits", "aux1", "aux2")}
    wrong = [key for key in sorted(ours) if key not in state or state[key].shape != own[key].shape]
    if wrong:
        came = tuple(state[wrong[0]].shape) if wrong[0] in state else "nothing"
        raise InputError(
            f"backbone.weights={weights} does not fit the backbone: {len(wrong)} of {len(ours)} tensors are missing or "
            f"of another shape, first {wrong[0]}: wanted {tuple(own[wrong[0]].shape)}, got {came}"
        )
    model.load_state_dict({key: state[key] for key in ours}, strict=False)
