"""Models in threads: blocks of one shape, one thread each, for the same last bits; and a model that is built alone."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
        lock: held while they are started.
        pool: the threads; None before their first use.
        process: number of the process that started them; a fork has none of them.
    """

    lock = threading.Lock()
    pool: ThreadPoolExecutor | None = None
    process = 0


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

    As many items are computed at a time as torch would use threads.
    """
    import torch

    pool, wide = _workers(), max(1, torch.get_num_threads())
    upcoming, found = iter(items), []
    pending = deque(pool.submit(work, item) for item in islice(upcoming, wide))
    while pending:
        found.append(pending.popleft().result())
        pending.extend(pool.submit(work, item) for item in islice(upcoming, 1))
    return found


def _workers() -> ThreadPoolExecutor:
    import torch

    with _Workers.lock:
        if _Workers.pool is None or _Workers.process != os.getpid():
            count = os.cpu_count() or 1
            met, before = threading.Barrier(count + 1), torch.get_num_threads()

            def begin() -> None:
                torch.set_num_threads(1)
                met.wait()

            pool = ThreadPoolExecutor(count, "compute", begin)
            for _ in range(count):
                pool.submit(int)
            met.wait()
            torch.set_num_threads(before)  # the number of a thread that starts later is the one that was set last
            _Workers.pool, _Workers.process = pool, os.getpid()
        return _Workers.pool
