"""Heads against slow float64 twins and against pytorch-metric-learning."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses

from metrad.models import heads
from metrad.models.heads.adacos import adacos_scale
from metrad.models.heads.angular import add_angular_margin, multiply_angle, sines
from metrad.models.heads.quality import shifted
from tests.reference.models import heads as slow
from tests.reference.models import newer_heads as newer

WIDTH, CLASSES = 12, 9
SEEDS = pytest.mark.parametrize("seed", range(3))
CENTRES = pytest.mark.parametrize("K", [1, 3])


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def data(seed: int, length: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(41 + seed, WIDTH))  # odd and even: the median of an even number is a mean
    x *= length * generator.uniform(0.2, 3, size=(len(x), 1))
    y = generator.integers(0, CLASSES, len(x))
    x[:9], y[:9] = -x[9:18], y[9:18]  # some embeddings on the far side of the others
    return x, y


def both(head, seed: int, length: float = 1.0):
    x, y = data(seed, length)
    torch.manual_seed(seed)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    loss, logits = head(torch.from_numpy(x), torch.from_numpy(y))
    return x, y, head.weight.detach().numpy(), loss.item(), logits.detach().numpy()


def assert_equal(fast, expected):
    for ours, theirs in zip(fast, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@SEEDS
def test_softmax_equals_its_twin(seed):
    head = heads.Softmax(WIDTH, CLASSES)
    x, y, W, *fast = both(head, seed)
    assert_equal(fast, slow.softmax(x, y, W, head.bias.detach().numpy()))


@SEEDS
@pytest.mark.parametrize("learn_alpha", [False, True])
def test_l2_softmax_equals_its_twin(seed, learn_alpha):
    head = heads.L2Softmax(WIDTH, CLASSES, alpha=7.5, learn_alpha=learn_alpha)
    x, y, W, *fast = both(head, seed)
    assert_equal(fast, slow.l2_softmax(x, y, W, head.bias.detach().numpy(), head.alpha.item()))


@SEEDS
def test_normface_equals_its_twin(seed):
    x, y, W, *fast = both(heads.NormFace(WIDTH, CLASSES, scale=12.0), seed)
    assert_equal(fast, slow.normface(x, y, W, 12.0))


@SEEDS
@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_sphereface_equals_its_twin(seed, margin):
    x, y, W, *fast = both(heads.SphereFace(WIDTH, CLASSES, margin=margin, easing=0.0), seed)
    assert_equal(fast, slow.sphereface(x, y, W, margin))


@SEEDS
def test_an_eased_sphereface_is_the_weighted_mean_of_two_twins(seed):
    x, y, W, _, logits = both(heads.SphereFace(WIDTH, CLASSES, margin=4, easing=3.0), seed)
    with_margin, without = slow.sphereface(x, y, W, 4)[1], slow.sphereface(x, y, W, 1)[1]
    np.testing.assert_allclose(logits, (np.asarray(with_margin) + 3 * np.asarray(without)) / 4, rtol=1e-10, atol=1e-10)


@SEEDS
@pytest.mark.parametrize("margin", [0.0, 0.35])
def test_cosface_equals_its_twin(seed, margin):
    x, y, W, *fast = both(heads.CosFace(WIDTH, CLASSES, scale=30.0, margin=margin), seed)
    assert_equal(fast, slow.cosface(x, y, W, 30.0, margin))


@SEEDS
@CENTRES
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5, 1.5])
def test_arcface_equals_its_twin(seed, K, margin):
    x, y, W, *fast = both(heads.ArcFace(WIDTH, CLASSES, scale=30.0, margin=margin, sub_centers=K), seed)
    assert_equal(fast, slow.subcenter_arcface(x, y, W, K, 30.0, margin))
    if K == 1:
        assert_equal(fast, slow.arcface(x, y, W, 30.0, margin))


@SEEDS
def test_adacos_equals_its_twin(seed):
    x, y, W, *fast = both(heads.AdaCos(WIDTH, CLASSES), seed)
    assert_equal(fast, slow.adacos(x, y, W))


@SEEDS
@pytest.mark.parametrize("before", [0.5, 2.9, 20.0])
def test_dynamic_adacos_equals_its_twin(seed, before):
    head = heads.DynamicAdaCos(WIDTH, CLASSES)
    head.scale.fill_(before)
    x, y, W, *fast = both(head, seed)
    assert_equal([*fast, head.scale.item()], slow.adacos_dynamic(x, y, W, before))


def test_dynamic_adacos_starts_from_the_fixed_scale_and_stays_above_its_floor():
    head = heads.DynamicAdaCos(WIDTH, 3)
    assert head.scale.item() == pytest.approx(adacos_scale(3))
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, 0], head.weight[1:, 0] = 1.0, -1.0
    head(head.weight[:1].detach(), torch.tensor([0]))  # both negatives opposite: ln B_avg is below 0
    assert head.scale.item() == pytest.approx(0.1)


@SEEDS
@CENTRES
def test_subcluster_adacos_with_a_fixed_scale_equals_its_twin(seed, K):
    x, y, W, *fast = both(heads.SubClusterAdaCos(WIDTH, CLASSES, sub_centers=K), seed)
    assert_equal(fast, slow.subcluster_adacos(x, y, W, K, slow.subcluster_adacos_scale(CLASSES, K)))


@SEEDS
@CENTRES
@pytest.mark.parametrize("before", [0.5, 5.0, 20.0])
def test_subcluster_adacos_with_an_adaptive_scale_equals_its_twin(seed, K, before):
    head = heads.SubClusterAdaCos(WIDTH, CLASSES, sub_centers=K, adaptive=True)
    head.scale.fill_(before)
    x, y, W, *fast = both(head, seed)
    assert_equal([*fast, head.scale.item()], slow.subcluster_adacos_adaptive(x, y, W, K, before))


@SEEDS
@CENTRES
@pytest.mark.parametrize("count", [40, 41])  # the median of an even number is a mean
@pytest.mark.parametrize("share", [0.6, 0.4])
def test_the_adaptive_scale_is_that_of_the_median_angle_cut_off_at_45_degrees(seed, K, count, share):
    generator = np.random.default_rng(seed)
    W = generator.normal(size=(CLASSES * K, WIDTH))
    y = generator.integers(0, CLASSES, count)
    noise = np.where(np.arange(count) < share * count, 0.3, 4.0) * generator.uniform(0.5, 1.5, count)
    x = W[K * y] + noise[:, None] * generator.normal(size=(count, WIDTH))
    nearest = slow.class_cosines(x, W, K)[np.arange(count), y]
    assert (np.median(np.arccos(nearest)) < math.pi / 4) == (share > 0.5)  # trained, and not yet
    head = heads.SubClusterAdaCos(WIDTH, CLASSES, sub_centers=K, adaptive=True)
    pairs = [(head, lambda: slow.subcluster_adacos_adaptive(x, y, W, K, 5.0))]
    if K == 1:
        pairs.append((heads.DynamicAdaCos(WIDTH, CLASSES), lambda: slow.adacos_dynamic(x, y, W, 5.0)))
    for head, twin in pairs:
        head.scale.fill_(5.0)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(W))
        loss, logits = head(torch.from_numpy(x), torch.from_numpy(y))
        assert_equal([loss.item(), logits.detach().numpy(), head.scale.item()], twin())


@SEEDS
@pytest.mark.parametrize("before", [0.0, 0.4])
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5])
def test_curricularface_equals_its_twin(seed, before, margin):
    head = heads.CurricularFace(WIDTH, CLASSES, scale=16.0, margin=margin)
    head.t.fill_(before)
    x, y, W, *fast = both(head, seed)
    assert_equal([*fast, head.t.item()], newer.curricularface(x, y, W, 16.0, margin, before))


@SEEDS
@pytest.mark.parametrize("spread", [2.0, 100.0])
def test_adaface_equals_its_twin(seed, spread):
    head = heads.AdaFace(WIDTH, CLASSES, scale=16.0, margin=0.4, concentration=0.333, momentum=0.01)
    head.mean.fill_(15.0)
    head.std.fill_(spread)
    x, y, W, *fast = both(head, seed, length=5.0)
    expected = newer.adaface(x, y, W, 16.0, 0.4, h=0.333, mean_before=15.0, std_before=spread, t_alpha=0.01)
    assert_equal([*fast, head.mean.item(), head.std.item()], expected)


@SEEDS
def test_adaface_equals_its_twin_for_embeddings_longer_than_it_looks_at(seed):
    head = heads.AdaFace(WIDTH, CLASSES, scale=16.0)
    x, y, W, *fast = both(head, seed, length=30.0)
    assert 0.1 < np.mean(np.linalg.norm(x, axis=1) > 100) < 0.9
    expected = newer.adaface(x, y, W, 16.0, 0.4, h=0.333, mean_before=20.0, std_before=100.0)
    assert_equal([*fast, head.mean.item(), head.std.item()], expected)


@SEEDS
def test_magface_equals_its_twin(seed):
    head = heads.MagFace(WIDTH, CLASSES, scale=16.0, lengths=(5.0, 30.0), margins=(0.3, 0.9), regulariser=7.0)
    x, y, W, *fast = both(head, seed, length=5.0)
    ends = {"lower_norm": 5.0, "upper_norm": 30.0, "lower_margin": 0.3, "upper_margin": 0.9}
    assert_equal(fast, newer.magface(x, y, W, 16.0, **ends, weight=7.0))


GRADIENTS = {
    "softmax": lambda: heads.Softmax(WIDTH, CLASSES),
    "l2_softmax": lambda: heads.L2Softmax(WIDTH, CLASSES, learn_alpha=True),
    "normface": lambda: heads.NormFace(WIDTH, CLASSES, scale=8.0),
    "sphereface": lambda: heads.SphereFace(WIDTH, CLASSES, margin=4, easing=0.0),
    "cosface": lambda: heads.CosFace(WIDTH, CLASSES, scale=8.0),
    "arcface": lambda: heads.ArcFace(WIDTH, CLASSES, scale=8.0, margin=0.5),
    "subcenter_arcface": lambda: heads.ArcFace(WIDTH, CLASSES, scale=8.0, margin=0.5, sub_centers=3),
    "adacos_dynamic": lambda: heads.DynamicAdaCos(WIDTH, CLASSES),
    "subcluster_adacos": lambda: heads.SubClusterAdaCos(WIDTH, CLASSES, sub_centers=3, adaptive=True),
    "curricularface": lambda: heads.CurricularFace(WIDTH, CLASSES, scale=8.0),
    "adaface": lambda: heads.AdaFace(WIDTH, CLASSES, scale=8.0),
    "magface": lambda: heads.MagFace(WIDTH, CLASSES, scale=8.0, lengths=(1.0, 110.0)),
}


@SEEDS
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_finite_differences(name, seed):
    head = GRADIENTS[name]().eval()  # the state is a constant to the gradient
    torch.manual_seed(seed)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    x, y = (torch.from_numpy(values[:12]) for values in data(seed, length=2.0))
    x.requires_grad_(name != "adaface")  # its margin takes the length of x as a constant
    names, parameters = zip(*head.named_parameters(), strict=True)

    def loss(x, *parameters):
        return torch.func.functional_call(head, dict(zip(names, parameters, strict=True)), (x, y))[0]

    assert torch.autograd.gradcheck(loss, (x, *parameters), eps=1e-6, atol=1e-6)


def arcface_pair(margin: float):
    return (
        heads.ArcFace(WIDTH, CLASSES, scale=30.0, margin=margin),
        losses.ArcFaceLoss(CLASSES, WIDTH, margin=math.degrees(margin), scale=30),
    )


PAIRS = {
    "normface": lambda: (
        heads.NormFace(WIDTH, CLASSES, scale=8.0),
        losses.NormalizedSoftmaxLoss(CLASSES, WIDTH, temperature=1 / 8),
    ),
    "sphereface": lambda: (
        heads.SphereFace(WIDTH, CLASSES, margin=4, easing=0.0),
        losses.SphereFaceLoss(CLASSES, WIDTH, margin=4, scale=1),
    ),
    "cosface": lambda: (
        heads.CosFace(WIDTH, CLASSES, scale=30.0, margin=0.35),
        losses.CosFaceLoss(CLASSES, WIDTH, margin=0.35, scale=30),
    ),
    "arcface without margin": lambda: arcface_pair(0.0),
    "arcface of the article": lambda: arcface_pair(0.05),
    "arcface of the paper": lambda: arcface_pair(0.5),
    "sub-center arcface": lambda: (
        heads.ArcFace(WIDTH, CLASSES, scale=30.0, margin=0.5, sub_centers=3),
        losses.SubCenterArcFaceLoss(
            num_classes=CLASSES, embedding_size=WIDTH, margin=math.degrees(0.5), scale=30, sub_centers=3
        ),
    ),
}


# Its SphereFace feeds a tensor to scipy, which NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@SEEDS
@pytest.mark.parametrize("pair", PAIRS)
def test_heads_equal_pytorch_metric_learning(pair, seed):
    head, other = PAIRS[pair]()
    x, y, W, loss, _ = both(head, seed)
    other = other.double()
    with torch.no_grad():
        other.W.copy_(torch.from_numpy(W.T))
    assert loss == pytest.approx(other(torch.from_numpy(x), torch.from_numpy(y)).item(), rel=1e-10)


@pytest.mark.parametrize("loss", ["ProxyAnchorLoss", "ContrastiveLoss", "SubCenterArcFaceLoss"])
def test_the_library_s_own_losses_pass_through(loss):
    head = heads.PytorchMetricLearning(WIDTH, CLASSES, loss=loss).double()
    x, y = (torch.from_numpy(values) for values in data(1))
    value, _ = head(x, y)
    assert value.item() == head.criterion(x, y).item()


@pytest.mark.parametrize("margin", [0.05, 0.5])
def test_arcface_equals_its_twin_at_every_angle(margin):
    degrees = np.linspace(0, 180, 721)
    angles = np.deg2rad(degrees[np.abs(np.deg2rad(degrees) + margin - math.pi) > 1e-6])
    fast = add_angular_margin(torch.from_numpy(np.cos(angles)), margin).numpy()
    expected = [slow.arcface_true_logit(angle, 1.0, margin) for angle in np.cos(angles)]
    np.testing.assert_allclose(fast, expected, atol=3e-8)  # near 0 and 180 degrees acos itself is good to 1e-8


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_sphereface_equals_its_twin_at_every_angle(m):
    angles = np.linspace(0, math.pi, 721)
    fast = multiply_angle(torch.from_numpy(np.cos(angles)), m).numpy()
    np.testing.assert_allclose(fast, [slow.sphereface_psi(angle, m) for angle in angles], atol=1e-9)


@pytest.mark.parametrize("angle", [-0.4, 0.0, 0.4])
def test_an_angle_is_shifted_within_0_and_180_degrees(angle):
    angles = np.linspace(0, math.pi, 721)
    fast = shifted(torch.from_numpy(np.cos(angles)), torch.tensor(angle)).numpy()
    np.testing.assert_allclose(fast, np.cos(np.clip(angles + angle, 0, math.pi)), atol=2e-8)


@pytest.mark.parametrize(("classes", "scale"), [(9, 2.9408), (4, 1.5537), (3, 0.9803), (2, 0.0)])
def test_the_scale_of_adacos_is_that_of_the_protocol(classes, scale):
    assert adacos_scale(classes) == pytest.approx(scale, abs=5e-5)
    if classes > 2:
        assert heads.AdaCos(WIDTH, classes).scale.item() == pytest.approx(scale, abs=5e-5)


@pytest.mark.parametrize(
    ("make", "scale"),
    [
        (lambda: heads.ArcFace(WIDTH, CLASSES, scale=10.0, margin=0.0), 10.0),
        (lambda: heads.CosFace(WIDTH, CLASSES, scale=10.0, margin=0.0), 10.0),
        (lambda: heads.MagFace(WIDTH, CLASSES, scale=10.0, margins=(0.0, 0.0), regulariser=0.0), 10.0),
        (lambda: heads.AdaFace(WIDTH, CLASSES, scale=10.0, margin=0.0), 10.0),
        (lambda: heads.AdaCos(WIDTH, CLASSES), math.sqrt(2) * math.log(CLASSES - 1)),
        (lambda: heads.DynamicAdaCos(WIDTH, CLASSES).eval(), math.sqrt(2) * math.log(CLASSES - 1)),
        (lambda: heads.SubClusterAdaCos(WIDTH, CLASSES, sub_centers=1), math.sqrt(2) * math.log(CLASSES - 1)),
    ],
    ids=["arcface", "cosface", "magface", "adaface", "adacos", "adacos_dynamic", "subcluster_adacos"],
)
def test_without_margin_a_head_is_normface(make, scale):
    head, plain = make(), heads.NormFace(WIDTH, CLASSES, scale=scale)
    with torch.no_grad():
        plain.weight.copy_(head.weight)
    x, y = (torch.from_numpy(values) for values in data(0))
    for ours, theirs in zip(head(x, y), plain(x, y), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_sphereface_without_margin_is_softmax_on_normalised_weights():
    head = heads.SphereFace(WIDTH, CLASSES, margin=1, easing=5.0)
    x, y = (torch.from_numpy(values) for values in data(0))
    logits = x @ torch.nn.functional.normalize(head.weight).T
    torch.testing.assert_close(head(x, y)[0], torch.nn.functional.cross_entropy(logits, y))


def test_sines_are_right_and_have_finite_slope_at_both_ends():
    cosine = torch.linspace(-1, 1, 1001, dtype=torch.float64, requires_grad=True)
    sine = sines(cosine)
    np.testing.assert_allclose(sine.detach(), np.sqrt(1 - np.linspace(-1, 1, 1001) ** 2), atol=2e-8)
    sine.sum().backward()
    assert torch.isfinite(cosine.grad).all()
