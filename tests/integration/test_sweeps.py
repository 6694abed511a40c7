"""Sweeps that are killed, interrupted, started twice and partly wrong still come to the same end."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metrad.runs import Run, read_json
from tests.integration.conftest import DIGITS
from tests.integration.test_run import rows

ROOT = Path(__file__).parents[2]
SIX = ["head=adacos,softmax,arcface", "seed=0,1"]
KILLS = 10


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start ``train.py -m`` on the digits in a process group of its own, as a shell does."""
    started = []

    def call(*overrides: str) -> subprocess.Popen:
        command = [sys.executable, ROOT / "train.py", "-m", *DIGITS, *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "COLUMNS": "200"}
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # of a job in the background it is ignored
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
        signal.signal(signal.SIGINT, before)
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def runs_of(folder: Path) -> dict[str, Run]:
    return {path.parent.name: Run(path.parent) for path in sorted(folder.glob("*/status.json"))}


def finished(folder: Path) -> dict[str, str]:
    """Return when each finished run ended."""
    runs = {name: run for name, run in runs_of(folder).items() if run.noted().get("state") == "finished"}
    return {name: run.status.read_text() for name, run in runs.items()}


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_sweep_killed_ten_times_ends_like_one_that_was_left_alone(start, tmp_path):
    whole = start(*SIX, "trainer.max_epochs=3", "sweep=whole")
    assert (whole.communicate(timeout=300)[1], whole.returncode) == ("", 0)
    draw = random.Random(time.time_ns())
    folder, done, kills = tmp_path / "multirun/killed", {}, 0
    while kills < KILLS:
        process = start(*SIX, "trainer.max_epochs=3", "sweep=killed")
        try:
            process.wait(draw.uniform(0.5, 9))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        now = finished(folder)
        assert {name: now[name] for name in done} == done  # what had finished was not touched
        done = now
    last = start(*SIX, "trainer.max_epochs=3", "sweep=killed")
    out, err = last.communicate(timeout=300)
    assert (last.returncode, err) == (0, "")
    assert f"{len(done)} finished" in out or not done
    assert (folder / "runs.csv").read_bytes() == (tmp_path / "multirun/whole/runs.csv").read_bytes()
    for name, run in runs_of(tmp_path / "multirun/whole").items():
        assert Run(folder / name).scores.read_bytes() == run.scores.read_bytes()
        assert Run(folder / name).epochs.read_bytes() == run.epochs.read_bytes()


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]], ids=["one", "two"])
def test_ctrl_c_ends_a_sweep_within_seconds_and_the_same_command_goes_on(launcher, start, tmp_path):
    command = ["head=adacos,softmax", "seed=range(3)", "trainer.max_epochs=8", "sweep=x", *launcher]
    process = start(*command)
    folder = tmp_path / "multirun/x"
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs_of(folder).values()), process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode != 0
    assert "Traceback" not in out + err
    assert "the same command with sweep=x goes on" in out
    states = [run.state for run in runs_of(folder).values()]
    assert "interrupted" in states
    assert "running" not in states
    again = start(*command)
    out, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, "")
    assert "interrupted, to go on" in out
    assert [run.state for run in runs_of(folder).values()] == ["finished"] * 6
    logs = [run.log.read_text() for run in runs_of(folder).values()]
    assert any("going on after epoch" in text for text in logs)


def test_two_launches_of_one_sweep_share_its_runs(start, tmp_path):
    processes = [start(*SIX, "trainer.max_epochs=3", "sweep=x") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in processes]
    runs = runs_of(tmp_path / "multirun/x")
    assert [run.state for run in runs.values()] == ["finished"] * 6
    for run in runs.values():
        assert run.log.read_text().count("epoch 1/3") == 1, said
    assert 0 in [process.returncode for process in processes], said


def test_a_worker_that_is_killed_costs_no_run(start, tmp_path):
    process = start(*SIX[1:], "trainer.max_epochs=12", "sweep=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    folder = tmp_path / "multirun/x"
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs_of(folder).values()), process)
    victim = next(run for run in runs_of(folder).values() if run.last_checkpoint.exists())
    os.kill(victim.noted()["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out
    assert "going on after epoch" in victim.log.read_text()


@pytest.fixture
def sweep(metrad, digits, tmp_path):
    """Run the sweep ``x`` in this process and return how it ended and its runs."""

    def call(*overrides):
        result = metrad("train", "-m", *digits, "sweep=x", *overrides)
        return result, runs_of(tmp_path / "multirun/x")

    return call


def test_one_impossible_run_fails_in_a_line_and_is_the_only_one_made_again(
    sweep, tmp_path, image_folders, small, metrad
):
    images = image_folders(tmp_path / "images", "abc")
    data = [
        "dataset=image_folder",
        f"dataset.source.root={images}",
        "dataset.normal=[a]",
        "dataset.anomalous=[c]",
        "dataset.sizes.calibration=0",
    ]
    command = ["train", "-m", *small, *data, "head=adacos,softmax", "sweep=x"]
    result = metrad(*command)
    runs = runs_of(tmp_path / "multirun/x")
    states = {name.split("-")[0]: run.state for name, run in runs.items()}
    assert (result.code, states) == (1, {"adacos": "failed", "softmax": "finished"})
    assert result.err.count("\n") == 1
    assert "three classes" in result.err or "3 classes" in result.err
    failed = next(name for name in runs if name.startswith("adacos"))
    assert f"{failed}/run.log" in result.err
    (row,) = [row for row in rows(tmp_path / "multirun/x/runs.csv") if row["state"] == "failed"]
    assert row["error"] in result.err
    before = finished(tmp_path / "multirun/x")
    (images / "d").mkdir()  # the cause lay in the data and not in the settings
    for path in (images / "b").glob("*"):
        (images / "d" / path.name).write_bytes(path.read_bytes()[:-1] + b"\0")
    result = metrad(*command)
    assert "1 finished, 1 failed, to be tried again" in result.out
    assert {**finished(tmp_path / "multirun/x"), **before} == finished(tmp_path / "multirun/x")


def test_fail_fast_stops_at_the_first_failure(sweep):
    result, runs = sweep("scorer.k=500,1", "sweep.fail_fast=true")
    assert result.code == 1
    assert [run.state for run in runs.values()] == ["failed"]
    assert "1 new" in result.out


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(sweep, tmp_path):
    sweep("head=adacos")
    (run,) = runs_of(tmp_path / "multirun/x").values()
    before = run.metrics.read_bytes()
    config = run.config.read_text().replace("lr: 0.001", "lr: 0.5")
    assert config != run.config.read_text()
    run.config.write_text(config)
    run.note(identity="another")
    result, _ = sweep("head=adacos")
    assert result.code == 1
    assert "optimizer.lr is 0.5 and not 0.001" in result.err
    assert run.metrics.read_bytes() == before


def test_where_it_runs_is_no_part_of_what_a_run_is(sweep, tmp_path, monkeypatch):
    sweep("seed=0,1")
    before = finished(tmp_path / "multirun/x")
    monkeypatch.setenv("METRAD_DATA", "elsewhere")
    result, runs = sweep("seed=0,1", "logger=none")
    assert "sweep of 2 runs in multirun/x: 2 finished" in result.out
    assert (result.code, finished(tmp_path / "multirun/x")) == (0, before)
    assert len({read_json(run.status)["identity"] for run in runs.values()}) == 2


@pytest.mark.parametrize("name", ["a/b", "..", "", "-x", "ü"])
@pytest.mark.parametrize("key", ["sweep", "++sweep.name"])
def test_a_sweep_name_is_a_folder_name(key, name, refused, digits):
    refused("train", "-m", *digits, f"{key}={name}", words=(f"sweep={name}", "folder's name"))


@pytest.mark.parametrize("name", ["2026_11", "1e5", "true"])
def test_a_sweep_is_called_what_was_typed(name, metrad, digits, tmp_path):
    result = metrad("train", "-m", *digits, f"sweep={name}", "trainer.max_epochs=0")
    assert (result.code, result.err) == (0, "")
    assert [path.name for path in (tmp_path / "multirun").iterdir()] == [name]


def test_a_single_run_has_no_sweep_name(refused, digits):
    refused("train", *digits, "sweep=x", words=("sweep=x", "-m"))


@pytest.mark.parametrize("setting", ["n_jobs=0", "n_jobs=two", "jobs_per_gpu=0", "jobs_per_gpu=null"])
def test_a_launcher_refuses_what_is_no_number_of_jobs(setting, refused, digits):
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.{setting}"]
    refused("train", "-m", *digits, *launcher, words=(f"hydra.launcher.{setting.partition('=')[0]}",))
