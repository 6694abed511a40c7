"""Checkpoints: written whole or not at all."""

import pytest
import torch

from metrad.errors import InputError
from metrad.training.checkpoints import WholeCheckpoints, read_checkpoint


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints/last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)

    def stop(content, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(OSError, match="No space"):
        WholeCheckpoints().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path) == {"epoch": 1}
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("content", [b"", b"PK", None], ids=["empty", "cut off", "without optimiser"])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "last.ckpt"
    if content is None:
        torch.save({"epoch": 0, "state_dict": {}, "loops": {}, "pytorch-lightning_version": "2"}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read as a checkpoint \(.+\)"):
        read_checkpoint(path)
