"""Whether training can go on from a checkpoint."""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from metrad.checkpoints import read_checkpoint
from metrad.datamodule import MetradDataModule
from metrad.errors import InputError
from metrad.module import MetricLearner

log = logging.getLogger(__name__)


def epochs_behind(
    path: str | Path | None, learner: MetricLearner, data: MetradDataModule, max_epochs: int | None
) -> int:
    """Return how many epochs the checkpoint at ``path`` has behind it, 0 for None, if training can go on from it.

    Raises:
        InputError: it cannot be read, is of another model or of other images, or is past the last epoch asked for.
    """
    if path is None:
        return 0
    checkpoint = read_checkpoint(path)
    epochs, optimizer = int(checkpoint["epoch"]) + 1, checkpoint["optimizer_states"][0]["param_groups"][0]
    log.debug("%s was written by Lightning %s", path, checkpoint["pytorch-lightning_version"])
    misfit = _other_model(checkpoint["state_dict"], checkpoint.get("head"), learner)
    misfit = misfit or _other_optimizer(optimizer, learner)
    if misfit:
        raise InputError(f"ckpt_path={path} {misfit}")
    if checkpoint.get(type(data).__qualname__) != data.state_dict():
        raise InputError(
            f"ckpt_path={path} was trained on other images, so this run's test images may be among them; "
            "repeat the seed, dataset and sizes that it was made with"
        )
    if max_epochs is not None and epochs > max_epochs >= 0:
        raise InputError(f"ckpt_path={path} has {epochs} epochs behind it, trainer.max_epochs={max_epochs}")
    log.info("going on after epoch %d of %s", epochs, max_epochs)
    return epochs


def _other_model(state: dict[str, Tensor], head: str | None, learner: MetricLearner) -> str | None:
    """Return in what a checkpoint's model differs from ``learner``; None if in nothing."""
    own, own_head = learner.state_dict(), type(learner.head).__qualname__
    wrong = [key for key in own | state if key not in state or key not in own or own[key].shape != state[key].shape]
    if wrong:
        return f"is of another model: {len(wrong)} tensors differ, first {wrong[0]}"
    return None if head == own_head else f"was made with head {head}; choose that one"


def _other_optimizer(saved: dict[str, Any], learner: MetricLearner) -> str | None:
    """Return that a checkpoint's optimiser has other settings than the learner's; None if it has the same."""
    made = learner.configure_optimizers()
    own = made["optimizer"] if isinstance(made, dict) else made
    scheduled = {"initial_lr"}  # there with a scheduler only, which may change
    if set(own.param_groups[0]) | scheduled == set(saved) | scheduled:
        return None
    return "was made with another optimizer; choose the one it was made with"
