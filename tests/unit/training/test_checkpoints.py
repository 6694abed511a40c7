"""Checkpoints: written whole or not at all, and refused for other images."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import Timer

from metrad.errors import InputError
from metrad.models.backbones import convnet
from metrad.models.embedder import Embedder
from metrad.models.heads import Softmax
from metrad.runs.identity import changes
from metrad.training.checkpoints import Begun, WholeCheckpoints, epochs_behind, read_checkpoint
from metrad.training.learner import MetricLearner

DATA = SimpleNamespace(state_dict=lambda: {"split": "these", "decoder": 1})


def made() -> MetricLearner:
    embedder = Embedder(convnet(channels=[4]), image_size=8)
    return MetricLearner(embedder, Softmax(4, 2), lambda groups: torch.optim.SGD(groups, lr=0.1))


def trainer(**limits: object) -> SimpleNamespace:
    unlimited = {"max_epochs": 3, "max_steps": -1, "callbacks": [], "precision": "32-true"}
    return SimpleNamespace(**unlimited | limits)


def saved(path: Path, learner: MetricLearner, **entries: object) -> None:
    """Write a checkpoint of three epochs of ``learner`` to ``path``, without a checksum."""
    states = {"state_dict": learner.state_dict(), "optimizer_states": [learner.configure_optimizers().state_dict()]}
    others = {"head": "Softmax", "loops": {}, "pytorch-lightning_version": "2", "MetradDataModule": DATA.state_dict()}
    torch.save({"epoch": 2, **states, **others, **entries}, path)


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


def test_a_checkpoint_of_which_one_bit_has_changed_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1, "weights": torch.arange(64.0)}, path)
    whole = path.read_bytes()
    place = whole.index(torch.arange(64.0).numpy().tobytes())
    for changed in (place, place + 200, len(whole) - 10):  # of the weights, and of the checksum
        data = bytearray(whole)
        data[changed] ^= 1
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"last\.ckpt (is not the file that was saved|.* cut off or changed)"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("images", "goes_on"),
    [
        ({"split": "these", "decoder": 1}, True),
        ({"split": "these"}, True),  # of version 0.1, whose only decoder is version 1
        ({"split": "others", "decoder": 1}, False),
        ({"split": "these", "decoder": 2}, False),
        (None, False),
    ],
)
def test_training_continues_on_the_same_images_alone(tmp_path, images, goes_on):
    learner, path = made(), tmp_path / "last.ckpt"
    saved(path, learner, MetradDataModule=images)
    if goes_on:
        assert epochs_behind(Begun.of(path), learner, DATA, trainer(), changes) == 3
    else:
        with pytest.raises(InputError, match="was trained on other images"):
            epochs_behind(Begun.of(path), learner, DATA, trainer(), changes)


@pytest.mark.parametrize(
    ("changed", "precision", "says"),
    [
        ({}, "32-true", None),
        ({"batch_size": 32}, "32-true", "batch_size was 64 and is 32 now"),
        ({"augmentation.flip": 0.5}, "32-true", "augmentation.flip was not set and is 0.5 now"),
        ({}, "bf16-mixed", "trainer.precision was 32-true and is bf16-mixed now"),
    ],
)
def test_training_continues_with_the_same_settings_alone(tmp_path, changed, precision, says):
    learner, path = made(), tmp_path / "last.ckpt"
    saved(path, learner, settings={"seed": 1, "batch_size": 64}, precision="32-true")
    learner.settings = {"seed": 1, "batch_size": 64} | changed
    if says is None:
        assert epochs_behind(Begun.of(path), learner, DATA, trainer(precision=precision), changes) == 3
    else:
        with pytest.raises(InputError, match=f"was trained with other settings: {re.escape(says)}; set them as"):
            epochs_behind(Begun.of(path), learner, DATA, trainer(precision=precision), changes)


def test_a_checkpoint_that_names_no_settings_is_gone_on_from(tmp_path):
    learner, path = made(), tmp_path / "last.ckpt"
    saved(path, learner)  # as version 0.1 wrote it
    learner.settings = {"seed": 1}
    assert epochs_behind(Begun.of(path), learner, DATA, trainer(precision="bf16-mixed"), changes) == 3


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({}, None),
        ({"max_epochs": 2}, "has finished 3 epochs and trainer.max_epochs=2; set at least 3"),
        ({"max_epochs": -1, "max_steps": 12}, None),
        ({"max_epochs": -1, "max_steps": 11}, "has trained 12 steps and trainer.max_steps=11; set at least 12"),
        ({"callbacks": [Timer("00:00:01:00")]}, None),  # the time that it ended at, in its last epoch
        ({"callbacks": [Timer("00:00:00:30")]}, "has trained for 66 seconds and trainer.max_time allows 30"),
    ],
)
def test_a_checkpoint_past_a_limit_of_training_is_refused_and_does_not_count_as_finished(tmp_path, limits, says):
    learner, path = made(), tmp_path / "last.ckpt"
    saved(path, learner, global_step=12, callbacks={"Timer": {"time_elapsed": {"train": 66.0}}})
    if says is None:
        assert epochs_behind(Begun.of(path), learner, DATA, trainer(**limits), changes) == 3
    else:
        with pytest.raises(InputError, match=re.escape(says)):
            epochs_behind(Begun.of(path), learner, DATA, trainer(**limits), changes)


@pytest.mark.parametrize(
    ("images", "decoder"), [({"split": "x"}, 1), (None, 1), ({"split": "x", "decoder": 2}, 2), ({"decoder": 99}, None)]
)
def test_a_run_goes_on_with_the_decoder_it_began_with(tmp_path, monkeypatch, images, decoder):
    monkeypatch.setattr("metrad.training.checkpoints.read_checkpoint", lambda path: {"MetradDataModule": images})
    monkeypatch.setattr("metrad.training.checkpoints.is_sealed", lambda path: True)
    if decoder is None:
        with pytest.raises(InputError, match="another version of metrad decoded"):
            Begun.of("last.ckpt")
    else:
        assert Begun.of("last.ckpt").decoder == decoder
