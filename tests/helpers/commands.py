"""What runs the command line in the test process: small settings, the result, and global state that is put back."""

import contextlib
import copy
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, OmegaConf, open_dict

from metrad.app import cli
from metrad.app.messages import is_expected, one_line
from metrad.app.train import train
from metrad.runs.config import catalogue, checks
from metrad.runs.directory import Run

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
    root, own = logging.getLogger(), logging.getLogger("metrad")
    handlers, levels = list(root.handlers), (root.level, own.level)
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
        root.setLevel(levels[0])
        own.setLevel(levels[1])


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """Compose the configuration with ``overrides``, and Hydra's own where asked; check nothing."""
    checks.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=hydra)


_chosen = cache(composed)


def configured(*overrides: str) -> tuple[DictConfig, DictConfig]:
    """Return the configuration of a run with ``overrides``, and Hydra's own, as the command line composes them.

    To compose takes longer than to train a small run, so what the choices make is kept, and settings go into a copy.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    groups = {*catalogue.choices(), "experiment"}
    choices = [one for one in parsed if one.package is not None or one.key_or_group in groups]
    if any(one.is_sweep_override() or one.is_hydra_override() or not one.key_or_group for one in parsed):
        cfg = composed(*overrides, hydra=True)
    else:
        cfg = copy.deepcopy(_chosen(*(str(one.input_line) for one in choices), hydra=True))
        ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in choices], cfg)
        cfg.hydra.overrides.task = list(overrides)
    hydra = OmegaConf.create({"hydra": cfg.hydra})
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, hydra


def demo(folder: Path) -> None:
    """Make a finished run of ``DIGITS`` in ``folder / "run"`` by the whole command."""
    with isolated(folder):
        cli.train([*DIGITS, f"hydra.run.dir={folder / 'run'}"])


def trained(folder: Path, *overrides: str) -> Run:
    """Train a run into ``folder``, without starting Hydra's command line, and return it."""
    logging.getLogger("metrad").setLevel(logging.INFO)  # as Hydra does for a run
    cfg, hydra = configured(*overrides)
    train(cfg, Run(folder), hydra)
    return Run.finished(folder)


def refusal(folder: Path, *overrides: str) -> str:
    """Return the line in which a run into ``folder`` is refused, without starting Hydra's command line."""
    sys.argv = ["metrad", "train", *overrides]  # the line may be made of what was typed; see ``isolated``
    refused = None
    try:
        trained(folder, *overrides)
    except Exception as error:
        refused = error
    Run(folder).remove_if_empty()
    assert refused is not None, "it was trained"
    assert is_expected(refused), refused
    return one_line(refused)
