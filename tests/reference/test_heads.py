"""Heads against slow float64 twins and against pytorch-metric-learning."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss

from metrad.angular import adacos_scale, add_angular_margin, sines
from metrad.heads import AdaCos, ArcFace, CosineHead, L2Softmax, Softmax
from tests.reference import heads as slow

WIDTH, CLASSES = 12, 9


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(40, WIDTH)), generator.integers(0, CLASSES, 40)


def both(head, seed: int):
    x, y = data(seed)
    head = head.double()
    torch.nn.init.normal_(head.weight)
    loss, logits = head(torch.from_numpy(x), torch.from_numpy(y))
    return x, y, head.weight.detach().numpy(), loss.item(), logits.detach().numpy()


@pytest.mark.parametrize("seed", range(3))
def test_softmax_equals_its_twin(seed):
    head = Softmax(WIDTH, CLASSES)
    torch.nn.init.normal_(head.bias)
    x, y, W, loss, logits = both(head, seed)
    slow_loss, slow_logits = slow.softmax(x, y, W, head.bias.detach().numpy())
    np.testing.assert_allclose(logits, slow_logits, rtol=1e-10, atol=1e-12)
    assert loss == pytest.approx(slow_loss, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_l2_softmax_equals_its_twin(seed):
    head = L2Softmax(WIDTH, CLASSES, alpha=7.5)
    torch.nn.init.normal_(head.bias)
    x, y, W, loss, logits = both(head, seed)
    slow_loss, slow_logits = slow.l2_softmax(x, y, W, head.bias.detach().numpy(), 7.5)
    np.testing.assert_allclose(logits, slow_logits, rtol=1e-10, atol=1e-12)
    assert loss == pytest.approx(slow_loss, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5, 1.5])
def test_arcface_equals_its_twin(seed, margin):
    x, y, W, loss, logits = both(ArcFace(WIDTH, CLASSES, scale=30.0, margin=margin), seed)
    slow_loss, slow_logits = slow.arcface(x, y, W, 30.0, margin)
    np.testing.assert_allclose(logits, slow_logits, rtol=1e-10, atol=1e-10)
    assert loss == pytest.approx(slow_loss, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_adacos_equals_its_twin(seed):
    x, y, W, loss, logits = both(AdaCos(WIDTH, CLASSES), seed)
    slow_loss, slow_logits = slow.adacos(x, y, W)
    np.testing.assert_allclose(logits, slow_logits, rtol=1e-6)  # the scale is kept in float32
    assert loss == pytest.approx(slow_loss, rel=1e-6)


@pytest.mark.parametrize("margin", [0.05, 0.5])
def test_arcface_equals_its_twin_at_every_angle(margin):
    degrees = np.linspace(0, 180, 721)
    angles = np.deg2rad(degrees[np.abs(np.deg2rad(degrees) + margin - math.pi) > 1e-6])
    fast = add_angular_margin(torch.from_numpy(np.cos(angles)), margin).numpy()
    expected = [slow.arcface_true_logit(angle, 1.0, margin) for angle in np.cos(angles)]
    np.testing.assert_allclose(fast, expected, atol=3e-8)  # near 0 and 180 degrees acos itself is good to 1e-8


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5])
def test_arcface_equals_pytorch_metric_learning(margin):
    x, y, W, loss, _ = both(ArcFace(WIDTH, CLASSES, scale=30.0, margin=margin), 5)
    other = ArcFaceLoss(CLASSES, WIDTH, margin=math.degrees(margin), scale=30).double()
    with torch.no_grad():
        other.W.copy_(torch.from_numpy(W.T))
    assert loss == pytest.approx(other(torch.from_numpy(x), torch.from_numpy(y)).item(), rel=1e-6)


@pytest.mark.parametrize(("classes", "scale"), [(9, 2.9408), (4, 1.5537), (3, 0.9803), (2, 0.0)])
def test_the_scale_of_adacos_is_that_of_the_protocol(classes, scale):
    assert adacos_scale(classes) == pytest.approx(scale, abs=5e-5)
    if classes > 2:
        assert AdaCos(WIDTH, classes).scale.item() == pytest.approx(scale, abs=5e-5)


def test_no_margin_is_the_plain_cosine_head():
    x, y = (torch.from_numpy(values) for values in data(0))
    heads = [ArcFace(WIDTH, CLASSES, scale=10.0, margin=0.0).double(), PlainCosine(WIDTH, CLASSES, scale=10.0).double()]
    heads[1].load_state_dict(heads[0].state_dict())
    torch.testing.assert_close(heads[0](x, y)[0], heads[1](x, y)[0], rtol=1e-12, atol=0)


def test_adacos_is_the_plain_cosine_head_at_its_scale():
    x, y = (torch.from_numpy(values) for values in data(0))
    heads = [AdaCos(WIDTH, CLASSES), PlainCosine(WIDTH, CLASSES, scale=math.sqrt(2) * math.log(CLASSES - 1))]
    heads[1].load_state_dict(heads[0].state_dict())
    assert torch.equal(heads[0].double()(x, y)[0], heads[1].double()(x, y)[0])


class PlainCosine(CosineHead):
    """s·cos θ and nothing else."""


def test_sines_are_right_and_have_finite_slope_at_both_ends():
    cosine = torch.linspace(-1, 1, 1001, dtype=torch.float64, requires_grad=True)
    sine = sines(cosine)
    np.testing.assert_allclose(sine.detach(), np.sqrt(1 - np.linspace(-1, 1, 1001) ** 2), atol=2e-8)
    sine.sum().backward()
    assert torch.isfinite(cosine.grad).all()
