"""The torch backend: embedder and head of a detector as torch modules."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from torch import nn

from metrad.detector import bundle
from metrad.detector.bundle import Bundle
from metrad.errors import InputError, first_line
from metrad.models.base import Backbone
from metrad.models.embedder import Embedder
from metrad.models.heads import Head


class TrainedBackend(NamedTuple):
    """An embedder and a head in memory, as at the end of training."""

    embedder: Embedder
    head: Head


class TorchBackend:
    """Builds embedder and head from a bundle, each at its first use.

    Args:
        opened: the bundle.
        allow: packages, such as ``mine``, whose classes may be built besides metrad's own.
    """

    def __init__(self, opened: Bundle, allow: Sequence[str] = ()) -> None:
        self.opened = opened
        self.allow = allow

    @cached_property
    def embedder(self) -> Embedder:
        """The embedder with its trained weights, in evaluation mode.

        Raises:
            InputError: the weights do not fit the blueprint.
        """
        blueprint = self.opened.blueprint
        settings = {name: value for name, value in blueprint.backbone.items() if name != "weights"}
        given = {"weights": None} if "weights" in blueprint.backbone else {}
        backbone = bundle.build_part("backbone", settings, self.allow, **given)
        if not isinstance(backbone, Backbone):
            raise InputError(f"{settings['_target_']} makes a {type(backbone).__name__}, not a backbone")
        embedder = Embedder(backbone, **blueprint.embedder)
        _load(embedder, self.opened.folder / bundle.EMBEDDER)
        return embedder.eval()

    @cached_property
    def head(self) -> Head:
        """The head with its trained weights, in evaluation mode.

        Raises:
            InputError: the weights do not fit the blueprint.
        """
        known = {"in_features": self.embedder.out_features, "num_classes": self.opened.head_size}
        head: Head = bundle.build_part("head", self.opened.blueprint.head, self.allow, **known)
        _load(head, self.opened.folder / bundle.HEAD)
        return head.eval()


def save_weights(folder: Path, embedder: Embedder, head: Head) -> None:
    """Write the weights of ``embedder`` and ``head`` into ``folder`` as safetensors."""
    _save(embedder, folder / bundle.EMBEDDER)
    _save(head, folder / bundle.HEAD)


def _save(module: nn.Module, path: Path) -> None:
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    safetensors.torch.save_file(weights, path)


def _load(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:  # safetensors and torch errors share no base
        raise InputError(f"{path} cannot be read ({first_line(error)})") from error
