"""The torch backend: embedder and head of a detector as torch modules."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import nn

from metrad.detector import bundle
from metrad.detector.bundle import Bundle
from metrad.errors import InputError, first_line
from metrad.evaluation.forward import Forward, half_type
from metrad.files import follow_umask, opened
from metrad.models.base import Backbone
from metrad.models.cpu import lean_memory
from metrad.models.embedder import Embedder
from metrad.models.heads import Head
from metrad.threads import building_a_model

MOST_PIXELS = 2**14  # height and width of a backbone's input; a larger number in a record is a fault
M = TypeVar("M", bound=nn.Module)


class TrainedBackend(NamedTuple):
    """An embedder and a head in memory, as at the end of training."""

    embedder: Embedder
    head: Head


def load_embedder(saved: Bundle, allow: Sequence[str]) -> Embedder:
    """Return the embedder of a bundle with its trained weights, in evaluation mode.

    Args:
        saved: the bundle.
        allow: packages, such as ``mine``, whose classes may be built besides metrad's own.

    Raises:
        InputError: the weights do not fit the blueprint.
    """
    blueprint = saved.blueprint
    settings = {name: value for name, value in blueprint.backbone.items() if name != "weights"}
    given = {"weights": None} if "weights" in blueprint.backbone else {}

    def make() -> Embedder:
        backbone = bundle.build_part("backbone", settings, allow, **given)
        if not isinstance(backbone, Backbone):
            raise InputError(f"{settings['_target_']} makes a {type(backbone).__name__}, not a backbone")
        return _embedder(backbone, blueprint.embedder)

    return _loaded(make, saved.folder / bundle.EMBEDDER)


def load_head(saved: Bundle, allow: Sequence[str], in_features: int) -> Head:
    """Return the head of a bundle with its trained weights, in evaluation mode.

    Args:
        saved: the bundle.
        allow: as for ``load_embedder``.
        in_features: width of the embeddings.

    Raises:
        InputError: the weights do not fit the blueprint.
    """
    known = {"in_features": in_features, "num_classes": saved.head_size}

    def make() -> Head:
        head: Head = bundle.build_part("head", saved.blueprint.head, allow, **known)
        return head

    return _loaded(make, saved.folder / bundle.HEAD)


def embedding(embedder: Embedder, device: str, precision: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return the function from n images, each (height, width, channels) uint8, to embeddings (n, D) float32.

    The images have the same height and width, and 1 or 3 channels each. ``embedder`` is put on ``device``.
    """
    place = require_device(device)
    forward = Forward(embedder.to(place, torch.float32).eval(), place, half_type(precision))

    def embed(images: Sequence[np.ndarray]) -> np.ndarray:
        embeddings = np.empty((len(images), embedder.out_features), np.float32)
        channels = np.array([image.shape[2] for image in images])
        with lean_memory(place):
            for count in np.unique(channels):
                rows = np.flatnonzero(channels == count).tolist()
                embeddings[rows] = forward(torch.from_numpy(np.stack([images[row] for row in rows])))
        return embeddings

    return embed


def require_device(name: str) -> torch.device:
    """Return the device ``name``.

    Raises:
        InputError: this machine has no such device.
    """
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device={name} cannot be used ({first_line(error)}); choose cpu, or cuda with a GPU"
        ) from error
    return place


def _embedder(backbone: Backbone, settings: bundle.Settings) -> Embedder:
    size = settings.get("image_size")
    if size is not None and (not isinstance(size, int) or not 1 <= size <= MOST_PIXELS):
        raise InputError(f"image_size of the detector must be from 1 to {MOST_PIXELS}, got {size!r}")
    try:
        return Embedder(backbone, **settings)
    except TypeError as error:
        raise InputError(f"the detector's embedder refuses its settings ({first_line(error)})") from error


def save_weights(folder: Path, embedder: Embedder, head: Head) -> None:
    """Write the weights of ``embedder`` and ``head`` into ``folder`` as safetensors."""
    _save(embedder, folder / bundle.EMBEDDER)
    _save(head, folder / bundle.HEAD)


def _save(module: nn.Module, path: Path) -> None:
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    safetensors.torch.save_file(weights, path)
    follow_umask(path)


def _loaded(make: Callable[[], M], path: Path) -> M:
    """Return the module that ``make`` builds, with the weights in the file at ``path``, in evaluation mode.

    It is first built without memory, since the settings in a folder from elsewhere may ask for any amount.
    """
    try:
        with opened(path) as file:  # a FIFO would never answer
            there = os.fstat(file.fileno()).st_size
        with building_a_model(), torch.device("meta"):
            wanted = sum(value.numel() * value.element_size() for value in make().state_dict().values())
        if wanted > there:
            raise InputError(
                f"{path} is too small for the settings beside it: {wanted:,} bytes wanted, {there:,} there"
            )
        with building_a_model():
            module = make()
        module.load_state_dict(safetensors.torch.load_file(path))
    except InputError:
        raise
    except Exception as error:  # safetensors and torch errors share no base
        raise InputError(f"{path} cannot be read ({first_line(error)})") from error
    return module.eval()
