"""What ranks are asked for, which part of the work each gets, and which settings are refused."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from metrad import collectives
from metrad.data.batches import EpochShuffle
from metrad.errors import InputError
from metrad.training.devices import launch
from metrad.training.devices import plan as devices
from metrad.training.devices.batchnorm import RankBatchNorm, RankBatchNorms
from metrad.training.devices.launch import Failure
from metrad.training.devices.plan import Plan, plan

TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_ID": "20317",
    "SLURM_NODELIST": "node[7-8]",
}


def configuration(**trainer):
    usual = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": True}
    return {**usual, **trainer}


def planned(batch_size=64, **trainer):
    return plan(configuration(**trainer), batch_size)


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch):
    for name in (*TORCHRUN, *SRUN, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def as_rank(monkeypatch):
    """Take this process for one of several ranks, without their talking to each other."""

    def call(rank, count):
        monkeypatch.setattr(collectives, "rank", lambda: rank)
        monkeypatch.setattr(collectives, "world_size", lambda: count)

    return call


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, Plan(1, to_start=False)),
        ({"devices": "auto", "strategy": "ddp"}, Plan(1, to_start=False)),
        ({"devices": 3}, Plan(3, to_start=True)),
        ({"devices": "2", "strategy": "ddp"}, Plan(2, to_start=True)),
    ],
)
def test_devices_say_how_many_ranks_are_started(trainer, expected):
    assert planned(**trainer) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devices": 3, "batch_size": 2}, ["batch_size=2", "at least 3", "3 ranks"]),
        ({"devices": 2, "batch_size": 3, "sync_batchnorm": False}, ["batch_size=3", "at least 4"]),
        ({"devices": 2, "strategy": "fsdp"}, ["trainer.strategy=fsdp", "ddp"]),
        ({"devices": 2, "plugins": ["x"]}, ["trainer.plugins"]),
        ({"devices": 0}, ["trainer.devices=0", "at least 1"]),
        ({"devices": "many"}, ["trainer.devices=many"]),
        ({"num_nodes": 2}, ["trainer.num_nodes=2", "torchrun", "srun"]),
        ({"accelerator": "mps", "devices": 2}, ["trainer.devices=2", "mps", "one device"]),
    ],
)
def test_what_cannot_be_trained_on_is_refused(settings, words):
    with pytest.raises(InputError) as refused:
        planned(**settings)
    assert [word for word in words if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("there", [0, 1])
def test_more_gpus_than_there_are_are_refused(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr("lightning_fabric.accelerators.cuda._get_all_visible_cuda_devices", lambda: list(range(there)))
    with pytest.raises(
        InputError, match=r"trainer\.(accelerator=gpu: there is no GPU|devices=2: there are the GPUs 0;)"
    ):
        planned(accelerator="gpu", devices=2)


def test_processes_of_torchrun_are_not_started_again(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert launch.follows()
    assert planned(devices=2) == planned(devices="auto") == Plan(2, to_start=False)
    with pytest.raises(InputError, match="ask for 1 processes in all, and 2 were started"):
        planned(devices=1)


def test_processes_of_srun_are_the_ranks_that_slurm_says(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    for name in TORCHRUN:  # so that what is set now is put back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert planned(devices=2, num_nodes=2) == Plan(4, to_start=False)
    names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [os.environ[name] for name in names] == ["3", "1", "1", "4", "2", "node7", "15317"]


def test_a_batch_script_without_srun_is_a_single_process(monkeypatch):
    for name, value in SRUN.items():
        if "STEP" not in name:
            monkeypatch.setenv(name, value)
    assert not launch.started_by_others()


@pytest.mark.parametrize(
    ("count", "batch", "world"), [(246, 63, 2), (100, 32, 3), (10, 10, 4), (65, 32, 2), (67, 32, 4)]
)
def test_the_parts_of_all_ranks_make_up_the_batches_of_one_process(count, batch, world, as_rank):
    least = max(2, world)
    whole = EpochShuffle(count, batch, seed=3)
    whole.set_epoch(2)
    expected = [part for part in whole if len(part) >= least]
    parts = []
    for rank in range(world):
        as_rank(rank, world)
        sampler = EpochShuffle(count, batch, seed=3, least=least)
        sampler.set_epoch(2)
        parts.append(list(sampler))
        assert len(sampler) == len(parts[-1]) == len(expected)
        as_rank(0, 1)
    for step, batch_of_one in enumerate(expected):
        pieces = [part[step] for part in parts]
        assert torch.equal(torch.cat(pieces), batch_of_one)
        assert 1 <= min(map(len, pieces)) <= max(map(len, pieces)) <= min(map(len, pieces)) + 1


@pytest.mark.parametrize(
    ("count", "step", "world"), [(1000, 256, 2), (10, 256, 2), (513, 256, 3), (2048, 256, 3), (1, 1, 5)]
)
def test_embedding_is_shared_without_gaps_or_duplicates(count, step, world, as_rank):
    as_rank(0, world)
    spans = collectives.spans(count, step)
    assert len(spans) == world
    assert np.array_equal(np.concatenate([np.arange(*span) for span in spans]), np.arange(count))
    assert all(start % step == 0 or start == count for start, _ in spans)
    sizes = [stop - start for start, stop in spans]
    assert sizes[0] > 0
    assert max(sizes) - min(sizes) <= 2 * step - 1


def test_a_rank_weighs_its_gradient_by_its_share_of_the_batch(as_rank, monkeypatch):
    as_rank(0, 2)
    monkeypatch.setattr(collectives, "several", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda images: images.fill_(8))  # rank 1 has the other 5
    assert collectives.gradient_weight(torch.zeros(3)) == 2 * 3 / 8


def test_in_one_process_nothing_changes():
    rows = np.ones((3, 2), dtype=np.float32)
    assert collectives.gather(rows, collectives.spans(3, 256)) is rows
    assert collectives.gradient_weight(torch.zeros(3)) == 1.0
    assert collectives.total(5) == 5
    assert collectives.same("x") == "x"
    assert devices.trainer_arguments(configuration()) == {}


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_normalisation_over_one_rank_is_the_usual_one(momentum):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.Flatten(), nn.BatchNorm1d(16))

    usual, synced, plugin = model(), model(), RankBatchNorms()
    plugin.apply(synced)
    assert [type(each) for each in synced].count(RankBatchNorm) == 2
    images = torch.randn(5, 3, 4, 4)
    outputs = synced(images), usual(images)
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output[:, :5].square().sum().backward()
    for found, expected in zip(synced.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    plugin.revert(synced)
    assert [type(each) for each in synced] == [type(each) for each in usual]
    torch.testing.assert_close(synced.state_dict(), usual.state_dict())
    torch.testing.assert_close(synced.eval()(images), usual.eval()(images))


def test_the_cause_is_told_and_not_what_followed_from_it():
    consequence = Failure(0, "RuntimeError", "[gloo/transport/tcp/pair.cc:544] Connection closed by peer")
    silent, cause = Failure(1, "", "it ended with code 7"), Failure(2, "ValueError", "bad")
    assert min([consequence, silent, cause], key=lambda failure: failure.cause) is cause
    assert min([consequence, silent], key=lambda failure: failure.cause) is silent
