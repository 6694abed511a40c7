"""The embedding pass of a finished run: images a second by batch and precision, and AUROC by precision.

    OMP_NUM_THREADS=2 python benchmarks/embedding.py RUN [RUN ...] [--rounds 3] [--images 1024]

Speeds are those of the first run, all settings in turns. AUROC is that of embeddings computed anew from the images, in
float32 and in bfloat16, with the run's own scorer.
"""

import argparse
import itertools
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from metrad.app.build import build_data, build_scorer
from metrad.data.prepared import PreparedData
from metrad.evaluation.embeddings import embed
from metrad.evaluation.evaluate import evaluate
from metrad.evaluation.forward import Forward, half_type
from metrad.evaluation.measures import Settings
from metrad.models.embedder import Embedder
from metrad.runs.artifacts import load_detector
from metrad.runs.directory import Run

BATCHES = (32, 64, 128, 256, 512, 1024)
PRECISIONS = ("32-true", "bf16-mixed")


def opened(path: Path) -> tuple[Any, Embedder, PreparedData]:
    """Return configuration, trained embedder and images of a run."""
    run = Run.finished(path)
    cfg, embedder = run.load_config(), load_detector(run).backend.embedder
    data = build_data(cfg, embedder.size)
    data.restore_split(run.saved_split())
    return cfg, embedder, data


def speeds(embedder: Embedder, data: PreparedData, count: int, rounds: int) -> None:
    """Print images a second by batch and precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedder = embedder.to(device).eval()
    indices = data.train_indices[:count]
    sides = list(itertools.product(BATCHES, PRECISIONS))
    measured: dict[tuple[int, str], list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):  # the first warms up
        for batch, precision in sides[:: 1 if number % 2 == 0 else -1]:
            forward = Forward(embedder, device, half_type(precision))
            start = time.perf_counter()
            for images, _ in data.batches(indices, batch):
                forward(images)
            measured[batch, precision].append(len(indices) / (time.perf_counter() - start))
    threads = f"{torch.get_num_threads()} threads, {rounds} rounds in turns"
    print(f"{len(indices)} images, {device}, {threads}: images/s, median")
    print(f"| batch | {' | '.join(PRECISIONS)} | ratio |")
    print("|---|---|---|---|")
    for batch in BATCHES:
        full, half = (measured[batch, precision][1:] for precision in PRECISIONS)
        ratio = statistics.median(a / b for a, b in zip(half, full, strict=True))
        print(f"| {batch} | {statistics.median(full):.0f} | {statistics.median(half):.0f} | {ratio:.2f} |")


def accuracy(path: Path) -> None:
    """Print the AUROC of a run by the precision of its embeddings."""
    cfg, embedder, data = opened(path)
    figures = []
    for precision in PRECISIONS:
        embedded = embed(embedder, data, precision=precision)
        result = evaluate(build_scorer(cfg), embedded, Settings(resamples=100))
        figures.append(result.metrics["auroc"])
    print(f"| {cfg.trainer.precision}, seed {cfg.seed} | {figures[0]:.5f} | {figures[1]:.5f} | ", end="")
    print(f"{figures[1] - figures[0]:+.5f} |", flush=True)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024)
    chosen = parser.parse_args()
    logging.disable()
    _, embedder, data = opened(chosen.runs[0])
    speeds(embedder, data, chosen.images, chosen.rounds)
    print("| trained in | AUROC, embedded in 32-true | in bf16-mixed | difference |")
    print("|---|---|---|---|")
    for path in chosen.runs:
        accuracy(path)


if __name__ == "__main__":
    main()
