"""Checkpoints on disk: written completely or not at all, and read without running code from them.

A checkpoint is torch's zip archive, followed by a line with the SHA-256 of the archive, which readers of zip archives
skip. A checkpoint of an earlier version ends with the archive.
"""

import hashlib
import logging
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from metrad.data.decoding import KNOWN_VERSIONS
from metrad.errors import InputError, first_line
from metrad.files import changed, opened, replacing, sha256
from metrad.training.datamodule import MetradDataModule
from metrad.training.learner import MetricLearner

log = logging.getLogger(__name__)

Changes = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]

MOST_EPOCHS, MOST_STEPS = 10**9, 10**15
_SEAL = re.compile(rb"\nmetrad-sha256 ([0-9a-f]{64})\n\Z")
_SEAL_BYTES = 80
_ARCHIVE_END = re.compile(rb"PK\x05\x06.{16}\0\0\Z", re.DOTALL)
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
            digest = sha256(partial)
            with partial.open("ab") as file:
                file.write(f"\nmetrad-sha256 {digest}\n".encode())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint at ``path``.

    Raises:
        InputError: the file cannot be read, has changed, or is not a checkpoint of Lightning's.
    """
    is_sealed(Path(path))
    try:
        _require_plain(Path(path))
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        fault = next(_faults(checkpoint), None)
    except Exception as error:  # torch, pickle and zip errors share no base
        reason = first_line(error)
        raise InputError(f"ckpt_path={path} cannot be read as a checkpoint ({reason})") from error
    if fault:
        raise InputError(f"ckpt_path={path} cannot be read as a checkpoint ({fault})")
    return checkpoint


def is_sealed(path: Path) -> bool:
    """Return whether the checkpoint at ``path`` ends with its checksum; one of an earlier version does not.

    Raises:
        InputError: the file cannot be read, has another checksum, or ends with neither a checksum nor an archive.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _SEAL_BYTES))
        end = file.read(_SEAL_BYTES)
        found = _SEAL.search(end)
        if found is None:
            if not _ARCHIVE_END.search(end):
                raise InputError(f"ckpt_path={path} cannot be read as a checkpoint (it was cut off or changed)")
            return False
        file.seek(0)
        left, digest = size - len(found[0]), hashlib.sha256()
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest() != found[1].decode():
        raise changed(path)
    return True


def _require_plain(path: Path) -> None:
    """Raise ``ValueError`` if the archive would grow when it is read; torch writes its records uncompressed."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    if not stored or sum(record.file_size for record in records) > path.stat().st_size:
        raise ValueError("its records are compressed or overlap, which torch never writes")


def _faults(checkpoint: Any) -> Iterator[str]:
    """Yield what of a checkpoint has a wrong type; only the first is asked for, as the next rely on it."""
    if not isinstance(checkpoint, dict):
        yield "it holds no mapping"
    epoch, weights = checkpoint.get("epoch"), checkpoint.get("state_dict")
    optimizers, loops = checkpoint.get("optimizer_states"), checkpoint.get("loops")
    if not isinstance(epoch, int) or not 0 <= epoch <= MOST_EPOCHS:
        yield f"epoch is {str(epoch)[:40]}"
    steps = checkpoint.get("global_step", 0)
    if not isinstance(steps, int) or not 0 <= steps <= MOST_STEPS:
        yield f"global_step is {str(steps)[:40]}"
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        yield "state_dict holds no tensors"
    if not all(value.isfinite().all() for value in weights.values()):
        yield "its weights are not finite: training had diverged; begin anew"
    if not isinstance(optimizers, list) or len(optimizers) != 1 or not isinstance(optimizers[0], dict):
        yield "optimizer_states holds no optimizer"
    groups = optimizers[0].get("param_groups")
    if not isinstance(groups, list) or not groups or not all(map(_is_group, groups)):
        yield "optimizer_states holds no groups of parameters"
    schedulers = checkpoint.get("lr_schedulers", [])
    if not isinstance(schedulers, list) or not all(isinstance(state, dict) for state in schedulers):
        yield "lr_schedulers holds no states"
    if not isinstance(loops, dict) or _epochs_in(loops) not in (None, epoch + 1):
        yield "loops does not agree with epoch"
    if not isinstance(checkpoint.get("pytorch-lightning_version"), str):
        yield "pytorch-lightning_version is missing"
    yield from _callback_faults(checkpoint.get("callbacks", {}))


def _is_group(group: Any) -> bool:
    numbers = isinstance(group, dict) and isinstance(group.get("lr"), float | int) and math.isfinite(group["lr"])
    return numbers and isinstance(group.get("params"), list)


def _epochs_in(loops: dict[str, Any]) -> Any:
    """Return the number of finished epochs that Lightning's loop counted; None if it counted none."""
    node: Any = loops
    for key in ("fit_loop", "epoch_progress", "current", "processed"):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _callback_faults(callbacks: Any) -> Iterator[str]:
    if not isinstance(callbacks, dict) or not all(isinstance(state, dict) for state in callbacks.values()):
        yield "callbacks holds no states"
    for key in ("EpochLog", "Study"):
        state = callbacks.get(key, {"history": [], "seconds": 0.0})
        rows, seconds = state.get("history"), state.get("seconds")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "epoch" in row for row in rows):
            yield f"{key} holds no epochs"
        if not isinstance(seconds, float | int) or not 0 <= seconds < math.inf:
            yield f"{key} holds no seconds"
    spent = callbacks.get(Timer.__qualname__, {}).get("time_elapsed", {})
    if not isinstance(spent, dict) or not all(isinstance(one, float | int) and one >= 0 for one in spent.values()):
        yield "Timer holds no seconds"


@dataclass(frozen=True)
class Begun:
    """A training to go on with, and what it keeps of its beginning.

    Attributes:
        path: the checkpoint.
        decoder: version of the decoder of its images.
        precision: precision of the training, named as in Lightning; None if unknown.
        verified: whether the checkpoint ends with its checksum.
        content: the checkpoint's content.
    """

    path: str | Path
    decoder: int
    precision: str | None
    verified: bool
    content: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, path: str | Path) -> "Begun":
        """Return the training in the checkpoint at ``path``.

        Raises:
            InputError: the file cannot be read, or this version of metrad does not know the decoder.
        """
        checkpoint = read_checkpoint(path)
        decoder = _images_of(checkpoint).get("decoder", 1)  # metrad 0.1 had version 1 alone, and did not say so
        if decoder not in KNOWN_VERSIONS:
            raise InputError(f"ckpt_path={path} is of images that another version of metrad decoded; use that version")
        return cls(path, decoder, checkpoint.get("precision"), is_sealed(Path(path)), checkpoint)


def _images_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says of its images, an empty mapping if nothing."""
    said = checkpoint.get(MetradDataModule.__qualname__)
    return said if isinstance(said, dict) else {}


def epochs_behind(
    begun: Begun | None, learner: MetricLearner, data: MetradDataModule, trainer: pl.Trainer, changes: Changes
) -> int:
    """Return the number of finished epochs of a training to continue, 0 for None.

    A resumed run ends as an unbroken run with its settings would. Where it cannot, it is refused.

    Args:
        begun: the training.
        learner: the learner that training would continue with.
        data: the data module that training would continue with.
        trainer: the trainer that training would continue with; its limits include what the checkpoint has.
        changes: returns a phrase for each difference between the settings of a checkpoint and the learner's.

    Raises:
        InputError: training cannot continue from the checkpoint: it is of another model, other settings or other
            images, or is past a limit of the trainer, so that nothing would be trained.
    """
    if begun is None:
        return 0
    path, checkpoint = begun.path, begun.content
    epochs, groups = int(checkpoint["epoch"]) + 1, checkpoint["optimizer_states"][0]["param_groups"]
    if not begun.verified:
        log.warning("ckpt_path=%s is unverified: it is from before checkpoints had checksums", path)
    log.debug("%s was written by Lightning %s", path, checkpoint["pytorch-lightning_version"])
    misfit = (
        _other_settings(checkpoint, learner, str(trainer.precision), changes)
        or _other_model(checkpoint["state_dict"], checkpoint.get("head"), learner)
        or _other_finetuning(checkpoint.get("finetuning"), learner)
        or _other_optimizer(groups, learner)
        or _other_moments(checkpoint["optimizer_states"][0], learner)
        or _other_schedule(checkpoint.get("lr_schedulers", []), learner)
    )
    if misfit:
        raise InputError(f"ckpt_path={path} {misfit}")
    if {"decoder": 1, **_images_of(checkpoint)} != data.state_dict():
        raise InputError(
            f"ckpt_path={path} was trained on other images, so this run's test images may be among them; "
            "repeat the seed, dataset and sizes that it was made with"
        )
    past = _past_limit(checkpoint, trainer)
    if past:
        raise InputError(f"ckpt_path={path} has {past}, or leave ckpt_path out to train anew")
    return epochs


def _past_limit(checkpoint: dict[str, Any], trainer: pl.Trainer) -> str | None:
    """Return which limit of ``trainer`` a checkpoint is past, and what to set; None for none.

    A training that ended at a limit is at it and not past it. Time is looked at between steps only, so such a training
    goes over its time by less than an epoch.
    """
    epochs, steps = int(checkpoint["epoch"]) + 1, int(checkpoint.get("global_step", 0))
    if trainer.max_epochs is not None and epochs > trainer.max_epochs >= 0:
        return f"finished {epochs} epochs and trainer.max_epochs={trainer.max_epochs}; set at least {epochs}"
    if steps > trainer.max_steps >= 0:
        return f"trained {steps} steps and trainer.max_steps={trainer.max_steps}; set at least {steps}"
    timer = next((each for each in trainer.callbacks if isinstance(each, Timer)), None)  # type: ignore[attr-defined]
    spent = checkpoint.get("callbacks", {}).get(Timer.__qualname__, {}).get("time_elapsed", {}).get("train", 0.0)
    left = timer.time_remaining() if timer else None
    if left is not None and spent * (1 - 1 / epochs) > left:
        return f"trained for {spent:.0f} seconds and trainer.max_time allows {left:.0f}; set a longer trainer.max_time"
    return None


def _other_settings(checkpoint: dict[str, Any], learner: MetricLearner, precision: str, changes: Changes) -> str | None:
    """Return the settings that differ between a checkpoint and the learner, old and new; None if none are known to."""
    begun = checkpoint.get("precision", precision)
    old = {**checkpoint.get("settings", learner.settings), "trainer.precision": begun}
    new = {**learner.settings, "trainer.precision": precision}
    found = changes(old, new)
    if not found:
        return None
    return (
        f"was trained with other settings: {'; '.join(found)}; set them as they were, or train anew without ckpt_path"
    )


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


def _other_moments(saved: dict[str, Any], learner: MetricLearner) -> str | None:
    """Return how the optimiser's state in a checkpoint misfits the learner's parameters; None if it fits."""
    made, states = learner.configure_optimizers(), saved.get("state")
    groups = (made["optimizer"] if isinstance(made, dict) else made).param_groups
    shapes = {
        number: parameter.shape
        for mine, theirs in zip(groups, saved["param_groups"], strict=True)
        for number, parameter in zip(theirs["params"], mine["params"], strict=True)
    }
    if not isinstance(states, dict) or not states.keys() <= shapes.keys():
        return "has an optimizer state of other parameters"
    for number, state in states.items():
        values = state.values() if isinstance(state, dict) else [None]
        if not all(not isinstance(v, Tensor) or v.numel() == 1 or v.shape == shapes[number] for v in values):
            return "has an optimizer state of other shapes"
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
