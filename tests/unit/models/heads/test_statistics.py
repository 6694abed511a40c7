"""What is told about a head over an epoch, against plain numpy; and the stop at embeddings that are not finite."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from metrad.errors import TrainingError
from metrad.models import heads
from metrad.models.heads import HeadStatistics
from metrad.training.learner import MetricLearner

WIDTH, CLASSES = 8, 5
QUANTILES = {"angle_q05": 0.05, "angle_q25": 0.25, "angle_median": 0.5, "angle_q75": 0.75, "angle_q95": 0.95}


def class_cosines(x: np.ndarray, W: np.ndarray, K: int = 1) -> np.ndarray:
    """Return the cosine with the nearest of each class's K weights, (N, C)."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    W = W / np.linalg.norm(W, axis=1, keepdims=True)
    return (x @ W.T).reshape(len(x), -1, K).max(axis=2)


def arcface(x, head):
    cosine = class_cosines(x, numbers(head.weight), K=2)
    return cosine, 12.0 * cosine, np.full(len(x), 12.0)


def softmax(x, head):
    W, b = numbers(head.weight), numbers(head.bias)
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(W, axis=1).mean()
    return class_cosines(x, W), x @ W.T + b, scale


def sphereface(x, head):
    cosine, length = class_cosines(x, numbers(head.weight)), np.linalg.norm(x, axis=1)
    return cosine, length[:, None] * cosine, length


def subcluster(x, head):
    W, scale = numbers(head.weight), float(head.scale)
    centres = np.stack([class_cosines(x, W[k::3]) for k in range(3)])
    return class_cosines(x, W, K=3), np.log(np.exp(scale * centres).sum(axis=0)), np.full(len(x), scale)


CASES = {
    "arcface": (lambda: heads.ArcFace(WIDTH, CLASSES, scale=12.0, margin=0.5, sub_centers=2), arcface),
    "softmax": (lambda: heads.Softmax(WIDTH, CLASSES), softmax),
    "sphereface": (lambda: heads.SphereFace(WIDTH, CLASSES), sphereface),
    "subcluster": (lambda: heads.SubClusterAdaCos(WIDTH, CLASSES, sub_centers=3, adaptive=True), subcluster),
}


def numbers(values: torch.Tensor) -> np.ndarray:
    return values.detach().numpy()


def prepared(name: str) -> heads.Head:
    torch.manual_seed(0)
    head = CASES[name][0]().double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head


def batches(sizes=(17, 1, 30)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = np.random.default_rng(3)
    x = [generator.normal(size=(n, WIDTH)) * generator.uniform(0.5, 4, size=(n, 1)) for n in sizes]
    return [(torch.from_numpy(one), torch.from_numpy(generator.integers(0, CLASSES, len(one)))) for one in x]


@pytest.mark.parametrize("name", CASES)
def test_statistics_of_several_batches_equal_those_of_numpy(name):
    head, figures = prepared(name), HeadStatistics()
    for embeddings, labels in batches():
        figures.update(head, embeddings.requires_grad_(), labels)
    x = np.concatenate([numbers(embeddings) for embeddings, _ in batches()])
    y = np.concatenate([numbers(labels) for _, labels in batches()])
    cosine, logits, scale = CASES[name][1](x, head)
    true = cosine[np.arange(len(y)), y]
    wrong = np.where(np.arange(CLASSES) == y[:, None], -np.inf, cosine).max(axis=1)
    angles = np.degrees(np.arccos(true))
    expected = {
        "scale": scale.mean(),
        **{key: np.quantile(angles, q) for key, q in QUANTILES.items()},
        "largest_wrong_cosine": wrong.mean(),
        "accuracy": (logits.argmax(axis=1) == y).mean(),
    }
    found = figures.compute()
    assert found == pytest.approx(expected, rel=1e-6)
    assert all(type(value) is float for value in found.values())


def test_the_accuracy_is_that_without_margin():
    head, (embeddings, labels) = prepared("arcface"), batches()[2]
    with torch.no_grad():
        embeddings = (head.weight[2 * labels] + 0.9 * embeddings).detach()
        right = head.logits(embeddings).argmax(dim=1) == labels
        with_margin = head(embeddings, labels)[1].argmax(dim=1) == labels
    figures = HeadStatistics()
    figures.update(head, embeddings, labels)
    assert figures.compute()["accuracy"] == pytest.approx(right.double().mean().item())
    assert right.sum() > with_margin.sum()


@pytest.mark.parametrize("name", CASES)
def test_an_update_changes_no_head_and_keeps_no_graph(name):
    head, figures = prepared(name), HeadStatistics()
    before = {key: value.clone() for key, value in head.state_dict().items()}
    embeddings, labels = batches()[0]
    with torch.autocast("cpu", torch.bfloat16):
        figures.update(head, embeddings.requires_grad_(), labels)
    assert head.training
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())
    for kept in (figures.scales, figures.true_cosines, figures.wrong_cosines, figures.right):
        assert not kept[0].requires_grad
        assert kept[0].dtype in (torch.float64, torch.bool)  # nothing was rounded by autocast


def test_a_reset_forgets_the_epoch_before():
    head, figures, fresh = prepared("arcface"), HeadStatistics(), HeadStatistics()
    first, second, _ = batches()
    figures.update(head, *first)
    figures.reset()
    for each in (figures, fresh):
        each.update(head, *second)
    assert figures.compute() == fresh.compute()


class Vectors(nn.Module):
    """An embedder whose images are the embeddings."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def learner(head: heads.Head, monkeypatch: pytest.MonkeyPatch) -> MetricLearner:
    """Return a learner in the middle of training, without a trainer."""
    made = MetricLearner(Vectors(), head, torch.optim.SGD)
    monkeypatch.setattr(made, "log", lambda *_, **__: None)
    monkeypatch.setattr(MetricLearner, "global_step", 7)
    monkeypatch.setattr(MetricLearner, "current_epoch", 2)
    return made


LOSSES = {
    "arcface": lambda: heads.ArcFace(WIDTH, CLASSES),
    "a pair loss": lambda: heads.PytorchMetricLearning(WIDTH, CLASSES, loss="ContrastiveLoss"),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_stops_at_embeddings_that_are_not_finite_and_names_the_step(name, value, monkeypatch):
    head, (embeddings, labels) = LOSSES[name](), batches()[0]
    embeddings = embeddings.float()
    assert torch.isfinite(learner(head, monkeypatch).training_step((embeddings, labels), 7))
    embeddings[3:5, 0] = value
    with pytest.raises(TrainingError, match=r"2 of 17 embeddings became NaN or infinite at step 7 \(epoch 2\)"):
        learner(head, monkeypatch).training_step((embeddings, labels), 7)


def test_a_pair_loss_alone_would_not_tell_of_nan():
    embeddings, labels = batches()[0]
    embeddings[3:5] = math.nan
    assert torch.isfinite(LOSSES["a pair loss"]()(embeddings.float(), labels)[0])


def test_training_stops_at_a_loss_that_is_not_finite(monkeypatch):
    head = LOSSES["arcface"]()
    nn.init.constant_(head.weight, math.nan)
    embeddings, labels = batches()[0]
    with pytest.raises(TrainingError, match=r"the loss became nan at step 7 \(epoch 2\); lower optimizer\.lr"):
        learner(head, monkeypatch).training_step((embeddings.float(), labels), 7)
