"""The pace of a run on this machine: its precision, and whether it is compiled."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from metrad.models.embedder import Embedder
from metrad.training.measured_once import remembered
from metrad.training.speed import (
    COMPILED,
    EAGER,
    PROBED,
    REVISION,
    Pace,
    choose_compile,
    choose_precision,
    estimated_seconds,
    probe,
    probe_compiled,
)

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


def choose_pace(settings: PaceSettings, embedder: Embedder, train_images: int) -> Pace:
    """Return the precision to train in and whether to compile, for ``train_images`` images per epoch.

    The random state stays unchanged.
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
    precision, reason, speeds = choose_precision(settings.precision, accelerator, parameters, probing)
    more = {**about, "precision": precision, "batch_size": settings.batch_size}
    trying = partial(probe_compiled, embedder, str(precision), settings.batch_size)
    compiled, why, tried = choose_compile(
        settings.compiled,
        "cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda",
        images,
        estimated_seconds(embedder, images) if settings.compiled == "auto" else 0.0,
        partial(remembered, more, (EAGER, COMPILED), trying),
    )
    log.info("precision %s (%s); compiled: %s (%s)", precision, reason, "yes" if compiled else "no", why)
    return Pace(precision, reason, {**speeds, **tried}, compiled, why)
