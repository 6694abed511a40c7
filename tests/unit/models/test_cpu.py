"""Memory is kept while a block runs and given back after it."""

import resource
import sys

import pytest
import torch

from metrad.models.cpu import lean_memory

SIZE = 64 * 2**20
CPU = torch.device("cpu")


def faults_of_a_step():
    """Return how many pages the system hands out for a large tensor that is written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_torch_does_not_fill_fresh_memory_meanwhile():
    settings = torch.utils.deterministic
    assert settings.fill_uninitialized_memory
    with lean_memory(CPU):
        assert not settings.fill_uninitialized_memory
    assert settings.fill_uninitialized_memory


def test_settings_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), lean_memory(CPU):
        raise ZeroDivisionError
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_freed_memory_is_used_again_and_given_back_at_the_end():
    with lean_memory(CPU):
        # Aligned blocks leave a sliver beside them that glibc caches, up to seven, and each moves the next block on.
        for _ in range(16):
            faults_of_a_step()
        kept = min(faults_of_a_step() for _ in range(5))  # the system may take pages back at any time
    usual = max(faults_of_a_step(), faults_of_a_step())
    assert kept < 100
    assert usual > 10 * max(kept, 1)


def test_a_block_within_another_ends_nothing_of_it():
    settings = torch.utils.deterministic
    with lean_memory(CPU):
        with pytest.raises(ZeroDivisionError), lean_memory(CPU):
            raise ZeroDivisionError
        assert not settings.fill_uninitialized_memory
    assert settings.fill_uninitialized_memory


def test_nothing_is_done_for_other_devices():
    with lean_memory(torch.device("meta")):
        assert torch.utils.deterministic.fill_uninitialized_memory


def test_values_are_the_same():
    def step():
        torch.manual_seed(0)
        images = torch.rand(8, 3, 32, 32)
        return torch.nn.functional.conv2d(images, torch.rand(16, 3, 3, 3)).sum(dim=(2, 3))

    plain = step()
    with lean_memory(CPU):
        assert torch.equal(step(), plain)
