"""Batches from a copy on the device, and when there is one. No GPU is needed: what it says of itself is made up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metrad import collectives
from metrad.data import batches as module
from metrad.data.arrays import OnDemand
from metrad.data.batches import RESIDENT_SHARE, EpochShuffle, ImageBatches, ResidentBatches, fits
from metrad.training.datamodule import MetradDataModule
from tests.helpers.prepared import numbered

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 6, 3), dtype=np.uint8)
NEEDED = 30 * 4 * 6 * 3
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def thirty(images=IMAGES) -> ImageBatches:
    return ImageBatches(images, np.arange(49, 19, -1), torch.arange(30) % 7)


@pytest.fixture
def free(monkeypatch):
    """Return a function that says how many bytes are free on a GPU that is not there."""

    def say(count):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (count, 10**12))

    return say


@pytest.mark.parametrize("rows", [4096, 30, 7, 1])
def test_batches_from_the_device_are_those_from_memory(rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows)
    plain, resident = thirty(), ResidentBatches(thirty(), CPU)
    for chosen in EpochShuffle(30, 8, seed=1):
        for one, other in zip(plain[chosen], resident[chosen], strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype


def test_images_turned_on_the_device_are_those_turned_in_memory():
    square = ImageBatches(IMAGES[:, :4, :4], np.arange(49, 19, -1), torch.arange(4 * 30))
    chosen = torch.arange(4 * 30).view(4, 30).T.reshape(-1)  # each image in its four turns, one after another
    images, labels = ResidentBatches(square, CPU)[chosen]
    assert torch.equal(images, square[chosen][0])
    assert torch.equal(labels, chosen)
    upright = images[::4]
    for turn in range(4):
        assert torch.equal(images[turn::4], upright.rot90(turn, dims=(1, 2)))


def test_a_batch_is_gathered_on_the_device_and_nothing_of_it_read_elsewhere():
    images, labels = ResidentBatches(thirty(), torch.device("meta"))[torch.tensor([3, 1])]
    assert (images.device.type, labels.device.type) == ("meta", "meta")
    assert images.shape == (2, 4, 6, 3)


@pytest.mark.parametrize(("spare", "there"), [(0, True), (1, True), (-1, False)])
def test_images_stay_on_a_gpu_up_to_a_share_of_its_free_memory(spare, there, free):
    free(NEEDED / RESIDENT_SHARE + spare)
    assert fits(thirty(), GPU) is there


def test_they_do_not_without_a_gpu_on_several_ranks_or_where_they_are_decoded_on_demand(free, monkeypatch):
    free(10**12)
    assert not fits(thirty(), CPU)
    assert not fits(thirty(OnDemand(read=None, size=4, depth=16, digests=None, names=[])), GPU)
    assert fits(thirty(), GPU)
    monkeypatch.setattr(collectives, "several", lambda: True)
    assert not fits(thirty(), GPU)


@pytest.fixture
def on_a_gpu(monkeypatch, free):
    """Return a data module that trains on a GPU that is not there, whose copy of the images lies in memory."""
    monkeypatch.setattr(
        "metrad.training.datamodule.ResidentBatches", lambda batches, device: ResidentBatches(batches, CPU)
    )
    data = MetradDataModule(numbered(), batch_size=7)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=GPU))
    return data


def test_training_takes_its_images_from_a_gpu_with_room_and_else_from_pinned_memory(on_a_gpu, free):
    free(10**9)
    roomy = on_a_gpu.train_dataloader()
    free(0)
    full = on_a_gpu.train_dataloader()
    assert (type(roomy.dataset), roomy.pin_memory) == (ResidentBatches, False)  # what is there cannot be pinned
    assert (type(full.dataset), full.pin_memory) == (ImageBatches, True)


def test_training_on_a_gpu_sees_the_batches_of_the_cpu(on_a_gpu, free):
    free(10**9)
    for epoch in (0, 3):
        loaders = on_a_gpu.train_dataloader(), MetradDataModule(numbered(), batch_size=7).train_dataloader()
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for ours, theirs in zip(*loaders, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_images_to_embed_are_pinned_where_that_is_asked_for():
    data = numbered()
    assert [data.batches(np.arange(3), 2, pinned=pinned).pin_memory for pinned in (False, True)] == [False, True]
    assert not MetradDataModule(data, batch_size=7).train_dataloader().pin_memory
