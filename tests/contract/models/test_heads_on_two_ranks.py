"""Heads whose batches are split over two processes learn the same state as one process that sees the whole batch.

The processes are this file, run as a script: they find each other by a file, so no port has to be free.
"""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tests.helpers.heads import BATCH, CLASSES, HEADS, WIDTH, centres, make

STEPS, SECONDS = 4, 120
ROOT = Path(__file__).parents[3]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
# How many of the batch the first rank gets, and the labels.
SPLITS = {
    "even": (BATCH // 2, torch.arange(BATCH) % CLASSES),
    "uneven": (20, torch.arange(BATCH) % CLASSES),
    "one image on the second rank": (BATCH - 1, torch.arange(BATCH) % CLASSES),
    "each class on one rank only": (4 * BATCH // CLASSES, torch.arange(BATCH) * CLASSES // BATCH),
}
WITH_STATE = [name for name in HEADS if dict(make(name).named_buffers())]
History = list[dict[str, torch.Tensor]]

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)


def train(name: str, split: str, dtype: torch.dtype, rank: int | None = None) -> History:
    """Train on one rank's part of each batch, or on the whole without a rank; return the buffers after each step."""
    count, labels = SPLITS[split]
    part = {None: slice(None), 0: slice(count), 1: slice(count, None)}[rank]
    head = make(name).to(dtype)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    history = []
    for embeddings in batches(centres(head).double()[labels]):
        loss, _ = head(embeddings[part].to(dtype), labels[part])
        optimizer.zero_grad()
        (loss * len(labels[part]) / BATCH).backward()
        if rank is not None:
            for parameter in head.parameters():
                dist.all_reduce(parameter.grad)
        optimizer.step()
        history.append({key: value.clone() for key, value in head.named_buffers()})
    return history


def batches(near: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield embeddings of many lengths that point where ``near`` does, the first closely, the last some 50 degrees off.

    Their median angle, below the 45 degrees at which dynamic scales cut it off, is thus that of neither rank.
    """
    generator = torch.Generator().manual_seed(5)
    spread = torch.linspace(0.2, 1.2, BATCH, dtype=torch.float64)[:, None]
    for _ in range(STEPS):
        noise = torch.randn(near.shape, generator=generator, dtype=torch.float64) / math.sqrt(WIDTH)
        lengths = 5 + 20 * torch.rand(BATCH, 1, generator=generator, dtype=torch.float64)
        yield lengths * (F.normalize(near) + spread * noise)


def main(rank: int, folder: Path) -> None:
    """Train every head on every split as one of two ranks and save what was learnt."""
    torch.set_num_threads(1)
    limit = timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)
    learnt = {
        f"{name} {split} {dtype}": train(name, split, DTYPES[dtype], rank)
        for name in WITH_STATE
        for split in SPLITS
        for dtype in DTYPES
    }
    torch.save(learnt, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(once) -> list[dict[str, History]]:
    """Return what each of two processes learnt."""
    folder = once("heads-on-two-ranks", learn)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def learn(folder: Path) -> None:
    """Have two processes train every head and save what they learnt."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    if "lo" in [name for _, name in socket.if_nameindex()]:
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo looks up the host's name, which need not resolve
    command = [sys.executable, "-W", "error", __file__]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


@pytest.mark.parametrize("name", WITH_STATE)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_ranks_hold_the_state_of_one_process(ranks, name, split, dtype):
    whole = train(name, split, DTYPES[dtype])
    first, second = (learnt[f"{name} {split} {dtype}"] for learnt in ranks)
    assert len(first) == len(second) == len(whole) == STEPS
    tolerance = 1e-6 if dtype == "float32" else 1e-13  # sums over another number of rows round differently
    for step in range(STEPS):
        assert first[step].keys() == second[step].keys() == whole[step].keys()
        for key, value in whole[step].items():
            assert torch.equal(first[step][key], second[step][key]), (step, key)
            torch.testing.assert_close(first[step][key], value, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", ["adacos_dynamic", "adaface", "curricularface", "pml", "subcluster_adacos"])
def test_the_state_that_was_compared_did_change(ranks, name):
    history = ranks[0][f"{name} uneven float64"]
    assert all(any(not torch.equal(one[key], other[key]) for key in one) for one, other in pairwise(history))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
