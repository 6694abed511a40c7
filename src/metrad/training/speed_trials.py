"""Trials of the speed of training on this machine, from which precision and compilation are chosen."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from metrad.evaluation.forward import half_type
from metrad.models.cpu import lean_memory
from metrad.models.embedder import Embedder
from metrad.training.compiling import COMPILED, EAGER, CompileEmbedder
from metrad.training.precision import PROBED

Speeds = dict[str, float]  # precision, ``EAGER`` or ``COMPILED`` → images per second

PROBE_BATCH, PROBE_ROUNDS = 64, 5
REVISION = 2  # of the remembered measurements: raise it when a change of the code makes training faster or slower


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
