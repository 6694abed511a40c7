"""The pace of a run, as environment.json has it."""

import pytest

from metrad.app import pace
from metrad.app.pace import Pace, PaceSettings, choose_pace
from metrad.models.backbones import convnet
from metrad.models.embedder import Embedder
from metrad.training.compiling import CompileEmbedder


def test_the_pace_of_a_training_whose_compiling_failed_is_uncompiled():
    failed, worked = CompileEmbedder(), CompileEmbedder()
    failed.failure = "no headers"
    asked = Pace("32-true", "given", {}, True, "given")
    assert asked.kept([failed]) == Pace("32-true", "given", {}, False, "torch.compile failed (no headers)")
    assert asked.kept([worked]) is asked


def test_without_training_there_is_no_trial(monkeypatch):
    monkeypatch.setattr(pace, "probe", lambda *_: pytest.fail("a trial"))
    monkeypatch.setattr(pace, "estimated_seconds", lambda *_: pytest.fail("a pass"))
    settings = PaceSettings("auto", "auto", "auto", epochs=0, batch_size=8, channels_last=False, backbone={})
    chosen = choose_pace(settings, Embedder(convnet(channels=[4])), train_images=10**6)
    assert (chosen.precision, chosen.precision_reason, chosen.compiled) == ("32-true", "nothing is trained", False)
