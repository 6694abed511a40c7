"""Runs the command line in the test process, each test in a folder of its own, with all global state put back."""

import copy
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig
from PIL import Image

from metrad import files
from metrad.app import cli
from metrad.runs.directory import Run
from tests.helpers.commands import DIGITS, SMALL, Result, demo, isolated, refusal, trained


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    with isolated(tmp_path):
        yield


@pytest.fixture(autouse=True)
def _blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Render no picture of a run, which takes a third of its time, unless the test asks for ``pictures``."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(files, "write_picture", lambda path, figure: Image.new("L", (8, 8)).save(path))


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose the configuration of each run of a sweep once; Hydra does it to check it, and again to make the run."""
    compose, kept = ConfigLoaderImpl.load_sweep_config, {}

    def once(self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        key = id(master_config), *sweep_overrides
        if key not in kept:  # the sweep's own configuration is kept too, so that no other has its id
            kept[key] = (compose(self, master_config, sweep_overrides), master_config)
        return copy.deepcopy(kept[key][0])

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", once)


@pytest.fixture
def pictures() -> None:
    """Have the pictures of runs rendered."""


@pytest.fixture
def small() -> list[str]:
    """Overrides of a model that trains in a second on any small dataset."""
    return list(SMALL)


@pytest.fixture
def digits() -> list[str]:
    """Overrides that train the demo in a second."""
    return list(DIGITS)


@pytest.fixture
def metrad(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
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


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Run]:
    """Train with the overrides given and return the finished run in the folder ``name``."""

    def call(*overrides: str, name: str = "run") -> Run:
        capfd.readouterr()
        run = trained(tmp_path / name, *overrides)
        assert capfd.readouterr().err == ""
        return run

    return call


@pytest.fixture
def turned_down(tmp_path: Path) -> Callable[..., str]:
    """Assert that a run is refused in a line that holds ``words``, and leaves nothing behind."""

    def call(*overrides: str, words: tuple[str, ...]) -> str:
        line = refusal(tmp_path / "refused", *overrides)
        assert "\n" not in line
        assert [word for word in words if word not in line] == [], line
        assert not (tmp_path / "refused").exists()
        return line

    return call


@pytest.fixture
def refused(metrad: Callable[..., Result], tmp_path: Path) -> Callable[..., str]:
    """Assert that a command ends with code 2 and one line on stderr that holds ``words``, and leaves nothing behind."""

    def call(*arguments: str | Path, words: tuple[str, ...]) -> str:
        result = metrad(*arguments)
        assert result.code == 2
        assert result.err.count("\n") == 1, result.err
        assert "Traceback" not in result.err + result.out
        assert [word for word in words if word not in result.err] == [], result.err
        assert list((tmp_path / "outputs").rglob("*")) == []
        return result.err

    return call


@pytest.fixture(scope="session")
def finished_run(once: Callable[..., Path]) -> Run:
    """Return one finished run of ``DIGITS``, made by the whole command, for tests that only read it."""
    return Run(once("finished", demo) / "run")


@pytest.fixture(scope="session")
def image_folders() -> Callable[..., Path]:
    """Write a folder of random images, one folder a class, and return it."""

    def write(root: Path, classes: str = "abcd", count: int = 12) -> Path:
        generator = np.random.default_rng(0)
        for name in classes:
            (root / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{i}.png")
        return root

    return write


@pytest.fixture
def comparable() -> Callable[[Run], dict[str, Any]]:
    """Return a run's metrics without those that measure time."""

    def read(run: Run) -> dict[str, Any]:
        metrics = json.loads(run.metrics.read_text())
        return {key: value for key, value in metrics.items() if key not in ("seconds", "images_per_second")}

    return read


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Debian's chromium; the tests are skipped where there is none, unless METRAD_REQUIRE_BROWSER is 1."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        required = os.environ.get("METRAD_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)("there is no chromium on the PATH")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
