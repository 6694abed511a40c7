"""The contract that every head in conf/head keeps; a new YAML is tested the moment it exists."""

import math

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from metrad import config
from metrad.errors import InputError
from metrad.heads import CosineHead, Head

WIDTH, CLASSES, BATCH = 16, 9, 32
HEADS = sorted(config.choices()["head"])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def make(name: str, num_classes: int = CLASSES, **settings: object) -> Head:
    torch.manual_seed(0)
    node = OmegaConf.load(config.folder() / "head" / f"{name}.yaml")
    cfg = OmegaConf.create({"head": {**node, **settings}, "allow_targets": []})
    return config.build(cfg, "head", in_features=WIDTH, num_classes=num_classes)


def batch(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(BATCH, WIDTH, generator=generator), torch.arange(BATCH) % CLASSES


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e4])
def test_loss_logits_and_gradients_are_finite_and_at_least_float32(name, dtype, scale):
    head = make(name).to(dtype if dtype == torch.float64 else torch.float32)
    embeddings, labels = batch(scale)
    embeddings = embeddings.to(dtype).requires_grad_()
    loss, logits = head(embeddings, labels)
    loss.backward()
    assert loss.shape == ()
    assert logits.shape == (BATCH, CLASSES)
    assert logits.dtype == loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for values in (loss, logits, embeddings.grad, *(p.grad for p in head.parameters())):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["along", "against", "zero"])
def test_gradients_are_finite_at_the_ends_of_the_angle_and_at_zero(name, kind):
    head = make(name)
    labels = torch.arange(CLASSES)
    factor = {"along": 1.0, "against": -1.0, "zero": 0.0}[kind]
    embeddings = (factor * head.weight.detach().clone()).requires_grad_()
    loss, _ = head(embeddings, labels)
    loss.backward()
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize("name", HEADS)
def test_logits_stay_float32_under_autocast(name):
    head = make(name)
    embeddings, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, logits = head(embeddings, labels)
    plain_loss, plain_logits = head(embeddings, labels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, plain_logits, rtol=0, atol=0)
    torch.testing.assert_close(loss, plain_loss, rtol=0, atol=0)


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_the_mean_cross_entropy_of_the_logits(name):
    head, (embeddings, labels) = make(name), batch()
    loss, logits = head(embeddings, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("name", HEADS)
def test_the_margin_lowers_the_true_logit_only(name):
    head, (embeddings, labels) = make(name), batch()
    with torch.no_grad():
        plain = head.logits(embeddings)
        _, trained = head(embeddings, labels)
    is_true = F.one_hot(labels, CLASSES).bool()
    assert (trained[is_true] <= plain[is_true] + 1e-5).all()
    torch.testing.assert_close(trained[~is_true], plain[~is_true])


@pytest.mark.parametrize("name", HEADS)
def test_the_order_of_the_batch_changes_nothing(name):
    head, (embeddings, labels) = make(name).double(), batch()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(2))
    loss, logits = head(embeddings.double(), labels)
    shuffled_loss, shuffled_logits = head(embeddings.double()[order], labels[order])
    torch.testing.assert_close(shuffled_logits, logits[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shuffled_loss, loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_all_state_is_in_the_state_dict(name):
    head, (embeddings, labels) = make(name), batch()
    other = make(name)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(embeddings, labels)[0], head(embeddings, labels)[0])


@pytest.mark.parametrize("name", HEADS)
def test_evaluation_changes_no_state(name):
    head, (embeddings, labels) = make(name).eval(), batch()
    before = {key: value.clone() for key, value in head.state_dict().items()}
    head(embeddings, labels)
    head.logits(embeddings)
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_a_few_steps_teach_separable_classes(name):
    head = make(name, num_classes=3)
    labels = torch.arange(60) % 3
    embeddings = torch.eye(WIDTH)[labels] + 0.1 * torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    first, _ = head(embeddings, labels)
    for _ in range(60):
        loss, _ = head(embeddings, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < first
    assert (head.logits(embeddings).argmax(dim=1) == labels).all()


@pytest.mark.parametrize("name", HEADS)
def test_too_few_classes_are_refused_by_name(name):
    smallest = type(make(name)).min_classes
    make(name, num_classes=smallest)
    with pytest.raises(InputError, match=f"at least {smallest} classes"):
        make(name, num_classes=smallest - 1)


@pytest.mark.parametrize("name", [name for name in HEADS if isinstance(make(name), CosineHead)])
def test_the_true_logit_falls_with_the_angle_from_0_to_180_degrees(name):
    head = make(name).double()
    degrees = torch.linspace(0, 180, 1801, dtype=torch.float64)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, 2] = 1.0
        head.weight[0] = F.one_hot(torch.tensor(0), WIDTH)
        angles = torch.deg2rad(degrees)
        embeddings = torch.zeros(len(degrees), WIDTH, dtype=torch.float64)
        embeddings[:, 0], embeddings[:, 1] = angles.cos(), angles.sin()
        _, logits = head(embeddings, torch.zeros(len(degrees), dtype=torch.int64))
    assert (logits[:, 0].diff() < 0).all()
    assert (logits[:, 0] <= head.scale * angles.cos() + 1e-9).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("arcface", {"scale": 0.0}, "head.scale must be greater than 0"),
        ("arcface", {"scale": math.nan}, "head.scale"),
        ("arcface", {"margin": -0.1}, "head.margin must lie in"),
        ("arcface", {"margin": 2.0}, "head.margin must lie in"),
        ("l2_softmax", {"alpha": -1.0}, "head.alpha must be greater than 0"),
    ],
)
def test_settings_out_of_their_domain_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        make(name, **settings)
