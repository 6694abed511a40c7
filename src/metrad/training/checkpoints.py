"""Checkpoints on disk: written whole or not at all, and read without running what is in them."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from metrad.errors import InputError
from metrad.files import replacing


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning writes it into the system's folder for temporary files and moves it from there. Where that folder is on
    another disk, the move is a copy, and a run that is killed meanwhile is left without a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; there are no ``storage_options``."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as partial:
            torch.save(checkpoint, partial)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what training can go on from.

    Raises:
        InputError: it cannot be read, or is no checkpoint of Lightning's.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        int(checkpoint["epoch"])
        for key in ("state_dict", "loops", "pytorch-lightning_version"):
            checkpoint[key]
        checkpoint["optimizer_states"][0]["param_groups"][0]
    except Exception as error:  # torch, pickle and zip errors share no base
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"ckpt_path={path} cannot be read as a checkpoint ({reason})") from error
    return checkpoint
