"""Runs the command line inside the test process, each test in a folder of its own and with Hydra's state as before."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton

from metrad import cli
from metrad.runs import Run

ROOT = Path(__file__).parents[2]
DIGITS = [
    "experiment=demo",
    "image_size=16",
    "backbone.channels=[8,16]",
    "dataset.sizes.reference=160",
    "dataset.sizes.test_normal=40",
    "dataset.sizes.test_anomalous=40",
    "trainer.max_epochs=1",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
]


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


@contextlib.contextmanager
def isolated(folder: Path) -> Iterator[None]:
    """Work in ``folder`` and put all global state that a job changes back afterwards."""
    before = Path.cwd(), sys.argv, dict(os.environ), torch.get_num_threads(), torch.random.get_rng_state()
    hydra_state = Singleton.get_state()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    torch.set_num_threads(1)  # models this small only wait for each other on several threads
    os.chdir(folder)
    for name in ("METRAD_DATA", "HYDRA_FULL_ERROR"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        cwd, sys.argv, environment, threads, generator = before
        os.chdir(cwd)
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


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    with isolated(tmp_path):
        yield


@pytest.fixture
def digits() -> list[str]:
    """Overrides that train the demo in a second."""
    return list(DIGITS)


@pytest.fixture
def metrad(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call ``metrad COMMAND ...`` in this process and return how it ended."""

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["metrad", *map(str, arguments)])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        logging.getLogger().handlers.clear()  # as in a fresh process, where no handler of pytest's is in the way
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return Result(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return one finished run, for tests that only read it."""
    folder = tmp_path_factory.mktemp("finished")
    run = Run(folder / "run")
    with isolated(folder):
        cli.train([*DIGITS, f"hydra.run.dir={run.path}"])
    return run
