"""How fast a run trains here: its precision, and whether it is compiled."""

import logging
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

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


def choose_pace(cfg: DictConfig, embedder: Embedder, train_images: int) -> Pace:
    """Return in which precision to train and whether to compile, for ``train_images`` images an epoch.

    No random state is changed, whether speeds are measured or remembered.
    """
    backbone = cast("dict[str, Any]", OmegaConf.to_container(cfg.backbone, resolve=True))
    about = {
        "backbone": {key: value for key, value in backbone.items() if key != "weights"},
        "image_size": embedder.size,
        "channels_last": cfg.channels_last,
        "revision": REVISION,
    }
    accelerator, images = cfg.trainer.accelerator, train_images * max(cfg.trainer.get("max_epochs") or 0, 0)
    parameters = sum(parameter.numel() for parameter in embedder.parameters())
    probing = partial(remembered, about, PROBED, partial(probe, embedder))
    precision, reason, speeds = choose_precision(cfg.trainer.precision, accelerator, parameters, probing)
    more = {**about, "precision": precision, "batch_size": cfg.batch_size}
    trying = partial(probe_compiled, embedder, str(precision), cfg.batch_size)
    compiled, why, tried = choose_compile(
        cfg.compile,
        "cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda",
        images,
        estimated_seconds(embedder, images) if cfg.compile == "auto" else 0.0,
        partial(remembered, more, (EAGER, COMPILED), trying),
    )
    log.info("precision %s (%s); compiled: %s (%s)", precision, reason, "yes" if compiled else "no", why)
    return Pace(precision, reason, {**speeds, **tried}, compiled, why)
