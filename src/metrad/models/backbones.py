"""Backbones: factories of modules that turn images into feature maps or vectors."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from metrad.errors import InputError

_CLASSIFIERS = ("fc", "classifier", "heads", "head")
_FEATURES_ONLY = ("alexnet", "squeezenet", "vgg")  # their classifiers flatten the feature map to 9,216 and more numbers


@dataclass(frozen=True)
class InputSpec:
    """What a model's weights expect to see: RGB in 0 to 1, less ``mean``, over ``std``, best at ``size`` pixels."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    size: int = 96


@dataclass(frozen=True)
class Backbone:
    """A module and what is known of it.

    Attributes:
        module: images (N, 3, height, width) to a feature map (N, out_features, h, w) or vectors (N, out_features).
        out_features: width of the features, measured.
        input_spec: comes with the weights.
    """

    module: nn.Module
    out_features: int
    input_spec: InputSpec


def mobilenet_v2(*, width: float = 1.0, weights: str | None = "imagenet", layers: list[str] | None = None) -> Backbone:
    """Return MobileNetV2 of a width multiplier. Source: Sandler 2018, arXiv 1801.04381.

    Args:
        width: multiplier of the number of channels; ImageNet weights exist for 1.0.
        weights: as for ``torchvision_model``.
        layers: likewise.
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
        name: as ``torchvision.models.list_models`` gives it.
        weights: ``imagenet`` for torchvision's own (downloaded once), a file of its state dict (.pth or
            .safetensors), or null for random ones.
        args: further settings of the model's constructor.
        layers: names of modules, such as ``features.13``, whose features ``JoinedLayers`` joins; None for the last
            layer's alone.

    Raises:
        InputError: no such model or layer, or the weights are not there, cannot be downloaded or do not fit.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(
            f"backbone.name={name} is no classification model of torchvision; there are {', '.join(known)}"
        )
    model = _construct(name, args or {})
    spec = InputSpec(size=getattr(model, "image_size", InputSpec.size))  # vision transformers see one size alone
    if weights is not None:
        enum = torchvision.models.get_model_weights(name).DEFAULT
        preset = enum.transforms()
        spec = InputSpec(tuple(preset.mean), tuple(preset.std), preset.crop_size[0])
        state = _downloaded(enum) if weights == "imagenet" else read_weights(Path(weights))
        _fit(model, state, weights)
    module = model.get_submodule("features") if name.startswith(_FEATURES_ONLY) else _without_classifier(model)
    module = module if layers is None else JoinedLayers(module, layers, size=spec.size)
    return Backbone(module, measure_features(module, spec.size), spec)


class JoinedLayers(nn.Module):
    """Features of several layers, each averaged over the image and scaled to length 1, one after another.

    So each layer has the same weight in a distance: the cosine of two joined vectors is the mean of the layers' own.
    Layers early in a network keep what a classifier has no use for, which is where anomalies may show (Rippel 2021,
    arXiv 2005.14140). Feature maps (N, D, h, w) and (N, h, w, D) and the tokens (N, L, D) of a transformer serve.

    Args:
        module: images to features.
        layers: names of modules inside it.
        size: height and width of images that suit the module, to see what its layers give.

    Raises:
        InputError: there is no such layer, the module cannot be traced, or a layer gives something else.
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
            raise InputError(f"backbone.layers={layers} cannot be taken out of the model ({error})") from error
        _overwrite_nothing(self.module)
        self.channel_axes = _channel_axes(self.module, size)

    def forward(self, images: Tensor) -> Tensor:
        """Return vectors (N, sum of the layers' widths) of images (N, 3, height, width)."""
        features = zip(self.module(images).values(), self.channel_axes, strict=True)
        parts = [pool(values.movedim(axis, 1)) for values, axis in features]
        return torch.cat([nn.functional.normalize(part) for part in parts], dim=1)


def pool(features: Tensor) -> Tensor:
    """Return vectors (N, D) from a feature map (N, D, h, w) or (N, D, L) by global average, or vectors as they are.

    The average is float32 at least: in half precision its rounding would be most of that of the whole embedding.
    """
    if features.ndim < 3:
        return features
    return features.mean(dim=tuple(range(2, features.ndim)), dtype=torch.promote_types(features.dtype, torch.float32))


class _ConvNet(nn.Sequential):
    """Blocks of 3x3 convolution, batch norm and ReLU, each but the first after halving the resolution."""

    def __init__(self, channels: list[int]) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([3, *channels], channels, strict=False)):
            layers += [nn.MaxPool2d(2)] if i else []
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        super().__init__(*layers)


def convnet(*, channels: list[int], weights: str | None = None) -> Backbone:
    """Return a small convolutional network, for small images trained from scratch.

    Args:
        channels: width of each block; the resolution halves between blocks.
        weights: a file of its state dict (.pth or .safetensors), or null for random ones.

    Raises:
        InputError: no channels, or the weights are not there or do not fit.
    """
    if not channels or min(channels) < 1:
        raise InputError(f"backbone.channels must be a list of at least one positive width, got {channels}")
    module = _ConvNet(channels)
    if weights is not None:
        _fit(module, read_weights(Path(weights)), weights)
    spec = InputSpec(size=32)
    return Backbone(module, measure_features(module, max(spec.size, 2 ** len(channels))), spec)


def _overwrite_nothing(module: Any) -> None:
    """Have no activation of a traced ``module`` work in place, on what a layer before it gave."""
    for part in module.modules():
        if getattr(part, "inplace", False):
            part.inplace = False
    for node in [*module.train_graph.nodes, *module.eval_graph.nodes]:  # such as DenseNet's last ReLU, a function
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
    module.recompile()


def _channel_axes(module: nn.Module, size: int) -> list[int]:
    """Return which axis holds the channels, for each layer that ``module`` gives of square images."""
    probes = [_probe(module, size)]
    with suppress(RuntimeError, AssertionError, ValueError):  # some models take images of one size alone
        probes.append(_probe(module, size + 32))  # one step more after the usual strides
    axes = []
    for name, shape in probes[0].items():
        axis = _channel_axis([probe[name] for probe in probes])
        if axis is None:
            raise InputError(
                f"backbone.layers: {name} gives {tuple(shape) if shape else 'no tensor'} for two images, not a "
                "feature map or tokens of one width for images of any size; choose another layer"
            )
        axes.append(axis)
    return axes


def _probe(module: nn.Module, size: int) -> dict[str, torch.Size | None]:
    """Return the shape of each layer's features of two images of ``size`` pixels; None for what is no tensor."""
    was_training = module.training
    try:
        with torch.inference_mode():
            found = module.eval()(torch.zeros(2, 3, size, size))
    finally:
        module.train(was_training)
    return {name: value.shape if isinstance(value, Tensor) else None for name, value in found.items()}


def _channel_axis(shapes: list[torch.Size | None]) -> int | None:
    """Return the axis of the same size in all ``shapes``, of a layer for square images, between equal other ones."""
    known = [shape for shape in shapes if shape is not None and shape[0] == 2]
    candidates = {2: [1], 3: [2], 4: [1, 3]}.get(len(known[0]), []) if len(known) == len(shapes) else []
    for axis in candidates:
        others = [{*shape[1:axis], *shape[axis + 1 :]} for shape in known]
        if len({shape[axis] for shape in known}) == 1 and all(len(sizes) < 2 for sizes in others):
            return axis
    return None


def measure_features(module: nn.Module, size: int) -> int:
    """Return the width of what ``module`` gives for an image of ``size`` pixels."""
    was_training = module.training
    with torch.inference_mode():
        features: Tensor = module.eval()(torch.zeros(1, 3, size, size))
    module.train(was_training)
    return features.shape[1]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors or PyTorch file; code in the file is never run.

    Raises:
        InputError: the file is not there or holds no state dict.
    """
    if not path.is_file():
        raise InputError(f"backbone.weights={path}: no such file (allowed: imagenet, a file path, or null)")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zip errors share no base
        raise InputError(f"backbone.weights={path} cannot be read as weights ({_first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"backbone.weights={path} holds {type(state).__name__}, not a state dict of tensors")
    return state


def _construct(name: str, args: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, **args)
    except (TypeError, ValueError) as error:
        raise InputError(f"backbone: {name} cannot be built with {args} ({_first_line(error)})") from error
    return model


def _downloaded(enum: Any) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = enum.get_state_dict(check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        file = enum.url.rsplit("/", 1)[1]
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise InputError(
            f"backbone.weights=imagenet cannot be downloaded ({_first_line(error)}); place {file} in {folder}, "
            "or give a file with backbone.weights=FILE"
        ) from error
    return state


def _fit(model: nn.Module, state: dict[str, Tensor], weights: str) -> None:
    """Load ``state`` into ``model``; its classifier may be missing or of another size, nothing else."""
    own = model.state_dict()
    ours = {key for key in own if key.split(".")[0] not in (*_CLASSIFIERS, "AuxLogits", "aux1", "aux2")}
    wrong = [key for key in sorted(ours) if key not in state or state[key].shape != own[key].shape]
    if wrong:
        came = tuple(state[wrong[0]].shape) if wrong[0] in state else "nothing"
        raise InputError(
            f"backbone.weights={weights} does not fit the backbone: {len(wrong)} of {len(ours)} tensors are missing or "
            f"of another shape, first {wrong[0]}: wanted {tuple(own[wrong[0]].shape)}, got {came}"
        )
    model.load_state_dict({key: state[key] for key in ours}, strict=False)


def _without_classifier(model: nn.Module) -> nn.Module:
    for name in _CLASSIFIERS:
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    if getattr(model, "aux_logits", False):  # GoogLeNet and Inception give three outputs in training otherwise
        setattr(model, "aux_logits", False)  # noqa: B010 - assignment is typed for tensors and modules alone
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, name):
                setattr(model, name, None)
    return model


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
