"""Images per second of training MobileNetV2 at 96 pixels, three ways, side by side in one process.

- Hand-written Lightning: what a user writes first. A LightningModule, torchvision's FashionMNIST with transforms an
  image, a DataLoader with two workers, float32, contiguous.
- Bare loop: what one writes for speed. Batches gathered from one array, and nothing but forward, backward and step,
  in each precision, layout and with or without torch.compile.
- metrad: its own batches, embedder, head and trainer in the same settings.

All train on the same images. The sides take turns, forwards in one round and backwards in the next, so that what else
the machine does falls on all of them. The first step of each turn warms up and is not timed.

    OMP_NUM_THREADS=2 python benchmarks/train_throughput.py [--steps 6] [--rounds 5] [--no-compile] [--quick]
"""

import argparse
import itertools
import logging
import statistics
import struct
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from metrad.backbones import mobilenet_v2
from metrad.batches import EpochShuffle, ImageBatches
from metrad.embedder import Embedder
from metrad.heads import AdaCos
from metrad.module import MetricLearner
from metrad.speed import CompileEmbedder, LeanMemory, choose_precision, probe

CLASSES, PIXELS = 9, 28
HAND, BARE, OURS = "hand-written Lightning", "bare loop", "metrad"
ARTICLE_IMAGES, ARTICLE_EPOCHS = 9000, 10


class Setting(NamedTuple):
    """One way to train."""

    precision: str = "32-true"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        """Return the setting in words."""
        layout = "channels-last" if self.channels_last else "contiguous"
        return f"{self.precision:<10} {layout:<13} {'compiled' if self.compiled else '-':<8}"


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


class Timer(pl.Callback):
    """Times the steps after the first, which warms up."""

    def __init__(self) -> None:
        self.start = 0.0
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start after the first step, stop after each later one."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.start = now if batch_idx == 0 else self.start
        self.seconds = now - self.start


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


def hand_written(work: Work, setting: Setting) -> Side:
    """Return the side that a user writes first; its setting is always the plain one."""
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
    return lambda: fit(module, loader, work, precision=setting.precision)


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
    type_ = {"bf16-mixed": torch.bfloat16}.get(setting.precision)

    def run() -> float:
        torch.use_deterministic_algorithms(False)  # Lightning leaves it as the side before had it
        order = np.random.default_rng(0).permutation(len(work.images)).reshape(-1, work.batch)
        start = 0.0
        for i, chosen in enumerate(order):
            batch = torch.from_numpy(work.images[chosen]).to(work.device)
            with torch.autocast(work.device.type, type_, enabled=type_ is not None):
                embeddings = model(batch)
            cosines = F.linear(F.normalize(embeddings.float()), F.normalize(weight))
            loss = F.cross_entropy(2.94 * cosines, work.labels[chosen].to(work.device))
            step.zero_grad()
            loss.backward()
            step.step()
            loss.item()
            start = time.perf_counter() if i == 0 else start
        return work.rate(time.perf_counter() - start)

    return run


def ours(work: Work, setting: Setting) -> Side:
    """Return metrad's side."""
    embedder = Embedder(mobilenet_v2(weights=None), image_size=work.size, channels_last=setting.channels_last)
    learner = MetricLearner(embedder, AdaCos(embedder.out_features, CLASSES), optimizer)
    batches = ImageBatches(work.images, np.arange(len(work.images)), work.labels)
    loader = DataLoader(batches, batch_size=None, sampler=EpochShuffle(len(work.images), work.batch, 0))
    if setting.compiled:  # once for all turns, and not in each fit
        CompileEmbedder().put(embedder)
    return lambda: fit(learner, loader, work, LeanMemory(), precision=setting.precision, deterministic=True)


def write_torchvision(folder: Path, images: np.ndarray, labels: Tensor) -> None:
    """Write the files that torchvision's FashionMNIST reads."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pictures = struct.pack(">IIII", 2051, len(images), PIXELS, PIXELS) + images.tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(pictures)
        numbers = struct.pack(">II", 2049, len(labels)) + labels.numpy().astype(np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(numbers)


def chosen_by_auto(work: Work) -> str:
    """Return the precision that ``auto`` picks."""
    embedder = Embedder(mobilenet_v2(weights=None), image_size=work.size)
    accelerator = "gpu" if work.device.type == "cuda" else "cpu"
    precision, reason, speeds = choose_precision("auto", accelerator, 10**9, lambda: probe(embedder))
    print(f"auto picks {precision} ({reason}) {speeds}")
    return str(precision)


def measure(sides: dict[tuple[str, Setting], Side], rounds: int) -> dict[tuple[str, Setting], list[float]]:
    """Return images per second of each side in each round, after a turn that warms up and compiles."""
    for (name, setting), side in sides.items():
        start = time.perf_counter()
        side()
        print(f"ready: {name:<22} {setting} after {time.perf_counter() - start:4.0f} s", flush=True)
    speeds: dict[tuple[str, Setting], list[float]] = {key: [] for key in sides}
    for number in range(rounds):
        for key in list(sides)[:: 1 if number % 2 == 0 else -1]:
            speeds[key].append(sides[key]())
        last = ", ".join(f"{values[-1]:.0f}" for values in speeds.values())
        print(f"round {number + 1} of {rounds}: {last}", flush=True)
    return speeds


def ratio(one: list[float], other: list[float]) -> float:
    """Return the median over rounds of the ratio of two sides."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def table(speeds: dict[tuple[str, Setting], list[float]], precision: str) -> None:
    """Print the sides with their ratios to the hand-written version and to the bare loop of the same setting."""
    plain = speeds[HAND, Setting()]
    print("| side | setting | images/s, median | ÷ hand-written | ÷ bare loop, same setting | rounds |")
    print("|---|---|---|---|---|---|")
    for (name, setting), values in speeds.items():
        same = f"{ratio(values, speeds[BARE, setting]):.3f}" if name == OURS else ""
        each = " ".join(f"{value:.0f}" for value in values)
        first = f"| {name} | {' '.join(str(setting).split())} | {statistics.median(values):.1f}"
        print(f"{first} | {ratio(values, plain):.2f} | {same} | {each} |")
    settings = [setting for name, setting in speeds if name == OURS]
    middle = {setting: statistics.median(speeds[OURS, setting]) for setting in settings}
    # auto compiles where that was measured to be faster, given that the training is long enough
    auto = max((one for one in settings if one.precision == precision and one.channels_last), key=middle.__getitem__)
    best = max(settings, key=middle.__getitem__)
    print(f"best setting of {OURS}: {best}")
    print(f"auto in a long training: {auto}: {ratio(speeds[OURS, auto], speeds[OURS, best]):.3f} of the best")


def main() -> None:
    """Measure all sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a round and side")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--no-compile", action="store_true", help="leave out what takes minutes to compile")
    parser.add_argument("--quick", action="store_true", help="a small run that shows only that all sides work")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    batch, size, steps, rounds = (4, 32, 1, 1) if chosen.quick else (128, 96, chosen.steps, chosen.rounds)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch * (steps + 1), PIXELS, PIXELS, 1), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, CLASSES, len(images)))
    compiling = [False] if chosen.quick or chosen.no_compile else [False, True]
    grid = [Setting(*one) for one in itertools.product(["32-true", "bf16-mixed"], [False, True], compiling)]
    with tempfile.TemporaryDirectory() as folder:
        write_torchvision(Path(folder), images, labels)
        workers = 0 if chosen.quick else 2
        work = Work(images, labels, batch, size, torch.device(chosen.device), Path(folder), workers)
        print(f"MobileNetV2 {size}x{size}, batch {batch}, {chosen.device}, {torch.get_num_threads()} threads, ", end="")
        print(f"torch {torch.__version__}, {rounds} rounds of {steps} steps in turns")
        auto = chosen_by_auto(work)
        sides = {(HAND, Setting()): hand_written(work, Setting())}
        sides |= {(name, one): make(work, one) for one in grid for name, make in ((BARE, bare), (OURS, ours))}
        table(measure(sides, rounds), auto)


if __name__ == "__main__":
    main()
