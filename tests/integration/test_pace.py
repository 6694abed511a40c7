"""Precision and compiling in a whole run."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from metrad.files import read_json
from metrad.models.base import Backbone, InputSpec
from metrad.models.embedder import Embedder
from metrad.training.compiling import CompileEmbedder


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_run_tells_what_was_chosen_and_why(train, digits):
    told = read_json(train(*digits).environment)["speed"]
    assert told == {
        "precision": "32-true",
        "precision_reason": "given",
        "images_per_second": {},
        "compiled": False,
        "compile_reason": told["compile_reason"],
    }
    assert "too few to try" in told["compile_reason"]


def test_auto_is_measured_once_and_changes_no_figure(train, digits, comparable, monkeypatch, tmp_path):
    monkeypatch.setattr("metrad.training.precision.TINY", 0)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    auto = train(*digits, "trainer.precision=auto", name="auto")
    again = train(*digits, "trainer.precision=auto", name="again")
    told = read_json(auto.environment)["speed"]
    assert set(told["images_per_second"]) == {"32-true", "bf16-mixed"}
    assert told == read_json(again.environment)["speed"]
    assert len(list((tmp_path / "cache" / "metrad").glob("*.json"))) == 1
    given = train(*digits, f"trainer.precision={told['precision']}", name="given")
    assert comparable(auto) == comparable(again) == comparable(given)
    assert auto.scores.read_bytes() == again.scores.read_bytes() == given.scores.read_bytes()


@pytest.mark.compiles
def test_compiled_training_repeats_bit_for_bit_and_saves_the_same_model(train, digits, comparable):
    """One of two tests that compile: a small network, with a last batch that is smaller than the others."""
    plain = train(*digits, "compile=false", name="plain")
    compiled = [train(*digits, "compile=true", name=name) for name in ("one", "two")]
    assert all(read_json(run.environment)["speed"]["compiled"] for run in compiled)
    assert "uncompiled" not in compiled[0].log.read_text()
    assert comparable(compiled[0]) == comparable(compiled[1])
    assert compiled[0].scores.read_bytes() == compiled[1].scores.read_bytes()
    assert list(weights(plain.last_checkpoint)) == list(weights(compiled[0].last_checkpoint))
    assert comparable(compiled[0])["auroc"] == pytest.approx(comparable(plain)["auroc"], abs=0.02)


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.mark.compiles
def test_a_compiled_run_goes_on_uncompiled_and_the_other_way_round(train, digits):
    """Names in checkpoints are the same, so either can take up the other's; augmentation stands outside of both."""
    digits = [*digits, "augmentation=all"]
    first = train(*digits, "compile=false", name="first")
    more = train(*digits, "trainer.max_epochs=2", f"ckpt_path={first.last_checkpoint}", "compile=true", name="more")
    assert read_json(more.environment)["speed"]["compiled"]


@pytest.mark.parametrize("value", ["perhaps", "1", "null"])
def test_compile_is_true_false_or_auto(value, turned_down, digits):
    turned_down(*digits, f"compile={value}", words=("compile", "auto, true or false", "got"))


class Watch(TorchDispatchMode):
    """Notes the inputs of convolutions whose gradients are computed."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Note, and go on."""
        if func is torch.ops.aten.convolution_backward.default:
            self.inputs.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.compiles
def test_compiled_gradients_of_depthwise_convolutions_stay_in_channels_last():
    """Without being told, torch copies the second convolution's input to another order (see ``CPU_OPTIONS``)."""
    first, second = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False)
    network = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU6(inplace=True), second, nn.BatchNorm2d(16))
    embedder = Embedder(Backbone(network, 16, InputSpec()), image_size=16).train()
    plain = copy.deepcopy(embedder)
    CompileEmbedder.put(embedder)
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    embeddings, watch = embedder(images), Watch()
    assert not embedder.forward.failure
    with watch:
        embeddings.square().sum().backward()
    assert [images.shape[1] for images in watch.inputs] == [16, 3]
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in watch.inputs)
    plain(images).square().sum().backward()
    for ours, theirs in zip(embedder.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
