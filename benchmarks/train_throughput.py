"""Images per second of metrad's training loop beside a bare PyTorch loop: same model, batch, precision and images.

Both sides train MobileNetV2 at 96 pixels from the same uint8 array, in turns, in one process. The bare loop does what
one writes by hand for speed: gather, resize, normalise, forward, backward, step, and nothing else.

    python benchmarks/train_throughput.py [--steps 20] [--rounds 5] [--precision bf16-mixed]
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from metrad.assembly import resolve_precision
from metrad.backbones import mobilenet_v2
from metrad.datamodule import EpochShuffle, ImageBatches
from metrad.embedder import Embedder
from metrad.heads import AdaCos
from metrad.module import MetricLearner

CLASSES, SIZE, BATCH = 9, 96, 128


class Timer(pl.Callback):
    """Times the steps after the first of each fit, which warms up."""

    def __init__(self) -> None:
        self.start = 0.0
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Start after the first step."""
        if trainer.global_step == 1:
            self.start = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        """Stop after the last."""
        self.seconds = time.perf_counter() - self.start


def optimizer(parameters: object) -> torch.optim.Optimizer:
    """Return the article's optimiser."""
    return torch.optim.Adam(parameters, lr=1e-4, amsgrad=True)


def bare(images: np.ndarray, labels: torch.Tensor, precision: str, device: torch.device) -> float:
    """Return images per second of a hand-written loop."""
    model = torchvision.models.mobilenet_v2()
    model.classifier = nn.Identity()
    model.to(device, memory_format=torch.channels_last).train()
    weight = nn.Parameter(torch.randn(CLASSES, 1280, device=device))
    step = optimizer([*model.parameters(), weight])
    batches = np.random.default_rng(0).permutation(len(images)).reshape(-1, BATCH)
    start = 0.0
    for i, chosen in enumerate(batches):
        batch = torch.from_numpy(images[chosen]).to(device).permute(0, 3, 1, 2).float().div_(255)
        batch = F.interpolate(batch, (SIZE, SIZE), mode="bilinear", antialias=True)
        batch = ((batch.expand(-1, 3, -1, -1) - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            embeddings = model(batch)
        cosines = F.linear(F.normalize(embeddings.float()), F.normalize(weight))
        loss = F.cross_entropy(2.94 * cosines, labels[chosen].to(device))
        step.zero_grad()
        loss.backward()
        step.step()
        loss.item()
        if i == 0:
            start = time.perf_counter()
    return BATCH * (len(batches) - 1) / (time.perf_counter() - start)


def ours(images: np.ndarray, labels: torch.Tensor, precision: str, device: torch.device) -> float:
    """Return images per second of metrad's module, batches and trainer."""
    embedder = Embedder(mobilenet_v2(weights=None), image_size=SIZE)
    learner = MetricLearner(embedder, AdaCos(embedder.out_features, CLASSES), optimizer)
    batches = ImageBatches(images, np.arange(len(images)), labels)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, sampler=EpochShuffle(len(images), BATCH, 0))
    timer = Timer()
    trainer = pl.Trainer(
        accelerator=device.type,
        devices=1,
        precision=precision,
        max_epochs=1,
        deterministic=True,
        callbacks=[timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, loader)
    return BATCH * (len(loader) - 1) / timer.seconds


def main() -> None:
    """Measure both sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round and side")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--precision", default="auto", choices=["auto", "32-true", "bf16-mixed"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    device = torch.device(chosen.device)
    precision = resolve_precision(chosen.precision, "gpu" if device.type == "cuda" else "cpu")
    generator = np.random.default_rng(0)
    count = BATCH * (chosen.steps + 1)
    images = generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, CLASSES, count))
    sides: dict[str, Callable[..., float]] = {"bare PyTorch loop": bare, "metrad": ours}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(chosen.rounds):
        for name in list(sides)[:: 1 if round_number % 2 == 0 else -1]:
            speeds[name].append(sides[name](images, labels, precision, device))
    ratios = [a / b for a, b in zip(speeds["metrad"], speeds["bare PyTorch loop"], strict=True)]
    print(f"MobileNetV2 {SIZE}x{SIZE}, batch {BATCH}, {precision}, {device}, {chosen.rounds} rounds in turns")
    for name, values in speeds.items():
        each = " ".join(f"{value:.0f}" for value in values)
        print(f"{name:<18} {statistics.median(values):8.1f} images/s   (rounds: {each})")
    print(f"{'ratio':<18} {statistics.median(ratios):8.3f}            (rounds: {' '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
