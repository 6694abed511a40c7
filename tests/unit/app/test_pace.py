"""The pace of a run, as environment.json has it."""

from metrad.app.pace import Pace
from metrad.training.compiling import CompileEmbedder


def test_the_pace_of_a_training_whose_compiling_failed_is_uncompiled():
    failed, worked = CompileEmbedder(), CompileEmbedder()
    failed.failure = "no headers"
    asked = Pace("32-true", "given", {}, True, "given")
    assert asked.kept([failed]) == Pace("32-true", "given", {}, False, "torch.compile failed (no headers)")
    assert asked.kept([worked]) is asked
