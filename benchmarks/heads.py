"""Time and peak memory of each head beside its counterpart in pytorch-metric-learning.

One step is the forward and backward pass of the head alone, from embeddings that ask for a gradient. Both sides are
timed in turns in one process. Peak memory is the largest amount of tensor memory alive at once during a step beyond
what lived before it, read off the allocations that the profiler records, so it holds for the CPU too.

    python benchmarks/heads.py [--sizes small,medium,large] [--rounds 15]
"""

import argparse
import gc
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler tells each start and stop

import torch
from _measure import ratio, table
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from metrad.models import heads

SIZES = {"small": (128, 1280, 9), "medium": (512, 512, 1_000), "large": (512, 512, 100_000)}
Make = Callable[[int, int], nn.Module]

OURS: dict[str, Make] = {
    "softmax": heads.Softmax,
    "l2_softmax": heads.L2Softmax,
    "normface": heads.NormFace,
    "sphereface": lambda width, classes: heads.SphereFace(width, classes, margin=4, easing=0),
    "cosface": lambda width, classes: heads.CosFace(width, classes, scale=64, margin=0.35),
    "arcface": lambda width, classes: heads.ArcFace(width, classes, scale=64, margin=0.5),
    "subcenter_arcface": lambda width, classes: heads.ArcFace(width, classes, scale=64, margin=0.5, sub_centers=3),
    "adacos": heads.AdaCos,
    "adacos_dynamic": heads.DynamicAdaCos,
    "subcluster_adacos": lambda width, classes: heads.SubClusterAdaCos(width, classes, sub_centers=3, adaptive=True),
    "curricularface": heads.CurricularFace,
    "adaface": heads.AdaFace,
    "magface": heads.MagFace,
}
THEIRS: dict[str, Make] = {
    "normface": lambda width, classes: losses.NormalizedSoftmaxLoss(classes, width, temperature=1 / 30),
    "sphereface": lambda width, classes: losses.SphereFaceLoss(classes, width, margin=4, scale=1),
    "cosface": lambda width, classes: losses.CosFaceLoss(classes, width, margin=0.35, scale=64),
    "arcface": lambda width, classes: losses.ArcFaceLoss(classes, width, margin=math.degrees(0.5), scale=64),
    "subcenter_arcface": lambda width, classes: losses.SubCenterArcFaceLoss(
        num_classes=classes, embedding_size=width, margin=math.degrees(0.5), scale=64, sub_centers=3
    ),
}
# The same arithmetic but for the scale, which is a constant there.
THEIRS["adacos"] = THEIRS["adacos_dynamic"] = THEIRS["normface"]


def step(module: nn.Module, embeddings: Tensor, labels: Tensor) -> None:
    """Go forward and backward once; as in training, nothing holds on to the logits."""
    result = module(embeddings, labels)
    loss = result[0] if isinstance(result, tuple) else result
    del result
    loss.backward()
    embeddings.grad = None
    module.zero_grad(set_to_none=True)


def seconds(module: nn.Module, embeddings: Tensor, labels: Tensor, repeats: int) -> float:
    """Return the mean time of a step."""
    start = time.perf_counter()
    for _ in range(repeats):
        step(module, embeddings, labels)
    if embeddings.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def peak_megabytes(module: nn.Module, embeddings: Tensor, labels: Tensor) -> float:
    """Return the largest amount of tensor memory that a step holds at once."""
    gc.collect()
    if embeddings.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(module, embeddings, labels)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(module, embeddings, labels)
    alive = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak / 1e6


def compare(name: str, size: tuple[int, int, int], rounds: int, device: torch.device) -> list[str]:
    """Measure one head and its counterpart, if it has one, and return their row of the table."""
    batch, width, classes = size
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, width, generator=generator).to(device).requires_grad_()
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    sides = [sides_[name](width, classes).to(device) for sides_ in (OURS, THEIRS) if name in sides_]
    repeats = max(1, math.ceil(0.05 / min(seconds(side, embeddings, labels, 2) for side in sides)))
    times: list[list[float]] = [[] for _ in sides]
    for i in range(rounds):
        for side in range(len(sides))[:: 1 if i % 2 == 0 else -1]:
            times[side].append(seconds(sides[side], embeddings, labels, repeats))
    peaks = [peak_megabytes(side, embeddings, labels) for side in sides]
    print(f"{name}: {statistics.median(times[0]) * 1e3:.2f} ms", file=sys.stderr, flush=True)
    figures = [[f"{statistics.median(times[i]) * 1e3:.2f}", f"{peaks[i]:.1f}"] for i in range(len(sides))]
    each = " ".join(f"{value * 1e3:.2f}" for value in times[0])
    if len(sides) == 1:
        return [name, *figures[0], "", "", "", "", each]
    return [name, *figures[0], *figures[1], f"{ratio(*times):.2f}", f"{peaks[0] / peaks[1]:.2f}", each]


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--heads", default=",".join(OURS))
    parser.add_argument("--rounds", type=int, default=15, help="how often each side is measured")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {chosen.device}, {threads} threads, {chosen.rounds} rounds in turns")
    for size in chosen.sizes.split(","):
        print("\n{}: batch {:,}, width {:,}, classes {:,}".format(size, *SIZES[size]))
        device = torch.device(chosen.device)
        rows = [compare(name, SIZES[size], chosen.rounds, device) for name in chosen.heads.split(",")]
        columns = ["head", "ms", "MB", "pml ms", "pml MB", "time ratio", "MB ratio", "rounds, ms"]
        print(table(columns, rows), flush=True)


if __name__ == "__main__":
    main()
