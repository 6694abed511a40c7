"""The speed of training: choice of precision and of compilation, from measurements on this machine."""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from metrad.evaluation.forward import half_type
from metrad.models.cpu import lean_memory
from metrad.models.embedder import Embedder
from metrad.training.compiling import CompileEmbedder, missing_compiler

log = logging.getLogger(__name__)

Speeds = dict[str, float]  # precision, ``EAGER`` or ``COMPILED`` → images per second

PROBED = ("32-true", "bf16-mixed")
PROBE_BATCH, PROBE_ROUNDS = 64, 5
REVISION = 2  # of the remembered measurements: raise it when a change of the code makes training faster or slower
TINY = 1_000_000  # parameters; the probe takes seconds, too long compared with the training of a smaller model
# Assumed duration of compiling; MobileNetV2 took 40 to 80 s on two threads.
COMPILE_SECONDS = 75.0
# Forward and backward pass on one thread, per output value of a convolution; from MobileNetV2 (docs/performance.md).
SECONDS_PER_VALUE = 1.0e-8
# Compiling is tried only if the trial takes at most this share of the training time.
TRIAL_SHARE = 0.1
EAGER, COMPILED = "as written", "compiled"


@dataclass(frozen=True)
class Pace:
    """The precision and compilation chosen for a run, with reasons; part of ``environment.json``.

    Attributes:
        precision: precision of training, named as in Lightning.
        precision_reason: reason for this precision.
        images_per_second: measured training speeds; empty if nothing was measured.
        compiled: whether the embedder is compiled for training.
        compile_reason: reason for compiling or not compiling.
    """

    precision: str | int
    precision_reason: str
    images_per_second: Speeds
    compiled: bool
    compile_reason: str

    def kept(self, callbacks: Sequence[pl.Callback]) -> "Pace":
        """Return the pace that a training with ``callbacks`` really had: compiling may have failed."""
        failures = [callback.failure for callback in callbacks if isinstance(callback, CompileEmbedder)]
        if not any(failures):
            return self
        return replace(self, compiled=False, compile_reason=f"torch.compile failed ({failures[0]})")

    def describe(self) -> dict[str, Any]:
        """Return the attributes as plain values."""
        return asdict(self)


def choose_precision(
    wanted: str | int, accelerator: str, parameters: int, probe: Callable[[], Speeds]
) -> tuple[str | int, str, Speeds]:
    """Return the precision to train in, the reason for it, and the measured speeds.

    Args:
        wanted: ``auto``, or the precision to return.
        accelerator: accelerator, named as in Lightning.
        parameters: number of parameters of the embedder.
        probe: measures the speeds of ``PROBED`` on the CPU; called only if the choice depends on them.
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


def choose_compile(
    wanted: bool | str, device: str, images: int, seconds: float, probe: Callable[[], Speeds]
) -> tuple[bool, str, Speeds]:
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


def probe(embedder: Embedder, batch: int = PROBE_BATCH, rounds: int = PROBE_ROUNDS) -> Speeds:
    """Return the training speed in each precision of ``PROBED`` on the CPU, in images per second.

    The embedder and the random state stay unchanged.
    """
    sides = {name: partial(_step, _own(embedder), name) for name in PROBED}
    return _fastest(sides, embedder.size, batch, rounds)


def probe_compiled(embedder: Embedder, precision: str, batch: int, rounds: int = PROBE_ROUNDS) -> Speeds:
    """Return the training speed of the plain and of the compiled embedder on the CPU, in images per second.

    The embedder and the random state stay unchanged.
    """
    compiled = _own(embedder)
    CompileEmbedder.put(compiled)
    sides = {EAGER: partial(_step, _own(embedder), precision), COMPILED: partial(_step, compiled, precision)}
    speeds = _fastest(sides, embedder.size, batch, rounds)
    torch.compiler.reset()
    return speeds


def _own(embedder: Embedder) -> Embedder:
    return copy.deepcopy(embedder).cpu().train()


def _step(model: nn.Module, precision: str, images: Tensor) -> None:
    half = half_type(precision)
    with torch.autocast("cpu", half, enabled=half is not None):
        embeddings = model(images)
    embeddings.float().square().mean().backward()


def _fastest(sides: Mapping[str, Callable[[Tensor], None]], size: int, batch: int, rounds: int) -> Speeds:
    """Return the images per second of each of ``sides``: the best of ``rounds`` rounds, in turns, after a warm-up."""
    values = torch.arange(batch * size**2, dtype=torch.int64) * 2_654_435_761 % 2**32 // 2**24
    images = values.to(torch.uint8).view(batch, size, size, 1)
    best = dict.fromkeys(sides, math.inf)
    with torch.random.fork_rng(devices=[]), lean_memory(torch.device("cpu")):
        for done in range(rounds + 1):
            for name, step in sides.items():
                start = time.perf_counter()
                step(images)
                best[name] = min(best[name], time.perf_counter() - start) if done else math.inf
    return {name: round(batch / seconds, 1) for name, seconds in best.items()}
