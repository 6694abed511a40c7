"""Which precision is chosen."""

import pytest
import torch

from metrad.training.precision import TINY, choose_precision

BIG = TINY


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
