"""The contract that every head in conf/head keeps; a new YAML is tested the moment it exists.

So is every YAML in the folder that the environment variable METRAD_TEST_HEADS names, for heads outside this repository:

    METRAD_TEST_HEADS=my/head PYTHONPATH=. pytest tests/contract/models/test_heads.py -k mine
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metrad.errors import InputError
from metrad.models.heads import CosineHead, Head
from tests.helpers.heads import BATCH, CLASSES, HEADS, OWN, WIDTH, centres, make, settings_of

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def batch(length: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings, of one length if it is given, and labels."""
    embeddings = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    if length is not None:
        embeddings = length * F.normalize(embeddings.double())
    return embeddings, torch.arange(BATCH) % CLASSES


# What a head is, not what it is called, decides which parts of the contract hold: users' heads have names of their own.
PLAIN_LOSS = [name for name in HEADS if type(make(name)).loss is Head.loss]  # else a regulariser, or no logits in it
COSINE = [name for name in HEADS if isinstance(make(name), CosineHead) and name != "subcluster_adacos"]


def state(head: Head) -> dict[str, torch.Tensor]:
    values = {**dict(head.named_buffers()), **head.state_dict()}
    return {key: value.detach().clone() for key, value in values.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1e-8, 1e-3, 1.0, 1e4])
def test_loss_logits_and_gradients_are_finite_and_at_least_float32(name, dtype, length):
    head = make(name).to(dtype if dtype == torch.float64 else torch.float32)
    embeddings, labels = batch(length)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.full((BATCH,), length, dtype=torch.float64))
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
    factor = {"along": 1.0, "against": -1.0, "zero": 0.0}[kind]
    embeddings = (factor * centres(head)).requires_grad_()
    loss, _ = head(embeddings, torch.arange(CLASSES))
    loss.backward()
    for values in (loss, embeddings.grad, *(p.grad for p in head.parameters())):
        assert torch.isfinite(values).all()


def fresh(head: Head, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Call a copy of ``head``, so that what it learns from a batch does not reach the next call."""
    return copy.deepcopy(head)(*inputs)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("half", [False, True], ids=["float32 embeddings", "half embeddings"])
def test_logits_stay_float32_under_autocast(name, autocast, half):
    head = make(name)
    embeddings, labels = batch()
    embeddings = embeddings.to(autocast) if half else embeddings
    with torch.autocast("cpu", autocast):
        loss, logits = fresh(head, embeddings, labels)
    plain_loss, plain_logits = fresh(head, embeddings.float(), labels)
    assert logits.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(logits, plain_logits, rtol=0, atol=0)
    torch.testing.assert_close(loss, plain_loss, rtol=0, atol=0)


@pytest.mark.parametrize("name", PLAIN_LOSS)
def test_the_loss_is_the_mean_cross_entropy_of_the_logits(name):
    head, (embeddings, labels) = make(name), batch()
    loss, logits = head(embeddings, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("name", HEADS)
def test_the_margin_never_raises_the_true_logit(name):
    head, (embeddings, labels) = make(name), batch()
    with torch.no_grad():
        _, trained = head(embeddings, labels)
        plain = head.logits(embeddings)  # after the call, so at the same scale
    is_true = F.one_hot(labels, CLASSES).bool()
    assert (trained[is_true] <= plain[is_true] + 1e-5).all()


@pytest.mark.parametrize("name", HEADS)
def test_the_order_of_the_batch_changes_nothing(name):
    head, (embeddings, labels) = make(name).double(), batch()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(2))
    loss, logits = fresh(head, embeddings.double(), labels)
    shuffled_loss, shuffled_logits = fresh(head, embeddings.double()[order], labels[order])
    torch.testing.assert_close(shuffled_logits, logits[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shuffled_loss, loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_all_state_is_in_the_state_dict(name):
    head, (embeddings, labels) = make(name), batch()
    for _ in range(3):
        head(embeddings, labels)
    other = make(name)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(embeddings, labels)[0], head(embeddings, labels)[0])


@pytest.mark.parametrize("name", HEADS)
def test_evaluation_changes_no_state(name):
    head, (embeddings, labels) = make(name).eval(), batch()
    before = state(head)
    head(embeddings, labels)
    head.logits(embeddings)
    assert same(state(head), before)


@pytest.mark.parametrize("name", ["adacos_dynamic", "subcluster_adacos"])
def test_the_scale_of_dynamic_heads_changes_in_training_mode_only(name):
    head, (embeddings, labels) = make(name), batch()
    scales = [head.scale.item()]
    for mode in (True, False, True):
        head.train(mode)(embeddings, labels)
        scales.append(head.scale.item())
    start, trained, evaluated, trained_again = scales
    assert trained != start
    assert evaluated == trained
    assert trained_again != evaluated


@pytest.mark.parametrize("name", ["adacos_dynamic", "subcluster_adacos"])
def test_a_batch_that_is_not_finite_leaves_the_dynamic_scale_as_it_was(name):
    head, (embeddings, labels) = make(name), batch()
    before = head.scale.clone()
    head(embeddings.fill_(math.nan), labels)
    assert torch.equal(head.scale, before)


@pytest.mark.parametrize("name", sorted({"adacos_dynamic", "adaface", "curricularface", "pml", "subcluster_adacos"}))
def test_training_changes_the_state_of_adaptive_heads_without_gradient(name):
    head, (embeddings, labels) = make(name), batch()
    before = state(head)
    head(embeddings.requires_grad_(), labels)
    assert not same(state(head), before)
    assert not any(value.requires_grad for value in head.buffers())


@pytest.mark.parametrize("name", HEADS)
def test_no_gradient_flows_through_what_a_batch_changes(name):
    training, (embeddings, labels) = make(name).double(), batch(5.0)
    fixed = copy.deepcopy(training).eval()
    gradients = []
    for head in (training, fixed):  # the second with the state that the first has reached, as constants
        head.load_state_dict(training.state_dict())
        inputs = embeddings.clone().requires_grad_()
        head(inputs, labels)[0].backward()
        gradients.append([inputs.grad, *(p.grad for p in head.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(COSINE) - {"magface", "sphereface"} - set(OWN)))  # these two use the length
def test_the_loss_of_a_cosine_head_does_not_pull_at_the_length(name):
    head, (embeddings, labels) = make(name).double(), batch(20.0)
    head(embeddings.requires_grad_(), labels)[0].backward()
    along = (embeddings.grad * embeddings).sum(dim=1)
    assert embeddings.grad.abs().max() > 1e-6
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_a_batch_of_one_leaves_finite_state(name):
    head, (embeddings, labels) = make(name), batch()
    loss, logits = head(embeddings[:1], labels[:1])
    assert logits.shape == (1, CLASSES)
    for values in (loss, logits, *head.buffers()):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", HEADS)
def test_two_batches_may_wait_for_one_backward_pass(name):
    head, (embeddings, labels) = make(name), batch()
    first, _ = head(embeddings, labels)
    second, _ = head(embeddings.flip(0), labels.flip(0))
    (first + second).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("length", [1e-8, 1e-3, 1.0, 1e4])
def test_cosines_and_multiplier_are_what_the_statistics_need(name, length):
    head, (embeddings, labels) = make(name), batch(length)
    head(embeddings.float(), labels)
    before = state(head)
    cosine, multiplier = head.class_cosines(embeddings.float()), head.multiplier(embeddings.float())
    assert cosine.shape == multiplier.expand(BATCH, CLASSES).shape == (BATCH, CLASSES)
    assert cosine.abs().max() <= 1 + 1e-6
    assert torch.isfinite(multiplier).all()
    assert (multiplier >= 0).all()
    assert same(state(head), before)  # in training mode too, where the statistics are taken
    assert not any(value.requires_grad for value in head.buffers())
    assert all(p.grad is None for p in head.parameters())


@pytest.mark.parametrize("name", COSINE)
@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_cosine_heads_are_cosines_times_multiplier(name, training):
    head, (embeddings, labels) = make(name).train(training), batch()
    head(embeddings, labels)
    before = state(head)
    expected = head.multiplier(embeddings) * head.class_cosines(embeddings)
    torch.testing.assert_close(head.logits(embeddings), expected, rtol=0, atol=0)
    assert same(state(head), before)


@pytest.mark.parametrize("name", ["softmax", "l2_softmax"])
def test_the_logits_of_linear_heads_are_cosines_times_multiplier_and_bias(name):
    head, (embeddings, _) = make(name).double(), batch(3.0)
    nn.init.normal_(head.bias)
    expected = head.multiplier(embeddings) * head.class_cosines(embeddings) + head.bias
    torch.testing.assert_close(head.logits(embeddings), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_the_scale_is_a_buffer_or_there_is_none(name):
    head = make(name)
    assert not hasattr(head, "scale") or "scale" in dict(head.named_buffers())


@pytest.mark.compiles
@pytest.mark.parametrize("name", sorted(set(HEADS) - {"pml"}))  # the library's losses are not written for the compiler
def test_it_compiles_without_a_graph_break(name):
    torch.compiler.reset()  # the compiler counts how often Head.forward is compiled, over all heads
    head, (embeddings, labels) = make(name), batch()
    compiled = torch.compile(copy.deepcopy(head), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(embeddings, labels), fresh(head, embeddings, labels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    ("labels", "width", "message"),
    [
        ([0, CLASSES], WIDTH, f"labels 0 to {CLASSES - 1}, got 0 to {CLASSES}"),
        ([-1, 0], WIDTH, "got -1 to 0"),
        ([0, 1], WIDTH + 1, rf"embeddings \(N, {WIDTH}\), got \(2, {WIDTH + 1}\)"),
    ],
)
def test_labels_out_of_range_and_wrong_widths_are_refused(name, labels, width, message):
    with pytest.raises(InputError, match=message):
        make(name)(torch.ones(2, width), torch.tensor(labels))


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


@pytest.mark.parametrize("name", COSINE)
@pytest.mark.parametrize("length", [1.0, 20.0, 200.0])
def test_the_true_logit_falls_with_the_angle_from_0_to_180_degrees(name, length):
    # The margin is a function of the angle to one weight.
    head = make(name, **({"sub_centers": 1} if "sub_centers" in settings_of(name) else {})).double().eval()
    angles = torch.deg2rad(torch.linspace(0, 180, 1801, dtype=torch.float64))
    with torch.no_grad():
        head.weight.copy_(F.one_hot(torch.arange(CLASSES) + 2, WIDTH))
        head.weight[0] = F.one_hot(torch.tensor(0), WIDTH)
        embeddings = torch.zeros(len(angles), WIDTH, dtype=torch.float64)
        embeddings[:, 0], embeddings[:, 1] = length * angles.cos(), length * angles.sin()
        _, logits = head(embeddings, torch.zeros(len(angles), dtype=torch.int64))
        plain = head.logits(embeddings)
    steps = logits[:, 0].diff()
    assert (steps <= 1e-9).all()
    assert (steps < 0).sum() > 0.7 * len(steps)  # AdaFace holds it at the top where the angle is within its margin
    assert (logits[:, 0] <= plain[:, 0] + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("arcface", {"scale": 0.0}, r"head\.scale must be a number greater than 0, got 0"),
        ("normface", {"scale": math.nan}, r"head\.scale .* got nan"),
        ("cosface", {"scale": math.inf}, r"head\.scale .* got inf"),
        ("arcface", {"margin": -0.1}, r"head\.margin must lie in 0 to π/2"),
        ("subcenter_arcface", {"margin": 2.0}, r"head\.margin must lie in 0 to π/2"),
        ("cosface", {"margin": 2.5}, r"head\.margin of CosFace must lie in 0 to 2"),
        ("sphereface", {"margin": 0}, r"head\.margin of SphereFace must be a whole number"),
        ("adacos", {"sub_centers": 0}, r"head\.sub_centers must be at least 1, got 0"),
        ("subcluster_adacos", {"sub_centers": 0}, r"head\.sub_centers must be at least 1, got 0"),
        ("l2_softmax", {"alpha": -1.0}, r"head\.alpha must be a number greater than 0"),
        ("curricularface", {"margin": 4.0}, r"head\.margin must lie in"),
        ("adaface", {"concentration": 0.0}, r"head\.concentration must be a number greater than 0"),
        ("adaface", {"momentum": 0.0}, r"head\.momentum must lie above 0"),
        ("magface", {"margins": [0.8, 0.4]}, r"head\.lengths must rise from above 0 and head\.margins must not fall"),
        ("magface", {"lengths": [0.0, 1.0]}, r"head\.lengths must rise from above 0 and head\.margins must not fall"),
        ("magface", {"regulariser": -1.0}, r"head\.regulariser must be at least 0"),
        ("pml", {"loss": "NoLoss"}, r"head\.loss=NoLoss is no loss of .*; choose one of .*ArcFaceLoss"),
        ("pml", {"loss_args": {"no": 1}}, r"head\.loss_args=\{'no': 1\} do not suit ProxyAnchorLoss"),
    ],
)
def test_settings_out_of_their_domain_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        make(name, **settings)
