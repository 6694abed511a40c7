"""How to train fast here: which precision, whether to compile, and what tells."""

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

Speeds = dict[str, float]  # precision → images per second

PROBED = ("32-true", "bf16-mixed")
PROBE_BATCH, PROBE_ROUNDS = 64, 5
REVISION = 2  # of what is measured and remembered: raised when training itself becomes faster or slower
TINY = 1_000_000  # parameters; below it seconds of probing are a good part of the training
# Compiling MobileNetV2 took 40 to 80 s on two threads.
COMPILE_SECONDS = 75.0
# Of one thread, forward and backward, for each value that a convolution gives; of MobileNetV2 (docs/performance.md).
SECONDS_PER_VALUE = 1.0e-8
# Whether compiling helps is tried out where the trial takes at most this part of the training.
TRIAL_SHARE = 0.1
EAGER, COMPILED = "as written", "compiled"


@dataclass(frozen=True)
class Pace:
    """What was chosen for a run, and why; part of ``environment.json``.

    Attributes:
        precision: as Lightning names it.
        precision_reason: why this one.
        images_per_second: what was measured of each precision and of compiling; empty where nothing was.
        compiled: whether the embedder is compiled for training.
        compile_reason: why, or why not.
    """

    precision: str | int
    precision_reason: str
    images_per_second: Speeds
    compiled: bool
    compile_reason: str

    def kept(self, callbacks: Sequence[pl.Callback]) -> "Pace":
        """Return what came of it in a training with ``callbacks``: compiling may have failed."""
        failures = [callback.failure for callback in callbacks if isinstance(callback, CompileEmbedder)]
        if not any(failures):
            return self
        return replace(self, compiled=False, compile_reason=f"torch.compile failed ({failures[0]})")

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


def choose_compile(
    wanted: bool | str, device: str, images: int, seconds: float, probe: Callable[[], Speeds]
) -> tuple[bool, str, Speeds]:
    """Return whether to compile, why, and what was measured.

    Args:
        wanted: True, False or ``auto``; all that follows but ``device`` is for ``auto``.
        device: type of the device, such as ``cpu``.
        images: to train on, epochs times size.
        seconds: that training on them takes as written, by ``estimated_seconds``.
        probe: measures the speeds of ``EAGER`` and ``COMPILED``, which takes a minute; called only for long trainings.
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
    """Return about how many seconds training on ``images`` images takes on the CPU.

    It depends on the model, the images and the threads alone, never on a clock, so a repeated or resumed run gets the
    same.
    """
    return images * convolution_values(embedder) * SECONDS_PER_VALUE / torch.get_num_threads()


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
    """Return how many images a second each of ``PROBED`` trains on the CPU; nothing else is changed."""
    sides = {name: partial(_step, _own(embedder), name) for name in PROBED}
    return _fastest(sides, embedder.size, batch, rounds)


def probe_compiled(embedder: Embedder, precision: str, batch: int, rounds: int = PROBE_ROUNDS) -> Speeds:
    """Return how many images a second train on the CPU as written and compiled; nothing else is changed."""
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
    """Return images per second of forward and backward, the sides in turns, the best of some rounds after a first."""
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
