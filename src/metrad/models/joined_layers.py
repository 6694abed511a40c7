"""Joined layers: the features of several layers of a backbone in one vector."""

import copy
from contextlib import suppress
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from metrad.errors import InputError
from metrad.models.base import InputSpec
from metrad.models.pooling import pool


class JoinedLayers(nn.Module):
    """Features of several layers, each averaged over the image and scaled to length 1, then concatenated.

    Each layer thus has the same weight in a distance: the cosine of two joined vectors is the mean of the layers'
    cosines. Early layers keep features that a classifier does not need and that may show anomalies (Rippel 2021,
    arXiv 2005.14140). A layer may give vectors (N, D), feature maps (N, D, h, w) or (N, h, w, D), or tokens (N, L, D).

    Args:
        module: from images to features.
        layers: names of its submodules.
        size: height and width in pixels of the images that the layers' output shapes are measured with.

    Raises:
        InputError: a layer does not exist or gives another shape, or the module cannot be traced.
    """

    def __init__(self, module: nn.Module, layers: list[str], *, size: int = InputSpec.size) -> None:
        super().__init__()
        known = [name for name, _ in module.named_modules() if name]
        unknown = [name for name in layers if name not in known]
        if unknown or not layers:
            raise InputError(
                f"backbone.layers: there is no layer {unknown[0] if unknown else layers}; "
                f"there are {', '.join(name for name in known if name.count('.') < 2)}"
            )
        try:
            self.module = create_feature_extractor(module, {name: name for name in dict.fromkeys(layers)})
        except Exception as error:  # torch.fx raises whatever the module's own code does
            raise InputError(f"backbone.layers={layers} cannot be extracted from the model ({error})") from error
        _overwrite_nothing(self.module)
        self.channel_axes = _channel_axes(self.module, size)

    def forward(self, images: Tensor) -> Tensor:
        """Return vectors (N, sum of the layers' widths) of images (N, 3, height, width)."""
        features = zip(self.module(images).values(), self.channel_axes, strict=True)
        parts = [pool(values.movedim(axis, 1)) for values, axis in features]
        return torch.cat([nn.functional.normalize(part) for part in parts], dim=1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy in the same mode; torchvision puts every part of a copied extractor into training mode."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        copied.module.train(self.module.training)  # the extractor has a graph for each mode
        modes = {name: part.training for name, part in self.named_modules()}
        for name, part in copied.named_modules():
            part.training = modes[name]
        return copied


def _overwrite_nothing(module: Any) -> None:
    """Turn off in-place activations of a traced ``module``, which would overwrite the features of the layer before."""
    for part in module.modules():
        if getattr(part, "inplace", False):
            part.inplace = False
    for node in [*module.train_graph.nodes, *module.eval_graph.nodes]:  # functions, such as DenseNet's last ReLU
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
    module.recompile()


def _channel_axes(module: nn.Module, size: int) -> list[int]:
    """Return the channel axis of each layer's output for square images."""
    probes = [_probe(module, size)]
    with suppress(RuntimeError, AssertionError, ValueError):  # some models take one image size only
        probes.append(_probe(module, size + 32))  # the usual total stride is 32 pixels
    axes = []
    for name, shape in probes[0].items():
        axis = _channel_axis([probe[name] for probe in probes])
        if axis is None:
            raise InputError(
                f"backbone.layers: {name} gives {tuple(shape) if shape else 'no tensor'} for two images; it must give "
                "a feature map or tokens, with as many channels for every image size; choose another layer"
            )
        axes.append(axis)
    return axes


def _probe(module: nn.Module, size: int) -> dict[str, torch.Size | None]:
    """Return the shape of each layer's output for two images of ``size`` pixels; None if it is no tensor."""
    was_training = module.training
    try:
        with torch.inference_mode():
            found = module.eval()(torch.zeros(2, 3, size, size))
    finally:
        module.train(was_training)
    return {name: value.shape if isinstance(value, Tensor) else None for name, value in found.items()}


def _channel_axis(shapes: list[torch.Size | None]) -> int | None:
    """Return the channel axis of a layer from its output ``shapes`` for square images; None if it cannot be found.

    The channel axis has the same size in all shapes, and the spatial axes of one shape are equal.
    """
    known = [shape for shape in shapes if shape is not None and shape[0] == 2]
    candidates = {2: [1], 3: [2], 4: [1, 3]}.get(len(known[0]), []) if len(known) == len(shapes) else []
    for axis in candidates:
        others = [{*shape[1:axis], *shape[axis + 1 :]} for shape in known]
        if len({shape[axis] for shape in known}) == 1 and all(len(sizes) < 2 for sizes in others):
            return axis
    return None
