"""What an embedder changes in its backbone to train faster on a CPU, and that nothing else changes by it."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from metrad.models.backbones import mobilenet_v2
from metrad.models.base import Backbone, InputSpec
from metrad.models.cpu import StridedDepthwise, folded, overwrite, quicken
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


def convolved(*, activation=nn.ReLU6, affine=True, bias=False):
    """Return a convolution, a normalisation that has seen some images, and an activation, in evaluation mode."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, affine=affine)
    network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=bias), norm, activation(inplace=True))
    network(5 * X + 1)
    return network.eval()


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("activation", [nn.ReLU6, nn.Hardswish, nn.SiLU])
def test_activations_that_overwrite_their_input_give_the_same_values_to_the_bit(memory_format, activation):
    plain = convolved(activation=activation)
    quick = copy.deepcopy(plain)
    quicken(quick)
    overwrite(quick, on=True)
    x = X.contiguous(memory_format=memory_format)
    with torch.inference_mode():
        between = quick[1](quick[0](x))
        assert torch.equal(quick(x), plain(x))
        assert quick[2](between).data_ptr() == between.data_ptr()
        assert torch.equal(x, X)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_normalisation_gives_the_values_of_float64(memory_format, affine, bias):
    plain = convolved(affine=affine, bias=bias).to(memory_format=memory_format)
    before = copy.deepcopy(plain.state_dict())
    quick = folded(plain)
    assert [type(part) for part in quick] == [nn.Conv2d, nn.Identity, nn.ReLU6]
    assert quick[0].weight.is_contiguous(memory_format=memory_format)
    with torch.inference_mode():
        exact = copy.deepcopy(plain).double()(X.double()).float()
        torch.testing.assert_close(quick(X), exact, rtol=1e-5, atol=1e-5)
    assert type(plain[1]) is nn.BatchNorm2d
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


class Watched(nn.Sequential):
    """Returns what lies between its layers too."""

    def forward(self, x):
        """Return the results of the first layer and of all."""
        first = self[0](x)
        return first, self[1](first)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Identity(), nn.BatchNorm2d(8), nn.BatchNorm2d(8)).eval(),
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)).eval(),
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(8, 8, 1).eval(), nn.BatchNorm2d(8)),
        Watched(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)).eval(),
        nn.Sequential(nn.ConvTranspose2d(8, 8, 1), nn.BatchNorm2d(8)).eval(),
    ],
    ids=["no convolution", "no statistics", "training", "normalisation in training", "seen between", "transposed"],
)
def test_what_cannot_be_folded_is_returned_itself(network):
    assert folded(network) is network


def test_all_but_folded_convolutions_is_shared_so_a_copy_takes_little_memory():
    network = nn.ModuleDict({"a": convolved(), "b": nn.Linear(8, 8)}).eval()
    quick = folded(network)
    assert quick["b"].weight is network["b"].weight
    assert quick["a"][0].weight is not network["a"][0].weight


@pytest.mark.parametrize(
    ("name", "left"), [("mobilenet_v2", 0), ("efficientnet_b0", 0), ("vgg11_bn", 0), ("resnet18", 17)]
)
def test_real_networks_embed_alike_when_folded(name, left):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    images = torch.rand(2, 3, 64, 64, generator=GENERATOR)
    network.train()(images)  # normalisations see some images
    quick = folded(network.eval())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in quick.modules()) == left
    with torch.inference_mode():
        torch.testing.assert_close(quick(images), network(images), rtol=1e-4, atol=1e-5)


def test_activations_overwrite_in_evaluation_mode_only_those_that_their_author_let():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(inplace=True), nn.SiLU(inplace=False))
    embedder = Embedder(Backbone(network, 4, InputSpec(size=8)))
    assert [part.inplace for part in list(network)[1:]] == [False, False]
    assert [part.inplace for part in list(embedder.eval().backbone)[1:]] == [True, False]
    assert [part.inplace for part in list(embedder.train().backbone)[1:]] == [False, False]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", [(24, 24, 3), (24, 24, 1), (30, 20, 3)])
def test_images_are_the_same_to_the_bit_with_and_without_inference_mode(shape, channels_last):
    embedder = Embedder(mobilenet_v2(weights=None), image_size=24, channels_last=channels_last).eval()
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8, generator=GENERATOR)
    usual, layout = embedder.preprocess(images), embedder.memory_format
    with torch.inference_mode():
        quick = embedder.preprocess(images)
    assert torch.equal(usual, quick)
    assert quick.is_contiguous(memory_format=layout)


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
