"""Joined layers: copies that stay in their mode, and the embedding pass of a copy."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from metrad.evaluation.forward import Forward
from metrad.models.base import Backbone, InputSpec
from metrad.models.embedder import Embedder
from metrad.models.joined_layers import JoinedLayers

LAYERS = {"mobilenet_v2": ["features.3", "features.6"], "resnet18": ["layer1", "layer2"]}
GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(params=LAYERS)
def joined(request):
    """Joined layers of a real network whose normalisations have seen images."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(request.param, weights=None)
    found = JoinedLayers(network, LAYERS[request.param], size=64).train()
    found(torch.rand(8, 3, 64, 64, generator=GENERATOR))
    return found


@pytest.mark.parametrize("training", [False, True])
def test_a_copy_has_the_values_and_modes_of_its_original(joined, training):
    images = torch.rand(2, 3, 64, 64, generator=GENERATOR)
    joined.train(training)
    next(part for part in joined.modules() if isinstance(part, nn.BatchNorm2d)).eval()  # one is frozen
    copied = copy.deepcopy(joined)
    modes = {name: part.training for name, part in joined.named_modules()}
    assert {name: part.training for name, part in copied.named_modules()} == modes
    with torch.inference_mode():
        assert torch.equal(copied(images), joined(images))
        assert torch.equal(copied.eval()(images), joined.eval()(images))


def test_the_embedding_pass_gives_the_embedders_values_and_leaves_it_as_it_is(joined):
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=GENERATOR)
    with torch.inference_mode():
        width = joined.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
    embedder = Embedder(Backbone(joined, width, InputSpec()), image_size=64).eval()
    before = {name: value.clone() for name, value in embedder.state_dict().items()}
    with torch.inference_mode():
        wanted = embedder(images)
    found = Forward(embedder, torch.device("cpu"), None)(images)
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in embedder.state_dict().items())
