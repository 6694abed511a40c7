"""Models in threads: blocks of one shape, one thread each, for the same last bits; and a model that is built alone."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # the scorers import this file, and must not import torch
    from torch import Tensor

BLOCK = 16  # rows computed at a time

T = TypeVar("T")
R = TypeVar("R")


class _Workers:
    """Threads of this process that compute with one thread each, started at their first use.

    Attributes:
        lock: guards the others.
        pool: the threads; None before their first use.
        setter: a thread that sets torch's number of threads, which other threads share, and computes nothing.
        process: number of the process that started them; a fork has none of them.
        calls: number of calls of ``in_single_threads`` at this time.
        wide: torch's number of threads before the first of these calls.
    """

    lock = threading.Lock()
    pool: ThreadPoolExecutor
    setter: ThreadPoolExecutor
    process = 0
    calls = 0
    wide = 1


class _Models:
    """What the threads of this process do with models.

    Attributes:
        changed: notified where ``running`` or ``building`` changes; its lock guards both.
        running: number of models being run.
        building: whether one is being built.
    """

    changed = threading.Condition()
    running = 0
    building = False


@contextmanager
def running_a_model() -> Iterator[None]:
    """Run a model in this block while no other thread builds one."""
    with _Models.changed:
        _Models.changed.wait_for(lambda: not _Models.building)
        _Models.running += 1
    try:
        yield
    finally:
        with _Models.changed:
            _Models.running -= 1
            _Models.changed.notify_all()


@contextmanager
def building_a_model() -> Iterator[None]:
    """Build a model in this block while no other thread builds or runs one.

    torch.fx replaces the call of every module of the process while it traces one, so a model of another thread fails.
    """
    with _Models.changed:
        _Models.changed.wait_for(lambda: not _Models.building)
        _Models.building = True
        _Models.changed.wait_for(lambda: not _Models.running)
    try:
        yield
    finally:
        with _Models.changed:
            _Models.building = False
            _Models.changed.notify_all()


def in_blocks(work: "Callable[[Tensor], np.ndarray]", rows: "Tensor") -> np.ndarray:
    """Return ``work`` of the rows (N, …) on a CPU as (N, …), computed in blocks of ``BLOCK`` rows.

    The last block is filled up with its last row, so that every block has the same shape, and one thread computes each
    block. torch and its libraries choose their algorithms, and so the last bits of a result, by both.
    """
    import torch

    if not len(rows):
        return work(rows)
    missing = -len(rows) % BLOCK
    whole = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
    return np.concatenate(in_single_threads(work, whole.split(BLOCK)))[: len(rows)]


def in_single_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return ``work`` of each item, in order, each computed by one thread alone.

    As many items are computed at a time as torch would use threads. Meanwhile torch's number of threads is 1 in the
    whole process, since torch divides some sums by that number, whichever thread computes them.
    """
    upcoming, found = iter(items), []
    with _one_thread_each() as (pool, wide):
        pending = deque(pool.submit(work, item) for item in islice(upcoming, wide))
        try:
            while pending:
                found.append(pending.popleft().result())
                pending.extend(pool.submit(work, item) for item in islice(upcoming, 1))
        finally:
            wait(pending)
    return found


def in_threads(work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield ``work`` of each item in order, computed in threads at most ``ahead`` items ahead."""
    upcoming = iter(items)
    with ThreadPoolExecutor() as pool:
        pending = deque(pool.submit(work, item) for item in islice(upcoming, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, item) for item in islice(upcoming, 1))
            yield result


@contextmanager
def _one_thread_each() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Give the threads, and how many of them to use, while torch's number of threads is 1."""
    import torch

    with _Workers.lock:
        if _Workers.process != os.getpid():
            _start()
        if not _Workers.calls:
            _Workers.wide = max(1, torch.get_num_threads())
            _Workers.setter.submit(torch.set_num_threads, 1).result()
        _Workers.calls += 1
        given = _Workers.pool, _Workers.wide
    try:
        yield given
    finally:
        with _Workers.lock:
            _Workers.calls -= 1
            if not _Workers.calls:
                _Workers.setter.submit(torch.set_num_threads, _Workers.wide).result()


def _start() -> None:
    """Start the threads of this process."""
    import torch

    count, before = os.cpu_count() or 1, torch.get_num_threads()
    met = threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)  # of OpenMP and MKL, for this thread alone
        met.wait()

    _Workers.pool, _Workers.setter = ThreadPoolExecutor(count, "compute", begin), ThreadPoolExecutor(1, "threads")
    for _ in range(count):
        _Workers.pool.submit(int)
    met.wait()
    _Workers.setter.submit(torch.set_num_threads, before).result()
    _Workers.process, _Workers.calls = os.getpid(), 0
