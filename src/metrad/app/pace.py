"""How fast a run trains here: its precision, and whether it is compiled."""

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
    """What decides how a run trains.

    Attributes:
        precision: as Lightning names it, or ``auto``.
        compiled: whether to use torch.compile, or ``auto``.
        accelerator: as Lightning names it.
        epochs: how many there are to train.
        batch_size: training images a step.
        channels_last: whether images and weights are in channels-last order.
        backbone: settings of the backbone but its weights; measured speeds are remembered for these.
    """

    precision: str | int
    compiled: bool | str
    accelerator: str
    epochs: int
    batch_size: int
    channels_last: bool
    backbone: dict[str, Any]


def choose_pace(settings: PaceSettings, embedder: Embedder, train_images: int) -> Pace:
    """Return in which precision to train and whether to compile, for ``train_images`` images an epoch.

    No random state is changed, whether speeds are measured or remembered.
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
