"""A small backbone that is random inside, as EfficientNet is, which drops whole blocks."""

from collections.abc import Sequence

from torch import nn

from metrad.models.base import Backbone, InputSpec

# Settings that put it in the place of a convnet.
DROPPING = ("backbone._target_=tests.helpers.backbones.dropping", "allow_targets=[tests]")


def dropping(channels: Sequence[int], weights: str | None = None) -> Backbone:
    """Return a backbone of one layer that drops channels at random while it trains."""
    assert weights is None
    width = channels[0]
    layers = nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(0.3)
    return Backbone(nn.Sequential(*layers), width, InputSpec())
