"""Checkpoints on disk: written completely or not at all, and read without running code from them."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from metrad.errors import InputError, first_line
from metrad.files import replacing
from metrad.training.datamodule import MetradDataModule
from metrad.training.learner import MetricLearner

log = logging.getLogger(__name__)

# State of learning-rate schedulers that changes as training goes on, or that the optimiser sets.
_PROGRESS = {"base_lrs", "best", "cooldown_counter", "last_epoch", "mode_worse", "num_bad_epochs"}


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name in its own folder and renames it.

    Lightning writes into the system's temporary folder and moves the file. If that folder is on another disk, the move
    is a copy, and a run that is killed during the copy is left without a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; ``storage_options`` are ignored."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as partial:
            torch.save(checkpoint, partial)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint at ``path``.

    Raises:
        InputError: the file cannot be read or is not a checkpoint of Lightning's.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        int(checkpoint["epoch"])
        for key in ("state_dict", "loops", "pytorch-lightning_version"):
            checkpoint[key]
        checkpoint["optimizer_states"][0]["param_groups"][0]
    except Exception as error:  # torch, pickle and zip errors share no base
        reason = first_line(error)
        raise InputError(f"ckpt_path={path} cannot be read as a checkpoint ({reason})") from error
    return checkpoint


def begun_in(path: str | Path | None) -> str | None:
    """Return the precision of the training in the checkpoint at ``path``; None for no checkpoint or if unknown."""
    return None if path is None else read_checkpoint(path).get("precision")


def epochs_behind(
    path: str | Path | None, learner: MetricLearner, data: MetradDataModule, max_epochs: int | None, precision: str
) -> int:
    """Return the number of finished epochs in the checkpoint at ``path``, 0 for None.

    A resumed run ends as an unbroken run with its settings would. Where it cannot, it is refused.

    Args:
        path: the checkpoint.
        learner: the learner that training would continue with.
        data: the data module that training would continue with.
        max_epochs: number of epochs to train, those in the checkpoint included.
        precision: precision that training would continue in, named as in Lightning.

    Raises:
        InputError: training cannot continue from the checkpoint: it cannot be read, is of another model, other
            settings or other images, or has more than ``max_epochs`` epochs.
    """
    if path is None:
        return 0
    checkpoint = read_checkpoint(path)
    epochs, groups = int(checkpoint["epoch"]) + 1, checkpoint["optimizer_states"][0]["param_groups"]
    log.debug("%s was written by Lightning %s", path, checkpoint["pytorch-lightning_version"])
    misfit = (
        _other_settings(checkpoint, learner, precision)
        or _other_model(checkpoint["state_dict"], checkpoint.get("head"), learner)
        or _other_finetuning(checkpoint.get("finetuning"), learner)
        or _other_optimizer(groups, learner)
        or _other_schedule(checkpoint.get("lr_schedulers", []), learner)
    )
    if misfit:
        raise InputError(f"ckpt_path={path} {misfit}")
    if checkpoint.get(type(data).__qualname__) != data.state_dict():
        raise InputError(
            f"ckpt_path={path} was trained on other images, so this run's test images may be among them; "
            "repeat the seed, dataset and sizes that it was made with"
        )
    if max_epochs is not None and epochs > max_epochs >= 0:
        raise InputError(
            f"ckpt_path={path} has finished {epochs} epochs and trainer.max_epochs={max_epochs}; set at least {epochs}"
        )
    log.info("going on after epoch %d of %s", epochs, max_epochs)
    return epochs


def _other_settings(checkpoint: dict[str, Any], learner: MetricLearner, precision: str) -> str | None:
    """Return the settings that differ between a checkpoint and the learner, old and new; None if none are known to."""
    begun = checkpoint.get("precision", precision)
    old = {**checkpoint.get("settings", learner.settings), "trainer.precision": begun}
    new = {**learner.settings, "trainer.precision": precision}
    changed = sorted(key for key in old | new if old.get(key) != new.get(key))
    if not changed:
        return None
    listed = "; ".join(f"{key} was {old.get(key, 'not set')} and is {new.get(key, 'not set')} now" for key in changed)
    return f"was trained with other settings: {listed}; set them as they were, or train anew without ckpt_path"


def _other_model(state: dict[str, Tensor], head: str | None, learner: MetricLearner) -> str | None:
    """Return how a checkpoint's model differs from ``learner``; None if it does not differ."""
    own, own_head = learner.state_dict(), type(learner.head).__qualname__
    wrong = [key for key in own | state if key not in state or key not in own or own[key].shape != state[key].shape]
    if wrong:
        return f"is of another model: {len(wrong)} tensors differ, first {wrong[0]}"
    return None if head == own_head else f"was made with head {head}; choose that head"


def _other_finetuning(saved: dict[str, Any] | None, learner: MetricLearner) -> str | None:
    """Return how a checkpoint's fine-tuning differs from the learner's; None if it does not differ or is unknown."""
    own = asdict(learner.finetuning)
    for key, value in (saved or {}).items():
        if value != own.get(key):
            return f"was made with finetuning.{key}={value}; set the same"
    return None


def _other_optimizer(saved: list[dict[str, Any]], learner: MetricLearner) -> str | None:
    """Return how a checkpoint's optimiser differs from the learner's; None if it does not differ.

    Training would restore the checkpoint's settings, so other settings in the configuration would have no effect.
    """
    made = learner.configure_optimizers()
    own = (made["optimizer"] if isinstance(made, dict) else made).param_groups
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved]:
        return "was made with its parameters in other groups; choose the finetuning.layer_decay it was made with"
    for mine, theirs in zip(map(_settings, own), map(_settings, saved), strict=True):
        if set(mine) != set(theirs):
            return "was made with another optimizer; choose the one it was made with"
        for key, value in theirs.items():
            if mine[key] != value:
                return f"was made with optimizer.{key}={value}, but optimizer.{key}={mine[key]} now; set the same"
    return None


def _other_schedule(saved: list[dict[str, Any]], learner: MetricLearner) -> str | None:
    """Return how a checkpoint's learning-rate schedule differs from the learner's; None if it does not differ.

    Training would restore the checkpoint's schedule. A cosine over fewer epochs would rise again after its end.
    """
    made = learner.configure_optimizers()
    own = [made["lr_scheduler"].state_dict()] if isinstance(made, dict) else []
    if len(own) != len(saved):
        return f"was made {'with' if saved else 'without'} a scheduler; choose the scheduler it was made with"
    for mine, theirs in zip(own, saved, strict=True):
        for key in sorted(mine.keys() & theirs.keys() - _PROGRESS):
            if not key.startswith("_") and mine[key] != theirs[key]:
                return f"was made with scheduler.{key}={theirs[key]}, but scheduler.{key}={mine[key]} now; set the same"
    return None


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group, with the learning rate that a scheduler starts from."""
    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in group.items()}
    rate = settings.pop("initial_lr", settings["lr"])
    return {**settings, "lr": rate, "params": len(settings["params"])}
