"""What runs the command line in the test process: small settings, the result, and global state that is put back."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import DictConfig

ROOT = Path(__file__).parents[2]
SMALL = [
    "backbone=convnet",
    "backbone.channels=[8,16]",
    "image_size=16",
    "batch_size=64",
    "optimizer.lr=1e-3",
    "trainer.max_epochs=1",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
]
DIGITS = [
    "experiment=demo",
    *SMALL[1:],
    "dataset.sizes.reference=160",
    "dataset.sizes.test_normal=40",
    "dataset.sizes.test_anomalous=40",
]


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def isolated(folder: Path) -> Iterator[None]:
    """Work in ``folder`` and put all global state that a job changes back afterwards."""
    cwd, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    threads, generator = torch.get_num_threads(), torch.random.get_rng_state()
    hydra_state = Singleton.get_state()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    torch.set_num_threads(1)  # in models this small, threads only wait for each other
    os.chdir(folder)
    for name in ("METRAD_DATA", "HYDRA_FULL_ERROR"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.chdir(cwd)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        torch.random.set_rng_state(generator)
        torch.use_deterministic_algorithms(False)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        Singleton.set_state(hydra_state)
        root.handlers[:] = handlers
        root.setLevel(level)


def composed(*overrides: str) -> DictConfig:
    """Compose the configuration with ``overrides`` and check nothing."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))
