"""Blocks of one shape, one thread each: the order is kept, and no thread but the workers' own is changed."""

import os
import threading

import numpy as np
import pytest
import torch

from metrad.models.backbones import convnet
from metrad.models.joined_layers import JoinedLayers
from metrad.threads import BLOCK, building_a_model, in_blocks, in_single_threads, in_threads, running_a_model


@pytest.fixture(autouse=True)
def three_threads():
    """Let torch use three threads, whatever OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_threads_work_ahead_in_order_and_no_further_than_allowed():
    begun = []

    def work(item):
        begun.append(item)
        return item * item

    results = in_threads(work, range(20), 3)
    assert [next(results), next(results)] == [0, 1]
    assert max(begun) <= 4
    assert list(results) == [item * item for item in range(2, 20)]
    assert list(in_threads(work, [], 3)) == []


def test_an_error_in_a_thread_is_raised_in_its_turn():
    results = in_threads(lambda item: 1 / item, [2, 1, 0], 3)
    assert [next(results), next(results)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_results_come_in_order_and_each_from_one_thread_alone():
    found = in_single_threads(lambda item: (item, torch.get_num_threads()), range(50))
    assert found == [(item, 1) for item in range(50)]
    assert in_single_threads(str, []) == []
    assert torch.get_num_threads() == 3


def test_no_more_items_are_computed_at_a_time_than_torch_has_threads():
    running, most, lock = [], [], threading.Lock()

    def work(item):
        with lock:
            running.append(item)
            most.append(len(running))
        torch.rand(1000).sum()
        with lock:
            running.remove(item)

    torch.set_num_threads(1)
    in_single_threads(work, range(40))
    assert max(most) == 1


def test_calls_from_several_threads_leave_torchs_number_as_it_was():
    def call():
        for _ in range(20):
            assert in_single_threads(lambda _: torch.get_num_threads(), range(3)) == [1, 1, 1]

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.get_num_threads() == 3


def test_a_long_sum_is_the_same_to_the_bit_for_any_number_of_threads():
    torch.manual_seed(0)
    values, weights = torch.randn(BLOCK, 1408, 9, 9), torch.randn(1408, 1408)

    def work(rows):
        means = torch.nn.functional.normalize(rows.mean(dim=(2, 3)))
        return (means @ weights).numpy()

    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(in_blocks(work, values))
        assert torch.get_num_threads() == count
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_every_block_has_the_same_shape_and_the_rows_come_back(count):
    shapes = []

    def work(rows):
        shapes.append(tuple(rows.shape))
        return rows.numpy() * 2

    rows = torch.arange(count * 6).reshape(count, 2, 3)
    assert np.array_equal(in_blocks(work, rows), rows.numpy() * 2)
    assert set(shapes) == {(BLOCK, 2, 3)}


def test_a_model_is_built_alone():
    events, begun, go_on = [], threading.Event(), threading.Event()

    def run():
        with running_a_model():
            begun.set()
            go_on.wait(5)
            events.append("ran")

    def build():
        with building_a_model():
            events.append("built")

    threads = [threading.Thread(target=run)]
    threads[0].start()
    begun.wait(5)
    threads += [threading.Thread(target=build), threading.Thread(target=build)]
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert events == ["ran", "built", "built"]
    with building_a_model():  # free again
        pass


def test_a_model_runs_while_others_are_traced():
    images, failures, begun, stop = torch.zeros(2, 3, 32, 32), [], threading.Event(), threading.Event()
    model = JoinedLayers(convnet(channels=[4, 6]).module, ["0", "3"]).eval()

    def run():
        while not stop.is_set():
            try:
                with running_a_model(), torch.inference_mode():
                    model(images)
            except NameError as error:  # torch.fx's, of a module that it did not trace
                failures.append(error)
            begun.set()

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(5)
    for _ in range(5):
        with building_a_model():
            JoinedLayers(convnet(channels=[4, 6]).module, ["0", "3"])
    stop.set()
    thread.join(5)
    assert failures == []


def test_no_rows_are_worked_on_as_they_are():
    assert in_blocks(lambda rows: rows.numpy(), torch.empty(0, 4)).shape == (0, 4)


def test_an_error_comes_through():
    with pytest.raises(ZeroDivisionError):
        in_single_threads(lambda item: 1 / item, [1, 0, 1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_starts_threads_of_its_own():
    assert in_single_threads(str, [1]) == ["1"]
    child = os.fork()
    if not child:
        os._exit(0 if in_single_threads(str, [1, 2]) == ["1", "2"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
