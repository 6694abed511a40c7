"""The backbone as a type: a module, the measured width of its features, and the input its weights expect."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InputSpec:
    """Input that a model's weights expect: RGB in 0 to 1, less ``mean``, over ``std``, best at ``size`` pixels."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    size: int = 96


@dataclass(frozen=True)
class Backbone:
    """A module, the width of its features, and the input it expects.

    Attributes:
        module: from images (N, 3, height, width) to a feature map (N, out_features, h, w) or vectors (N, out_features).
        out_features: measured width of the features.
        input_spec: input that the weights expect.
    """

    module: nn.Module
    out_features: int
    input_spec: InputSpec


def measure_features(module: nn.Module, size: int) -> int:
    """Return the width of the features that ``module`` gives for an image of ``size`` pixels."""
    was_training = module.training
    with torch.inference_mode():
        features: Tensor = module.eval()(torch.zeros(1, 3, size, size))
    module.train(was_training)
    return features.shape[1]
