"""What the ranks of a run tell each other. In a single process all of it is free and changes nothing.

A rank is one of the processes that train a model together, each on a device of its own. Values on the CPU travel over
gloo, those on a GPU over NCCL.
"""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def several() -> bool:
    """Tell whether this process is one of several ranks."""
    return world_size() > 1


def rank() -> int:
    """Return the number of this rank, 0 in a single process. Rank 0 alone writes and prints."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Return how many ranks there are."""
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
    """Return what the mean loss of this rank's images is multiplied by, for the gradient of the whole batch's mean.

    DDP averages the gradients of R ranks, so with n of N images a rank's weight is R·n/N, which is 1 for equal parts.

    Args:
        labels: those of this rank's images, (n,).
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
    """Return for each rank where its part of ``count`` rows begins and ends.

    The parts follow each other, the earlier ranks' no smaller than the later ones', and all but the last are multiples
    of ``step`` rows, so that batches of ``step`` are those of a single process.
    """
    whole, more = divmod(-(-count // step), world_size())
    ends = [min(count, step * (whole * (i + 1) + min(i + 1, more))) for i in range(world_size())]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def gather(rows: np.ndarray, parts: list[tuple[int, int]]) -> np.ndarray:
    """Return the rows of all ranks, one after another, on rank 0, and none on the others.

    Args:
        rows: float32 (n, D), those of this rank; of a rank without any, (0, anything).
        parts: what ``spans`` gave.
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
