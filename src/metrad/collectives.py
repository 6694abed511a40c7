"""Collective operations of the ranks: broadcast, gather and sum. In a single process they communicate nothing.

A rank is one of the processes that train a model together, each on its own device. Tensors on the CPU travel over
gloo, tensors on a GPU over NCCL.
"""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def several() -> bool:
    """Return whether this process is one of several ranks."""
    return world_size() > 1


def rank() -> int:
    """Return the number of this rank, 0 in a single process. Only rank 0 writes and prints."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Return the number of ranks, 1 in a single process."""
    return dist.get_world_size() if _joined() else 1


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def total(count: int) -> int:
    """Return the sum of ``count`` over all ranks."""
    if not several():
        return count
    summed = torch.tensor(count)
    dist.all_reduce(summed)
    return int(summed)


def gradient_weight(labels: Tensor) -> Tensor | float:
    """Return the factor of this rank's mean loss that makes DDP's gradient that of the whole batch's mean loss.

    DDP averages the gradients of R ranks. A rank with n of the batch's N images therefore has the factor R·n/N, which
    is 1 for equal parts.

    Args:
        labels: labels of this rank's images, (n,).
    """
    if not several():
        return 1.0
    every = torch.tensor(float(len(labels)), device=labels.device)
    dist.all_reduce(every)
    return world_size() * len(labels) / every


def same(value: T) -> T:
    """Return rank 0's ``value`` on every rank."""
    if not several():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    received: T = box[0]
    return received


def spans(count: int, step: int) -> list[tuple[int, int]]:
    """Divide ``count`` rows among the ranks, and return the start and end of each rank's part.

    The parts are consecutive, and no part is smaller than a later one. Every part but the last with rows is a multiple
    of ``step`` rows, so batches of ``step`` rows are the same as in a single process.
    """
    whole, more = divmod(-(-count // step), world_size())
    ends = [min(count, step * (whole * (i + 1) + min(i + 1, more))) for i in range(world_size())]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def gather(rows: np.ndarray, parts: list[tuple[int, int]]) -> np.ndarray:
    """Return the rows of all ranks in rank order on rank 0, and no rows on the other ranks.

    Args:
        rows: rows of this rank, float32 (n, D); for a rank without rows, (0, anything).
        parts: the result of ``spans``.
    """
    if not several():
        return rows
    if rank() > 0:
        if len(rows):
            dist.send(torch.from_numpy(rows), dst=0)
        return rows[:0]
    whole = np.empty((parts[-1][1], rows.shape[1]), dtype=np.float32)
    whole[: len(rows)] = rows
    for source, (start, stop) in enumerate(parts):
        if source > 0 and stop > start:
            dist.recv(torch.from_numpy(whole[start:stop]), src=source)
    return whole
