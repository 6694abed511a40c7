"""Several runs on two ranks in the same two processes, since starting these takes longer than the runs."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch.distributed import TCPStore

from metrad.app.train import follow, train
from metrad.runs.config import checks
from metrad.runs.directory import Run
from metrad.training.devices import launch
from tests.helpers.commands import configured

TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


def train_on_two_ranks(folder: Path, runs: dict[str, list[str]]) -> None:
    """Train runs of the names and overrides given, one after the other, each into a folder of its name."""
    jobs = [(*configured(*overrides, *TWO), folder / name) for name, overrides in runs.items()]
    # The ranks meet anew for each run.
    stores = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in jobs]
    launch.start(_as_rank, (jobs, [store.port for store in stores]), 2)


def _as_rank(jobs: list[tuple[DictConfig, DictConfig, Path]], ports: list[int]) -> None:
    torch.set_num_threads(1)
    checks.register()
    for (cfg, hydra, folder), port in zip(jobs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        if os.environ["RANK"] == "0":
            train(cfg, Run(folder), hydra)
        else:
            follow(cfg)
