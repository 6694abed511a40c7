"""Backbones: factories of modules that turn images into feature maps or vectors."""

from typing import Any

import torchvision
from torch import nn

from metrad.errors import InputError, first_line
from metrad.models.base import Backbone, InputSpec, measure_features
from metrad.models.joined_layers import JoinedLayers
from metrad.models.weights import CLASSIFIERS, download_weights, fit_weights, read_weights

_FEATURES_ONLY = ("alexnet", "squeezenet", "vgg")  # their classifiers flatten the feature map to 9,216 or more numbers

__all__ = ["convnet", "mobilenet_v2", "torchvision_model"]  # the factories that a saved detector can name


def mobilenet_v2(*, width: float = 1.0, weights: str | None = "imagenet", layers: list[str] | None = None) -> Backbone:
    """Return MobileNetV2 with a width multiplier. Source: Sandler 2018, arXiv 1801.04381.

    Args:
        width: multiplier of the number of channels; ImageNet weights exist for 1.0 only.
        weights: as for ``torchvision_model``.
        layers: as for ``torchvision_model``.
    """
    return torchvision_model("mobilenet_v2", weights=weights, args={"width_mult": width}, layers=layers)


def torchvision_model(
    name: str,
    *,
    weights: str | None = "imagenet",
    args: dict[str, Any] | None = None,
    layers: list[str] | None = None,
) -> Backbone:
    """Return a classification model of torchvision without its classifier.

    Args:
        name: name in ``torchvision.models.list_models``.
        weights: ``imagenet`` for torchvision's own weights (downloaded once), the path of a state dict (.pth or
            .safetensors), or null for random weights.
        args: further settings of the model's constructor.
        layers: names of modules, such as ``features.13``, whose features ``JoinedLayers`` joins; None for the features
            of the last layer only.

    Raises:
        InputError: the model or a layer does not exist, or the weights are missing, cannot be downloaded or do not fit.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(
            f"backbone.name={name} is no classification model of torchvision; choose one of {', '.join(known)}"
        )
    model = _construct(name, args or {})
    spec = InputSpec(size=getattr(model, "image_size", InputSpec.size))  # vision transformers take one size only
    if weights is not None:
        enum = torchvision.models.get_model_weights(name).DEFAULT
        preset = enum.transforms()
        spec = InputSpec(tuple(preset.mean), tuple(preset.std), preset.crop_size[0])
        state = download_weights(enum) if weights == "imagenet" else read_weights(weights)
        fit_weights(model, state, weights)
    module = model.get_submodule("features") if name.startswith(_FEATURES_ONLY) else _without_classifier(model)
    module = module if layers is None else JoinedLayers(module, layers, size=spec.size)
    return Backbone(module, measure_features(module, spec.size), spec)


class _ConvNet(nn.Sequential):
    """Blocks of 3x3 convolution, batch norm and ReLU, with 2x2 max pooling between blocks."""

    def __init__(self, channels: list[int]) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([3, *channels], channels, strict=False)):
            layers += [nn.MaxPool2d(2)] if i else []
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        super().__init__(*layers)


def convnet(*, channels: list[int], weights: str | None = None) -> Backbone:
    """Return a small convolutional network, for small images and training from scratch.

    Args:
        channels: width of each block; the resolution halves between blocks.
        weights: path of a state dict (.pth or .safetensors), or null for random weights.

    Raises:
        InputError: there are no channels, or the weights are missing or do not fit.
    """
    if not channels or min(channels) < 1:
        raise InputError(f"backbone.channels must be a list of at least one positive width, got {channels}")
    module = _ConvNet(channels)
    if weights == "imagenet":
        raise InputError(
            "backbone.weights=imagenet: nobody trained this small network on ImageNet; give a file or null"
        )
    if weights is not None:
        fit_weights(module, read_weights(weights), weights)
    spec = InputSpec(size=32)
    return Backbone(module, measure_features(module, max(spec.size, 2 ** len(channels))), spec)


def _construct(name: str, args: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, **args)
    except (TypeError, ValueError) as error:
        raise InputError(f"backbone: {name} cannot be built with {args} ({first_line(error)})") from error
    return model


def _without_classifier(model: nn.Module) -> nn.Module:
    for name in CLASSIFIERS:
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    if getattr(model, "aux_logits", False):  # otherwise GoogLeNet and Inception give three outputs in training
        setattr(model, "aux_logits", False)  # noqa: B010 - typed assignment takes only tensors and modules
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, name):
                setattr(model, name, None)
    return model
