"""What an embedder changes in its backbone to train faster on a CPU, and that nothing else changes by it."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from metrad.models.backbones import mobilenet_v2
from metrad.models.cpu import StridedDepthwise, quicken
from metrad.models.embedder import Embedder
from metrad.models.pooling import pool

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 8, 12, 12, generator=GENERATOR)


def depthwise(**more):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, **more)
    quick = nn.Sequential(copy.deepcopy(plain))
    quicken(quick)
    return plain, quick[0]


def gradients(module, dtype=None, x=X):
    x = x.clone().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        result = module(x)
    result.float().square().sum().backward()
    return result, x.grad, module.weight.grad.clone()


@pytest.mark.parametrize("bias", [False, True])
def test_a_strided_depthwise_convolution_is_the_same_to_the_bit_in_float32(bias):
    plain, quick = depthwise(bias=bias)
    assert type(quick) is StridedDepthwise
    assert list(quick.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(gradients(quick), gradients(plain), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bias", [False, True])
def test_in_bfloat16_it_gives_bfloat16_with_gradients_about_as_near_to_float64_as_torchs(bias):
    plain, quick = depthwise(bias=bias)
    exact = gradients(copy.deepcopy(plain).double(), x=X.double())
    ours, theirs = (gradients(one, torch.bfloat16) for one in (quick, plain))
    assert ours[0].dtype == theirs[0].dtype == torch.bfloat16
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert (mine - true).abs().max() <= 1.5 * (other - true).abs().max()
        assert (mine - true).abs().max() <= 0.02 * true.abs().max()


def test_weights_in_bfloat16_work_too():
    plain, quick = depthwise()
    ours, theirs = (gradients(one.bfloat16(), x=X.bfloat16()) for one in (quick, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == torch.bfloat16
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0.05)


def test_float64_stays_float64_under_autocast():
    plain, quick = depthwise()
    results = [gradients(one.double(), torch.bfloat16, X.double())[0] for one in (quick, plain)]
    assert results[0].dtype == torch.float64
    assert torch.equal(*results)


def test_without_gradients_bfloat16_stays_as_it_is():
    plain, quick = depthwise()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quick(X), plain(X))


def test_gradients_in_bfloat16_come_from_a_convolution_in_float32():
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default:
                seen.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    plain, quick = depthwise()
    for module in (plain, quick):
        with Watch():
            gradients(module, torch.bfloat16)
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(("name", "changed"), [("mobilenet_v2", 4), ("mobilenet_v3_small", 4), ("resnet18", 0)])
def test_strided_depthwise_convolutions_of_real_networks_are_found(name, changed):
    network = torchvision.models.get_model(name, weights=None)
    names = list(network.state_dict())
    quicken(network)
    assert sum(isinstance(part, StridedDepthwise) for part in network.modules()) == changed
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.SiLU])
def test_activations_that_need_their_input_work_on_a_result_of_their_own(activation):
    network = nn.Sequential(nn.BatchNorm2d(8), activation(inplace=True))
    plain = copy.deepcopy(network)
    quicken(network)
    assert not network[1].inplace
    results = [one(X) for one in (network, plain)]
    assert torch.equal(*results)
    for result in results:
        result.square().sum().backward()
    assert torch.equal(network[0].weight.grad, plain[0].weight.grad)


class Overwrites(nn.Module):
    """Means by its input what an activation made of it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.SiLU(inplace=True))
        self.second = nn.Hardswish(inplace=True)

    def forward(self, x):
        """Return the input, overwritten twice."""
        self.first(x)
        self.second(x)
        return x


def test_activations_whose_input_others_may_mean_stay_in_place():
    network = Overwrites()
    expected = network(X.clone())
    quicken(network)
    assert torch.equal(network(X.clone()), expected)


def test_mobilenet_embeds_and_learns_as_torchvisions_does():
    torch.manual_seed(0)
    backbone = mobilenet_v2(weights=None)
    plain = copy.deepcopy(backbone.module).train()
    embedder = Embedder(backbone, image_size=32, channels_last=False)
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=GENERATOR)
    ours, theirs = embedder.train()(images), pool(plain(embedder.preprocess(images)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for result in (ours, theirs):
        result.square().sum().backward()
    for mine, other in zip(embedder.backbone.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
