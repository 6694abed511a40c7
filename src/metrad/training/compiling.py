"""torch.compile for training: what is compiled, when it is worth its time, and what happens when it fails."""

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

# torch keeps a graph in channels-last where it finds a convolution in it, and finds none in a backward graph, whose
# nodes have another name: inputs of depthwise convolutions were copied to another order and back (docs/performance.md).
log = logging.getLogger(__name__)

CPU_OPTIONS: dict[str, Any] = {"force_layout_optimization": True}


def missing_compiler(device: str) -> str | None:
    """Return that the C++ compiler is missing, which torch.compile needs on the CPU; None if it is there."""
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device != "cpu" or shutil.which(wanted.split()[0]):
        return None
    return f"the C++ compiler {wanted} is not there; install it or name another in CXX"


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
        except Exception as error:  # whatever a compiler may raise; what is wrong with the model itself raises again
            self.failure = first_line(error)
            log.warning("training goes on uncompiled, since torch.compile failed (%s)", self.failure)
            self.fast = self.plain
            return self.plain(images)
        log.info("compiled the embedder's forward pass in %.0f s", time.perf_counter() - start)
        return result


class CompileEmbedder(pl.Callback):
    """Compiles the learner's embedder while it trains; the names of weights, in checkpoints too, stay as they are.

    Attributes:
        failure: why that failed; empty where it did not.
    """

    failure = ""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the compiled forward in place."""
        log.info("compiling the embedder, which takes a minute or so unless torch has it cached")
        self.put(_embedder(pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the plain one back, and forget what was compiled: torch gives up after eight models in one process."""
        embedder = _embedder(pl_module)
        forward: Any = embedder.forward
        self.failure = forward.failure
        del embedder.forward
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
