"""The pace of a run on this machine: its precision, and whether it is compiled."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

from metrad.models.embedder import Embedder
from metrad.training.compiling import COMPILED, EAGER, CompileEmbedder, choose_compile, estimated_seconds
from metrad.training.measured_once import remembered
from metrad.training.precision import PROBED, choose_precision
from metrad.training.speed_trials import REVISION, Speeds, probe, probe_compiled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PaceSettings:
    """The settings that decide the pace of a run.

    Attributes:
        precision: precision, named as in Lightning, or ``auto``.
        compiled: whether to use torch.compile, or ``auto``.
        accelerator: accelerator, named as in Lightning.
        epochs: number of epochs to train.
        batch_size: training images per step.
        channels_last: whether images and weights are in channels-last order.
        backbone: settings of the backbone without its weights; part of the key of the remembered speeds.
    """

    precision: str | int
    compiled: bool | str
    accelerator: str
    epochs: int
    batch_size: int
    channels_last: bool
    backbone: dict[str, Any]


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

    def log_choice(self) -> None:
        """Log the precision and whether training is compiled, each with the reason."""
        compiled = "yes" if self.compiled else "no"
        log.info(
            "precision %s (%s); compiled: %s (%s)", self.precision, self.precision_reason, compiled, self.compile_reason
        )

    def describe(self) -> dict[str, Any]:
        """Return the attributes as plain values."""
        return asdict(self)


def choose_pace(settings: PaceSettings, embedder: Embedder, train_images: int, begun_in: str | None = None) -> Pace:
    """Return the precision to train in and whether to compile; the random state stays unchanged.

    Args:
        settings: the settings that decide.
        embedder: the embedder to train.
        train_images: number of images per epoch.
        begun_in: precision that a resumed training was begun in, which ``auto`` keeps; None if there is none.
    """
    about = {
        "backbone": settings.backbone,
        "image_size": embedder.size,
        "channels_last": settings.channels_last,
        "revision": REVISION,
    }
    accelerator, images = settings.accelerator, train_images * settings.epochs
    parameters = sum(parameter.numel() for parameter in embedder.parameters())
    probing = partial(remembered, about, PROBED, partial(probe, embedder))
    chosen: tuple[str | int, str, Speeds]
    if settings.precision == "auto" and begun_in is not None:
        chosen = begun_in, "that of the checkpoint", {}
    elif settings.precision == "auto" and settings.epochs == 0:  # a trial of training says nothing of embedding
        chosen = "32-true", "nothing is trained", {}
    else:
        chosen = choose_precision(settings.precision, accelerator, parameters, probing)
    precision, reason, speeds = chosen
    more = {**about, "precision": precision, "batch_size": settings.batch_size}
    trying = partial(probe_compiled, embedder, str(precision), settings.batch_size)
    compiled, why, tried = choose_compile(
        settings.compiled,
        "cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda",
        images,
        estimated_seconds(embedder, images) if settings.compiled == "auto" and images else 0.0,
        partial(remembered, more, (EAGER, COMPILED), trying),
    )
    return Pace(precision, reason, {**speeds, **tried}, compiled, why)
