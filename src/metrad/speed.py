"""How to train fast here: which precision, whether to compile, and what tells."""

import copy
import logging
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from metrad.embedder import Embedder

log = logging.getLogger(__name__)

Speeds = dict[str, float]  # precision → images per second

PROBED = ("32-true", "bf16-mixed")
PROBE_BATCH, PROBE_ROUNDS = 64, 3
TINY = 1_000_000  # parameters; below it seconds of probing are a good part of the training
# Compiling MobileNetV2 took 40 to 80 s on two threads, ResNet-18 less.
COMPILE_SECONDS = 75.0
# What fusing saves, in seconds of one thread, for each value that a convolution gives: see docs/performance.md.
SAVED_SECONDS_PER_VALUE = 2.0e-9
# Two more reasons are needed than a saving that may not come: the estimate is of one machine.
WORTH = 1.5


@dataclass(frozen=True)
class Pace:
    """What was chosen for a run, and why; part of ``environment.json``.

    Attributes:
        precision: as Lightning names it.
        precision_reason: why this one.
        images_per_second: what the probe measured of each precision; empty where nothing was probed.
        compiled: whether the embedder is compiled for training.
        compile_reason: why, or why not.
    """

    precision: str | int
    precision_reason: str
    images_per_second: Speeds
    compiled: bool
    compile_reason: str

    def describe(self) -> dict[str, Any]:
        """Return the choice as plain values."""
        return asdict(self)


def choose_precision(
    wanted: str | int, accelerator: str, parameters: int, probe: Callable[[], Speeds]
) -> tuple[str | int, str, Speeds]:
    """Return the precision to train in, why, and what was measured.

    Args:
        wanted: ``auto``, or a precision that is taken as it is.
        accelerator: as Lightning names it.
        parameters: of the embedder.
        probe: measures the speeds of ``PROBED`` on the CPU; called only where it decides.
    """
    if wanted != "auto":
        return wanted, "given", {}
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16-mixed", "the GPU computes bfloat16", {}) if fast else ("16-mixed", "the GPU lacks bfloat16", {})
    if accelerator not in ("auto", "cpu"):
        return "32-true", f"nothing is known of {accelerator}", {}
    has = torch.cpu.get_capabilities()
    if not (has.get("avx512_bf16") or has.get("amx_bf16")):
        return "32-true", "the CPU has no instructions for bfloat16", {}
    if parameters < TINY:
        return "32-true", "the backbone is too small for the precision to matter", {}
    speeds = probe()
    return max(PROBED, key=lambda name: speeds[name]), "the faster one here", speeds


def choose_compile(wanted: bool | str, device: str, seconds_saved: float) -> tuple[bool, str]:
    """Return whether to compile, and why.

    Args:
        wanted: True, False or ``auto``.
        device: type of the device, such as ``cpu``.
        seconds_saved: by compiling, over the whole training, compilation not counted; only ``auto`` asks.
    """
    if wanted is False:
        return False, "given"
    missing = missing_compiler(device)
    if missing:
        return False, missing
    if wanted is True:
        return True, "given"
    if device != "cpu":
        return False, f"auto compiles on the CPU alone, and this is {device}"
    told = f"about {seconds_saved:.0f} s to save by about {COMPILE_SECONDS:.0f} s of compiling"
    return seconds_saved > WORTH * COMPILE_SECONDS, told


def missing_compiler(device: str) -> str | None:
    """Return that the C++ compiler is missing, which torch.compile needs on the CPU; None if it is there."""
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device != "cpu" or shutil.which(wanted.split()[0]):
        return None
    return f"the C++ compiler {wanted} is not there; install it or name another in CXX"


def seconds_saved(embedder: Embedder, images: float) -> float:
    """Return about how many seconds compiling saves on the CPU when training on ``images`` images (epochs times size).

    Compiled code makes fewer passes over what the convolutions give, so the saving is taken to be in proportion to
    the number of those values. It depends on the model, the images and the threads alone, never on a clock, so that a
    repeated or resumed run decides alike.
    """
    return images * convolution_values(embedder) * SAVED_SECONDS_PER_VALUE / torch.get_num_threads()


def convolution_values(embedder: Embedder) -> int:
    """Return how many values all convolutions together give for one image."""
    counted = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal counted
        counted += output.numel()

    hooks = [module.register_forward_hook(count) for module in embedder.modules() if isinstance(module, nn.Conv2d)]
    training = embedder.training
    device = embedder.mean.device
    try:
        with torch.inference_mode():
            embedder.eval()(torch.zeros(1, embedder.size, embedder.size, 3, dtype=torch.uint8, device=device))
    finally:
        embedder.train(training)
        for hook in hooks:
            hook.remove()
    return counted


def probe(embedder: Embedder, batch: int = PROBE_BATCH, rounds: int = PROBE_ROUNDS) -> Speeds:
    """Measure how many images a second forward and backward take on the CPU, the precisions in turns, best of rounds.

    Neither ``embedder`` nor any random state is changed.
    """
    model = copy.deepcopy(embedder).cpu().train()
    values = torch.arange(batch * embedder.size**2, dtype=torch.int64) * 2_654_435_761 % 2**32 // 2**24
    images = values.to(torch.uint8).view(batch, embedder.size, embedder.size, 1)
    best = dict.fromkeys(PROBED, math.inf)
    with torch.random.fork_rng(devices=[]):
        for done in range(rounds + 1):  # the first warms up
            for name in PROBED:
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16-mixed"):
                    embeddings = model(images)
                embeddings.float().square().mean().backward()
                took = time.perf_counter() - start
                best[name] = min(best[name], took) if done else math.inf
    return {name: round(batch / seconds, 1) for name, seconds in best.items()}


class Compiled:
    """Runs a module's forward compiled for the shape of its first training batch; everything else runs as written.

    So a smaller last batch and evaluation cost no further compilation. If compiling fails, that is told once and all
    goes on uncompiled.

    Args:
        module: its ``forward`` takes one tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.plain: Callable[[Tensor], Tensor] = module.forward
        self.fast: Callable[[Tensor], Tensor] = torch.compile(module.forward, dynamic=False)
        self.shape: torch.Size | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return what the module's forward returns."""
        if not (self.module.training and torch.is_grad_enabled()):
            return self.plain(images)
        if self.shape is None:
            self.shape = images.shape
            return self._first(images)
        return (self.fast if images.shape == self.shape else self.plain)(images)

    def _first(self, images: Tensor) -> Tensor:
        start = time.perf_counter()
        try:
            with _quiet():
                result = self.fast(images)
        except Exception as error:  # whatever a compiler may raise; what is wrong with the model itself raises again
            log.warning("training goes on uncompiled, since torch.compile failed (%s)", _first_line(error))
            self.fast = self.plain
            return self.plain(images)
        log.info("compiled the embedder's forward pass in %.0f s", time.perf_counter() - start)
        return result


class CompileEmbedder(pl.Callback):
    """Compiles the learner's embedder while it trains; the names of weights, in checkpoints too, stay as they are."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the compiled forward in place."""
        log.info("compiling the embedder, which takes a minute or so unless torch has it cached")
        self.put(_embedder(pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the plain one back, and forget what was compiled: torch gives up after eight models in one process."""
        del _embedder(pl_module).forward
        torch.compiler.reset()

    @staticmethod
    def put(embedder: nn.Module) -> None:
        """Make ``embedder`` run compiled where it can."""
        embedder.forward = Compiled(embedder)


def _embedder(learner: nn.Module) -> nn.Module:
    return learner.get_submodule("embedder")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch says while it compiles, about CUDA not being there and the like, off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.utils.cpp_extension", "torch._inductor", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
