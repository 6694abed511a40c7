"""torch.compile for training: whether to compile, the compiled forward pass, and its fallback."""

import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from metrad.errors import first_line
from metrad.models.embedder import Embedder

log = logging.getLogger(__name__)

# By default torch keeps the channels-last order only in a graph with a convolution node. It finds none in a backward
# graph, whose nodes have another name, and copies inputs of depthwise convolutions to another order and back
# (docs/performance.md).
CPU_OPTIONS: dict[str, Any] = {"force_layout_optimization": True}

# Assumed duration of compiling; MobileNetV2 took 40 to 80 s on two threads.
COMPILE_SECONDS = 75.0
# Forward and backward pass on one thread, per output value of a convolution; from MobileNetV2 (docs/performance.md).
SECONDS_PER_VALUE = 1.0e-8
# Compiling is tried only if the trial takes at most this share of the training time.
TRIAL_SHARE = 0.1
EAGER, COMPILED = "as written", "compiled"


def missing_compiler(device: str) -> str | None:
    """Return a message if torch.compile needs a C++ compiler on ``device`` and there is none; otherwise None."""
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device != "cpu" or shutil.which(wanted.split()[0]):
        return None
    return f"the C++ compiler {wanted} is not there; install it or name another in CXX"


def choose_compile(
    wanted: bool | str, device: str, images: int, seconds: float, probe: Callable[[], dict[str, float]]
) -> tuple[bool, str, dict[str, float]]:
    """Return whether to compile, the reason for it, and the measured speeds.

    Args:
        wanted: True, False or ``auto``; only ``auto`` uses ``images``, ``seconds`` and ``probe``.
        device: type of the device, such as ``cpu``.
        images: number of training images, summed over the epochs.
        seconds: estimated training time without compiling, from ``estimated_seconds``.
        probe: measures the speeds of ``EAGER`` and ``COMPILED`` in about a minute; called only for long trainings.
    """
    if wanted is False:
        return False, "given", {}
    missing = missing_compiler(device)
    if missing:
        return False, missing, {}
    if wanted is True:
        return True, "given", {}
    if device != "cpu":
        return False, f"auto compiles on the CPU alone, and this is {device}", {}
    if seconds * TRIAL_SHARE < COMPILE_SECONDS:
        return False, f"about {seconds:.0f} s of training are too few to try it", {}
    speeds = probe()
    saved = images / speeds[EAGER] - images / speeds[COMPILED]
    return saved > COMPILE_SECONDS, f"it saves about {saved:.0f} s and takes about {COMPILE_SECONDS:.0f}", speeds


def estimated_seconds(embedder: Embedder, images: int) -> float:
    """Return the estimated seconds of training on ``images`` images on the CPU, without compiling.

    The estimate depends on the model, the number of images and the threads, never on a clock. A repeated or resumed
    run therefore gets the same estimate.
    """
    return images * convolution_values(embedder) * SECONDS_PER_VALUE / torch.get_num_threads()


def convolution_values(embedder: Embedder) -> int:
    """Return the number of output values of all convolutions for one image."""
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


class Compiled:
    """A module's forward, compiled for the shape of the first training batch.

    Batches of another shape and evaluation use the plain forward, so they cause no further compilation. If compiling
    fails, one warning is logged and training continues with the plain forward.

    Args:
        module: module whose ``forward`` takes one tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.plain: Callable[[Tensor], Tensor] = module.forward
        self.fast: Callable[[Tensor], Tensor] = self.plain
        self.shape: torch.Size | None = None
        self.failure = ""

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
        options = CPU_OPTIONS if images.device.type == "cpu" else None
        try:
            self.fast = torch.compile(self.plain, dynamic=False, options=options)
            with _quiet():
                result = self.fast(images)
        except Exception as error:  # a compiler may raise anything; the model's own errors are raised again below
            self.failure = first_line(error)
            log.warning("training goes on uncompiled, since torch.compile failed (%s)", self.failure)
            self.fast = self.plain
            return self.plain(images)
        log.info("compiled the embedder's forward pass in %.0f s", time.perf_counter() - start)
        return result


class CompileEmbedder(pl.Callback):
    """Compiles the learner's embedder for training; the names of its weights stay the same, in checkpoints too.

    Attributes:
        failure: reason why compiling failed; empty if it did not fail.
    """

    failure = ""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the embedder's forward by the compiled one."""
        log.info("compiling the embedder, which takes a minute or so unless torch has it cached")
        self.put(_embedder(pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the plain forward, and reset the compiler: torch stops compiling after eight models in a process."""
        embedder = _embedder(pl_module)
        forward: Any = embedder.forward
        self.failure = forward.failure
        del embedder.forward
        torch.compiler.reset()

    @staticmethod
    def put(embedder: nn.Module) -> None:
        """Replace the forward of ``embedder`` by ``Compiled``."""
        embedder.forward = Compiled(embedder)


def _embedder(learner: nn.Module) -> nn.Module:
    return learner.get_submodule("embedder")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's messages during compilation, such as those about missing CUDA."""
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
