"""Results on a CPU that neither the number of threads nor of rows changes: blocks of one shape, one thread each."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
