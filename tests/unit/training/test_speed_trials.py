"""Measuring the speed of training changes nothing."""

import numpy as np
import pytest
import torch

from metrad.models.backbones import convnet, mobilenet_v2
from metrad.models.embedder import Embedder
from metrad.training.compiling import COMPILED, EAGER
from metrad.training.precision import PROBED
from metrad.training.speed_trials import probe, probe_compiled


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(convnet(channels=[8, 16]), image_size=16)


def test_the_probe_measures_both_and_changes_nothing():
    embedder = Embedder(mobilenet_v2(weights=None, width=0.25), image_size=32)
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    embedder.eval()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state is what is watched
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    speeds = probe(embedder, batch=2, rounds=1)
    assert set(speeds) == set(PROBED)
    assert min(speeds.values()) > 0
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert not embedder.training
    assert all(torch.equal(value, before[key]) for key, value in embedder.state_dict().items())
    assert all(parameter.grad is None for parameter in embedder.parameters())


def test_the_probe_leaves_the_random_state_of_models_with_dropout_alone(embedder):
    embedder.backbone.append(torch.nn.Dropout(0.5))
    state = torch.random.get_rng_state()
    probe(embedder, batch=2, rounds=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_trying_a_compiler_changes_nothing(embedder, monkeypatch):
    ran = []

    def compile_(function, *, dynamic, options):
        return lambda images: ran.append(len(images)) or function(images)

    monkeypatch.setattr(torch, "compile", compile_)
    embedder.backbone.append(torch.nn.Dropout(0.5))
    state, before = torch.random.get_rng_state(), {key: value.clone() for key, value in embedder.state_dict().items()}
    speeds = probe_compiled(embedder, "bf16-mixed", 2, rounds=1)
    assert set(speeds) == {EAGER, COMPILED}
    assert min(speeds.values()) > 0
    assert ran == [2, 2]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in embedder.state_dict().items())
    assert "forward" not in vars(embedder)
