"""Images per second of training MobileNetV2 at 96 pixels, three ways, side by side.

- Hand-written Lightning: what a user writes first. A LightningModule, torchvision's FashionMNIST with transforms an
  image, a DataLoader with two workers, float32, contiguous.
- Bare loop: what one writes for speed. Batches gathered from one array, and nothing but forward, backward and step,
  in each precision that is fast here, each layout, with and without torch.compile.
- metrad: its own batches, embedder, head and trainer in the same settings.

All train on the same images. The sides take turns, forwards in one round and backwards in the next, so that what else
the machine does falls on all of them. Each setting has a process of its own, as a training has: with sixteen other
models in the process, how their memory lies moves a side by a tenth. The hand-written version is measured beside each.
The first step of each turn warms up and is not timed. On a GPU the bare loop has its images there, as metrad does, and
the clock is read when the GPU has done what it was given.

    OMP_NUM_THREADS=2 python benchmarks/train_throughput.py [--steps 6] [--rounds 5] [--no-compile] [--quick]
    python benchmarks/train_throughput.py --steps 100      on a GPU
"""

import argparse
import itertools
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# What deterministic algorithms need on a GPU, before the first product there.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from _fashion_mnist import write
from _measure import in_turns, precisions, ratio, table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from metrad.data.batches import EpochShuffle, ImageBatches, ResidentBatches, fits
from metrad.evaluation.forward import half_type
from metrad.models.backbones import mobilenet_v2
from metrad.models.embedder import Embedder
from metrad.models.heads import AdaCos
from metrad.training.callbacks import LeanMemory
from metrad.training.compiling import CompileEmbedder
from metrad.training.learner import MetricLearner
from metrad.training.precision import choose_precision
from metrad.training.speed_trials import probe

CLASSES, PIXELS = 9, 28
BATCH_AND_SIZE = {False: (128, 96), True: (4, 32)}  # by --quick
HAND, BARE, OURS = "hand-written Lightning", "bare loop", "metrad"


class Setting(NamedTuple):
    """One way to train."""

    precision: str = "32-true"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        """Return the setting in words."""
        layout = "channels-last" if self.channels_last else "contiguous"
        return f"{self.precision} {layout} {'compiled' if self.compiled else '-'}"


@dataclass(frozen=True)
class Work:
    """What all sides train on."""

    images: np.ndarray  # (N, 28, 28, 1) uint8
    labels: Tensor
    batch: int
    size: int
    device: torch.device
    folder: Path  # the same images as torchvision reads them
    workers: int

    def rate(self, seconds: float) -> float:
        """Return images per second of all steps but the first."""
        return (len(self.images) - self.batch) / seconds


Side = Callable[[], float]


def now(device: torch.device) -> float:
    """Return the time once ``device`` has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Timer(pl.Callback):
    """Times the steps after the first, which warms up."""

    def __init__(self) -> None:
        self.start = 0.0
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start after the first step, stop after the last."""
        if batch_idx == 0:
            self.start = now(trainer.strategy.root_device)
        elif trainer.is_last_batch:
            self.seconds = now(trainer.strategy.root_device) - self.start


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    """Return the article's optimiser."""
    return torch.optim.Adam(parameters, lr=1e-4, amsgrad=True)


def fit(module: pl.LightningModule, loader: DataLoader, work: Work, *more: pl.Callback, **settings: Any) -> float:
    """Return images per second of Lightning's trainer."""
    timer = Timer()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    accelerator = "gpu" if work.device.type == "cuda" else "cpu"
    callbacks = [timer, *more]
    trainer = pl.Trainer(accelerator=accelerator, devices=1, max_epochs=1, callbacks=callbacks, **quiet, **settings)
    trainer.fit(module, loader)
    return work.rate(timer.seconds)


class HandWritten(pl.LightningModule):
    """Cosine softmax on MobileNetV2, as a first version has it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.mobilenet_v2()
        self.backbone.classifier = nn.Identity()
        self.weight = nn.Parameter(torch.randn(CLASSES, 1280))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        cosines = F.linear(F.normalize(self.backbone(images)), F.normalize(self.weight))
        loss = F.cross_entropy(2.94 * cosines, labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the article's optimiser."""
        return optimizer(self.parameters())


def hand_written(work: Work) -> Side:
    """Return the side that a user writes first, always in float32 and contiguous."""
    transform = transforms.Compose(
        [
            transforms.Resize((work.size, work.size)),
            transforms.Grayscale(num_output_channels=3),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    data = torchvision.datasets.FashionMNIST(str(work.folder), train=True, transform=transform)
    loader = DataLoader(data, work.batch, shuffle=True, num_workers=work.workers, persistent_workers=work.workers > 0)
    module = HandWritten()
    # False, since what is not given stays as the side before had it
    return lambda: fit(module, loader, work, precision=Setting().precision, deterministic=False)


class Network(nn.Module):
    """Resizing, normalisation and MobileNetV2, without anything of metrad's."""

    def __init__(self, size: int, channels_last: bool) -> None:
        super().__init__()
        self.layers = torchvision.models.mobilenet_v2()
        self.layers.classifier = nn.Identity()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.layers.to(memory_format=self.format)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings of (N, height, width, 1) uint8."""
        batch = images.permute(0, 3, 1, 2).float().div_(255)
        batch = F.interpolate(batch, (self.size, self.size), mode="bilinear", antialias=True)
        return self.layers(((batch.expand(-1, 3, -1, -1) - 0.5) / 0.5).contiguous(memory_format=self.format))


def bare(work: Work, setting: Setting) -> Side:
    """Return the side that is a loop and nothing else."""
    model = Network(work.size, setting.channels_last).to(work.device).train()
    if setting.compiled:
        model.compile(dynamic=False)
    weight = nn.Parameter(torch.randn(CLASSES, 1280, device=work.device))
    step = optimizer([*model.parameters(), weight])
    half = half_type(setting.precision)
    scaler = torch.amp.GradScaler(work.device.type, enabled=half is torch.float16)
    images, labels = torch.from_numpy(work.images).to(work.device), work.labels.to(work.device)

    def run() -> float:
        torch.use_deterministic_algorithms(False)  # Lightning leaves it as the side before had it
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(images))).to(work.device)
        start = 0.0
        for i, chosen in enumerate(order.split(work.batch)):
            with torch.autocast(work.device.type, half, enabled=half is not None):
                embeddings = model(images[chosen])
            cosines = F.linear(F.normalize(embeddings.float()), F.normalize(weight))
            loss = F.cross_entropy(2.94 * cosines, labels[chosen])
            step.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(step)
            scaler.update()
            start = now(work.device) if i == 0 else start
        return work.rate(now(work.device) - start)

    return run


def ours(work: Work, setting: Setting) -> Side:
    """Return metrad's side."""
    embedder = Embedder(mobilenet_v2(weights=None), image_size=work.size, channels_last=setting.channels_last)
    learner = MetricLearner(embedder, AdaCos(embedder.out_features, CLASSES), optimizer)
    batches = ImageBatches(work.images, np.arange(len(work.images)), work.labels)
    data = ResidentBatches(batches, work.device) if fits(batches, work.device) else batches
    loader = DataLoader(data, batch_size=None, sampler=EpochShuffle(len(work.images), work.batch, 0))
    if setting.compiled:  # once for all turns, and not in each fit
        CompileEmbedder().put(embedder)
    return lambda: fit(learner, loader, work, LeanMemory(), precision=setting.precision, deterministic=True)


def chosen_by_auto(size: int, device: str) -> str:
    """Return the precision that ``auto`` picks."""
    embedder = Embedder(mobilenet_v2(weights=None), image_size=size)
    accelerator = "gpu" if device.startswith("cuda") else "cpu"
    precision, reason, speeds = choose_precision("auto", accelerator, 10**9, lambda: probe(embedder))
    print(f"auto picks {precision} ({reason}) {speeds}")
    return str(precision)


def quiet() -> None:
    """Leave out what libraries say."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def measure(setting: Setting, chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Return images per second of each side in each round, after a turn that warms up and compiles."""
    quiet()
    batch, size = BATCH_AND_SIZE[chosen.quick]
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch * (chosen.steps + 1), PIXELS, PIXELS, 1), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, CLASSES, len(images)))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), dict.fromkeys(("train", "test"), (images[..., 0], labels.numpy().astype(np.uint8))))
        workers = 0 if chosen.quick else 2
        work = Work(images, labels, batch, size, torch.device(chosen.device), Path(folder), workers)
        sides = {HAND: hand_written(work), BARE: bare(work, setting), OURS: ours(work, setting)}
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            print(f"{setting}: {name} ready after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        return in_turns(sides, chosen.rounds)


def report(speeds: dict[Setting, dict[str, list[float]]], precision: str) -> None:
    """Print what each setting gives, with metrad's ratios to the hand-written version and to the bare loop."""
    to_hand = {setting: ratio(values[OURS], values[HAND]) for setting, values in speeds.items()}
    rows = []
    for setting, values in speeds.items():
        medians = [f"{statistics.median(one):.1f}" for one in values.values()]
        each = [" ".join(f"{value:.0f}" for value in one) for one in values.values()]
        ratios = f"{to_hand[setting]:.2f}", f"{ratio(values[OURS], values[BARE]):.3f}"
        rows.append([setting, *medians, *ratios, " / ".join(each)])
    print(table(["setting", HAND, BARE, OURS, "÷ hand-written", f"÷ {BARE}", "rounds"], rows))
    best = max(to_hand, key=to_hand.__getitem__)
    print(f"best setting of {OURS}: {best}")
    # auto compiles where that was measured to be faster, given that the training is long enough
    those = [one for one in speeds if one.precision == precision and one.channels_last]
    if those:
        auto = max(those, key=to_hand.__getitem__)
        print(f"auto in a long training: {auto}: {to_hand[auto] / to_hand[best]:.3f} of the best")


def main() -> None:
    """Measure all settings, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a round and side")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--no-compile", action="store_true", help="leave out what takes minutes to compile")
    parser.add_argument("--quick", action="store_true", help="a small run that shows only that all sides work")
    parser.add_argument("--precisions", default=precisions(), help="32-true and others that are fast here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    quiet()
    if chosen.quick:
        chosen.steps = chosen.rounds = 1
    compiling = [False] if chosen.quick or chosen.no_compile else [False, True]
    grid = [Setting(*one) for one in itertools.product(chosen.precisions.split(","), [False, True], compiling)]
    print(f"MobileNetV2, {chosen.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"{chosen.rounds} rounds of {chosen.steps} steps in turns; images/s, medians", flush=True)
    auto = chosen_by_auto(BATCH_AND_SIZE[chosen.quick][1], chosen.device)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        report({setting: pool.submit(measure, setting, chosen).result() for setting in grid}, auto)


if __name__ == "__main__":
    main()
