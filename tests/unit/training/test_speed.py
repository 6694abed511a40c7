"""Which precision, whether to compile, and that neither measuring nor compiling changes anything else."""

import logging
import sys

import numpy as np
import pytest
import torch

from metrad.models.backbones import convnet, mobilenet_v2
from metrad.models.embedder import Embedder
from metrad.training import compiling, speed
from metrad.training.compiling import CPU_OPTIONS, Compiled
from metrad.training.speed import (
    COMPILED,
    EAGER,
    choose_compile,
    choose_precision,
    convolution_values,
    estimated_seconds,
    probe,
    probe_compiled,
)

BIG = speed.TINY
IMAGES = torch.randint(0, 256, (4, 16, 16, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(convnet(channels=[8, 16]), image_size=16)


@pytest.fixture
def machine(monkeypatch):
    def pretend(*, cuda=False, bf16=True, cpu=("avx512_bf16",)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))

    pretend()
    return pretend


def unasked():
    raise AssertionError("nothing is to be measured here")


@pytest.mark.parametrize("given", ["32-true", "bf16-mixed", 16])
def test_a_precision_that_is_given_is_taken(given, machine):
    assert choose_precision(given, "cpu", BIG, unasked) == (given, "given", {})


@pytest.mark.parametrize(("full", "half", "chosen"), [(10.0, 11.0, "bf16-mixed"), (11.0, 10.0, "32-true")])
def test_the_faster_precision_wins_on_a_cpu(full, half, chosen, machine):
    speeds = {"32-true": full, "bf16-mixed": half}
    for accelerator in ("cpu", "auto"):
        assert choose_precision("auto", accelerator, BIG, lambda: speeds) == (chosen, "the faster one here", speeds)


def test_nothing_is_measured_where_the_outcome_is_known(machine):
    assert choose_precision("auto", "cpu", BIG - 1, unasked)[0] == "32-true"
    machine(cpu=("avx2",))
    assert choose_precision("auto", "cpu", BIG, unasked)[0] == "32-true"
    assert choose_precision("auto", "mps", BIG, unasked)[0] == "32-true"
    machine(cuda=True)
    assert choose_precision("auto", "gpu", BIG, unasked)[0] == "bf16-mixed"
    machine(cuda=True, bf16=False)
    assert choose_precision("auto", "auto", BIG, unasked)[0] == "16-mixed"


def test_a_cpu_that_is_asked_for_beside_a_gpu_is_measured(machine):
    machine(cuda=True)
    assert choose_precision("auto", "cpu", BIG, lambda: {"32-true": 2.0, "bf16-mixed": 1.0})[0] == "32-true"


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setattr(speed, "missing_compiler", lambda device: None)


def test_compiling_is_done_where_told(compiler):
    assert choose_compile(True, "cpu", 1, 0.0, unasked) == (True, "given", {})
    assert choose_compile(True, "cuda", 1, 0.0, unasked) == (True, "given", {})
    assert choose_compile(False, "cpu", 10**9, 1e9, unasked) == (False, "given", {})


def test_auto_tries_where_the_trial_is_a_small_part_and_compiles_where_it_saves_more_than_it_takes(compiler):
    def measured(compiled):
        return lambda: {EAGER: 100.0, COMPILED: compiled}

    long = 10 * speed.COMPILE_SECONDS
    assert choose_compile("auto", "cpu", 10**5, long - 1, unasked)[0] is False
    assert choose_compile("auto", "cuda", 10**5, long, unasked)[0] is False
    # 100,000 images take 1,000 s as written; 75 s of compiling are saved from 925 s on
    assert choose_compile("auto", "cpu", 10**5, long, measured(109.0))[0] is True
    assert choose_compile("auto", "cpu", 10**5, long, measured(108.0))[0] is False
    assert choose_compile("auto", "cpu", 10**5, long, measured(50.0))[0] is False
    assert choose_compile("auto", "cpu", 10**5, long, measured(109.0))[2] == {EAGER: 100.0, COMPILED: 109.0}


def test_without_a_c_compiler_nothing_is_compiled_and_the_reason_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    for wanted in (True, "auto"):
        compiled, reason, _ = choose_compile(wanted, "cpu", 10**9, 1e9, unasked)
        assert not compiled
        assert "no-such-compiler" in reason
        assert "\n" not in reason
    assert choose_compile(True, "cuda", 1, 0.0, unasked)[0]
    monkeypatch.setenv("CXX", sys.executable)
    assert choose_compile(True, "cpu", 1, 0.0, unasked)[0]


def test_the_values_of_all_convolutions_are_counted(embedder):
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    embedder.train()
    assert convolution_values(embedder) == 8 * 16 * 16 + 16 * 8 * 8
    assert embedder.training
    assert all(torch.equal(value, before[key]) for key, value in embedder.state_dict().items())


def test_the_estimate_grows_with_the_images_and_falls_with_the_threads(embedder, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    seconds = estimated_seconds(embedder, 1000)
    assert seconds > 0
    assert estimated_seconds(embedder, 3000) == pytest.approx(3 * seconds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert estimated_seconds(embedder, 1000) == pytest.approx(seconds / 4)


def test_small_runs_are_never_tried_and_long_ones_are(monkeypatch, compiler):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    demo = Embedder(convnet(channels=[32, 64, 128]), image_size=32)
    assert not choose_compile("auto", "cpu", 16000, estimated_seconds(demo, 10 * 1600), unasked)[0]
    article = Embedder(mobilenet_v2(weights=None), image_size=96)
    assert 400 < estimated_seconds(article, 10 * 9000) < 900  # 600 s were measured, at 150 images a second
    assert not choose_compile("auto", "cpu", 9000, estimated_seconds(article, 9000), unasked)[0]
    fast = {EAGER: 150.0, COMPILED: 225.0}
    assert choose_compile("auto", "cpu", 270_000, estimated_seconds(article, 270_000), lambda: fast)[0]


def test_the_probe_measures_both_and_changes_nothing():
    embedder = Embedder(mobilenet_v2(weights=None, width=0.25), image_size=32)
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    embedder.eval()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state is what is watched
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    speeds = probe(embedder, batch=2, rounds=1)
    assert set(speeds) == set(speed.PROBED)
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


@pytest.fixture
def pretended(embedder, monkeypatch):
    """A compiler that compiles nothing and counts the batches that it would have run."""
    ran = []

    def compile_(function, *, dynamic, options):
        assert dynamic is False
        assert options == CPU_OPTIONS
        return lambda images: ran.append(len(images)) or function(images)

    monkeypatch.setattr(torch, "compile", compile_)
    embedder.forward = Compiled(embedder)
    return embedder, ran


def test_only_training_batches_of_the_first_shape_run_compiled(pretended):
    embedder, ran = pretended
    embedder.train()
    for size in (4, 3, 4, 1, 2, 4):
        assert embedder(IMAGES[:size].expand(size, -1, -1, -1)).shape == (size, 16)
    assert ran == [4, 4, 4]
    with torch.no_grad():
        embedder(IMAGES)
    embedder.eval()(IMAGES)
    assert ran == [4, 4, 4]


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


def test_the_names_of_weights_stay_as_they_are(pretended):
    embedder, _ = pretended
    assert list(embedder.state_dict()) == list(Embedder(convnet(channels=[8, 16]), image_size=16).state_dict())
    speed.CompileEmbedder().on_fit_end(None, torch.nn.ModuleDict({"embedder": embedder}))
    assert "forward" not in vars(embedder)
    assert embedder(IMAGES).shape == (4, 16)


def test_a_compiler_that_fails_is_told_once_and_training_goes_on(embedder, monkeypatch, caplog):
    def broken(images):
        raise RuntimeError("no headers\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic, options: broken)
    expected = embedder.train()(IMAGES)
    embedder.forward = Compiled(embedder)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(embedder(IMAGES), expected)
        assert torch.equal(embedder(IMAGES), expected)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["training goes on uncompiled, since torch.compile failed (no headers)"]
    compiling = speed.CompileEmbedder()
    compiling.on_fit_end(None, torch.nn.ModuleDict({"embedder": embedder}))
    asked = speed.Pace("32-true", "given", {}, True, "given")
    assert asked.kept([compiling]) == speed.Pace("32-true", "given", {}, False, "torch.compile failed (no headers)")
    assert asked.kept([speed.CompileEmbedder()]) is asked


def test_an_option_that_torch_no_longer_knows_is_told_and_training_goes_on(embedder, monkeypatch, caplog):
    monkeypatch.setattr(compiling, "CPU_OPTIONS", {"no_such_option": True})
    embedder.train().forward = Compiled(embedder)
    with caplog.at_level(logging.WARNING):
        assert embedder(IMAGES).shape == (4, 16)
    assert "no_such_option" in embedder.forward.failure
    assert [record.getMessage() for record in caplog.records] == [
        f"training goes on uncompiled, since torch.compile failed ({embedder.forward.failure})"
    ]


def test_what_is_wrong_with_the_model_is_still_an_error(embedder, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic, options: function)
    embedder.forward = Compiled(embedder)
    with pytest.raises(RuntimeError, match="expanded size"):
        embedder(IMAGES.expand(-1, -1, -1, 5))
