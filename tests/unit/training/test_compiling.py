"""Whether to compile, and that compiling changes nothing but the speed."""

import logging
import sys

import pytest
import torch

from metrad.models.backbones import convnet, mobilenet_v2
from metrad.models.embedder import Embedder
from metrad.training import compiling
from metrad.training.compiling import (
    COMPILE_SECONDS,
    COMPILED,
    CPU_OPTIONS,
    EAGER,
    Compiled,
    CompileEmbedder,
    choose_compile,
    convolution_values,
    estimated_seconds,
)

IMAGES = torch.randint(0, 256, (4, 16, 16, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(convnet(channels=[8, 16]), image_size=16)


def unasked():
    raise AssertionError("nothing is to be measured here")


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: None)


def test_compiling_is_done_where_told(compiler):
    assert choose_compile(True, "cpu", 1, 0.0, unasked) == (True, "given", {})
    assert choose_compile(True, "cuda", 1, 0.0, unasked) == (True, "given", {})
    assert choose_compile(False, "cpu", 10**9, 1e9, unasked) == (False, "given", {})


def test_auto_tries_where_the_trial_is_a_small_part_and_compiles_where_it_saves_more_than_it_takes(compiler):
    def measured(compiled):
        return lambda: {EAGER: 100.0, COMPILED: compiled}

    long = 10 * COMPILE_SECONDS
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


def test_the_names_of_weights_stay_as_they_are(pretended):
    embedder, _ = pretended
    assert list(embedder.state_dict()) == list(Embedder(convnet(channels=[8, 16]), image_size=16).state_dict())
    CompileEmbedder().on_fit_end(None, torch.nn.ModuleDict({"embedder": embedder}))
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
    callback = CompileEmbedder()
    callback.on_fit_end(None, torch.nn.ModuleDict({"embedder": embedder}))
    assert callback.failure == "no headers"


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
