"""Sweeps that are killed, interrupted, started twice and partly wrong still come to the same end."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metrad.app import cli
from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.commands import DIGITS, isolated
from tests.helpers.runs import rows, runs_of, wait_for
from tests.helpers.stored import without_manifest

ROOT = Path(__file__).parents[2]
LONG = pytest.mark.long
SIX = ["head=adacos,softmax,arcface", "seed=0,1"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start ``train.py -m`` on the digits in a process group of its own, as a shell does."""
    started = []

    def call(*overrides: str) -> subprocess.Popen:
        command = [sys.executable, ROOT / "train.py", "-m", *DIGITS, *overrides]
        # Ctrl-C between the opening of a file and its first use leaves it to the collector, which tells of it.
        strict = "error,ignore::ResourceWarning"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": strict, "COLUMNS": "200"}
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


def finished(folder: Path) -> dict[str, str]:
    """Return when each finished run ended."""
    runs = {name: run for name, run in runs_of(folder).items() if run.noted().get("state") == "finished"}
    return {name: run.status.read_text() for name, run in runs.items()}


def trains(folder: Path) -> bool:
    return any(run.last_checkpoint.exists() and run.state == "running" for run in runs_of(folder).values())


def assert_killed_sweeps_go_on(
    start, metrad, folder: Path, command: list[str], kill: list[Callable[..., None]]
) -> None:
    """Kill one sweep as each of ``kill`` says; then it ends like the one beside it that was left alone."""
    done: dict[str, str] = {}
    for wait in kill:
        process = start(*command, f"sweep={folder.name}")
        wait(process)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = finished(folder)
        assert {name: now[name] for name in done} == done  # what had finished was not touched
        done = now
    last = metrad("train", "-m", *DIGITS, *command, f"sweep={folder.name}")
    assert (last.code, last.err) == (0, "")
    assert f"{len(done)} finished" in last.out or not done
    whole = folder.with_name("whole")
    assert (folder / "runs.csv").read_bytes() == (whole / "runs.csv").read_bytes()
    for name, run in runs_of(whole).items():
        assert Run(folder / name).scores.read_bytes() == run.scores.read_bytes()
        assert Run(folder / name).epochs.read_bytes() == run.epochs.read_bytes()


@LONG
def test_a_sweep_killed_at_each_stage_ends_like_one_that_was_left_alone(start, metrad, tmp_path):
    command, folder = ["head=adacos,softmax", "trainer.max_epochs=8"], tmp_path / "multirun/killed"
    whole = metrad("train", "-m", *DIGITS, *command, "sweep=whole")
    assert (whole.code, whole.err) == (0, "")
    stages = [trains, finished]
    kill = [lambda process, stage=stage: wait_for(lambda: stage(folder), process) for stage in stages]
    assert_killed_sweeps_go_on(start, metrad, folder, command, kill)


@LONG
def test_a_sweep_killed_ten_times_ends_like_one_that_was_left_alone(start, metrad, tmp_path):
    command = [*SIX, "trainer.max_epochs=3"]
    whole = start(*command, "sweep=whole")
    assert (whole.communicate(timeout=300)[1], whole.returncode) == ("", 0)
    draw = random.Random(time.time_ns())

    def wait(process: subprocess.Popen) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.5, 9))

    assert_killed_sweeps_go_on(start, metrad, tmp_path / "multirun/killed", command, [wait] * 10)


@LONG
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param([], id="one"),
        pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], id="two"),
    ],
)
def test_ctrl_c_ends_a_sweep_before_its_runs_are_done_and_the_same_command_goes_on(launcher, start, metrad, tmp_path):
    command = ["seed=range(3)", "trainer.max_epochs=8", "sweep=x", *launcher]
    process = start(*command)
    folder = tmp_path / "multirun/x"
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs_of(folder).values()), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "Warning" not in out + err
    assert "the same command with sweep=x continues" in out
    states = [run.state for run in runs_of(folder).values()]
    assert "interrupted" in states
    assert "running" not in states
    again = metrad("train", "-m", *DIGITS, *command)
    assert (again.code, again.err) == (0, "")
    assert "interrupted, to go on" in again.out
    assert [run.state for run in runs_of(folder).values()] == ["finished"] * 3
    logs = [run.log.read_text() for run in runs_of(folder).values()]
    assert any("going on after epoch" in text for text in logs)


@LONG
def test_sigterm_ends_a_sweep_with_an_exit_code_that_says_so(start, tmp_path):
    process = start("head=adacos,softmax", "trainer.max_epochs=100", "sweep=x")
    folder = tmp_path / "multirun/x"
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs_of(folder).values()), process)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, out + err
    assert "not finished: 2 of 2 runs" in out
    assert [run.noted()["error"] for run in runs_of(folder).values()] == ["stopped by SIGTERM"]


@LONG
def test_a_worker_that_is_told_to_end_costs_one_run(start, tmp_path):
    process = start(
        "seed=range(3)", "trainer.max_epochs=12", "sweep=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"
    )
    folder = tmp_path / "multirun/x"
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs_of(folder).values()), process)
    victim = next(run for run in runs_of(folder).values() if run.last_checkpoint.exists())
    os.kill(victim.noted()["pid"], signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "interrupted: stopped by SIGTERM" in err
    assert sorted(run.state for run in runs_of(folder).values()) == ["finished", "finished", "interrupted"]


@LONG
def test_one_run_is_enough_for_several_jobs(start, tmp_path):
    command = ["trainer.max_epochs=1", "sweep=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    for seeds, told in (("seed=1", "1 to begin"), ("seed=1,2", "1 finished, 1 to begin")):
        process = start(*command, seeds)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, ""), out
        assert told in out
    assert [run.state for run in runs_of(tmp_path / "multirun/x").values()] == ["finished"] * 2


@LONG
def test_two_launches_of_one_sweep_share_its_runs(start, tmp_path):
    processes = [start(*SIX, "trainer.max_epochs=3", "sweep=x") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in processes]
    runs = runs_of(tmp_path / "multirun/x")
    assert [run.state for run in runs.values()] == ["finished"] * 6
    for run in runs.values():
        assert run.log.read_text().count("epoch 1/3") == 1, said
    assert 0 in [process.returncode for process in processes], said


@LONG
def test_a_worker_that_is_killed_costs_no_run(start, tmp_path):
    process = start(*SIX[1:], "trainer.max_epochs=12", "sweep=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    folder = tmp_path / "multirun/x"
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs_of(folder).values()), process)
    victim = next(run for run in runs_of(folder).values() if run.last_checkpoint.exists())
    os.kill(victim.noted()["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out
    assert "going on after epoch" in victim.log.read_text()


@LONG
def test_workers_end_when_the_launcher_is_killed(start, tmp_path):
    process = start(*SIX[1:], "trainer.max_epochs=40", "sweep=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    folder = tmp_path / "multirun/x"
    wait_for(lambda: any("pid" in run.noted() for run in runs_of(folder).values()), process)
    process.kill()
    process.communicate(timeout=30)  # ends when the last one does that can write to it
    assert "running" not in [run.state for run in runs_of(folder).values()]


@LONG
def test_fail_fast_ends_workers_without_a_word(start, tmp_path):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start("scorer.k=500", "seed=range(4)", "sweep=x", "sweep.fail_fast=true", *launcher)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.count("\n") == 1, err


@pytest.fixture
def sweep(metrad, digits, tmp_path):
    """Run the sweep ``x`` in this process and return how it ended and its runs."""

    def call(*overrides):
        result = metrad("train", "-m", *digits, "sweep=x", *overrides)
        return result, runs_of(tmp_path / "multirun/x")

    return call


@pytest.fixture(scope="session")
def finished_sweep(once) -> Path:
    """Return a folder with the finished sweep ``x`` of two seeds, for tests that only read it."""

    def make(folder: Path) -> None:
        with isolated(folder):
            cli.train(["-m", *DIGITS, "sweep=x", "seed=0,1"])

    return once("finished-sweep", make)


@pytest.fixture
def swept(finished_sweep, tmp_path) -> Path:
    """Put the sweep ``x`` of two seeds into the test's folder, finished, and return where."""
    return shutil.copytree(finished_sweep / "multirun", tmp_path / "multirun") / "x"


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


def test_a_run_that_can_have_no_folder_stops_no_other(sweep, swept, tmp_path):
    run = next(iter(runs_of(swept).values()))
    run.path.rename(tmp_path / "away")
    run.path.write_text("a file")
    result, runs = sweep("seed=0,1")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "2/2 failed: " in result.err
    assert [each.state for each in runs.values()] == ["finished"]


def test_a_sweep_whose_table_cannot_be_written_says_so(sweep, tmp_path):
    sweep("scorer.k=1")
    (tmp_path / "multirun/x/runs.csv").unlink()
    (tmp_path / "multirun/x/runs.csv").mkdir()
    result, runs = sweep("scorer.k=500,1")
    assert result.code == 1
    assert "runs.csv cannot be written: Is a directory; " in result.err
    assert sorted(run.state for run in runs.values()) == ["failed", "finished"]
    assert "not finished: 1 of 2 runs (1 failed); each was refused for what its line says; after" in result.out
    assert "continues them" not in result.out


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(sweep, swept):
    run = next(iter(runs_of(swept).values()))
    before = run.metrics.read_bytes()
    config = run.config.read_text().replace("lr: 0.001", "lr: 0.5")
    assert config != run.config.read_text()
    run.config.write_text(config)
    without_manifest(run)
    run.note(identity="another")
    result, _ = sweep("seed=0,1")
    assert result.code == 1
    assert "optimizer.lr is 0.5 and not 0.001" in result.err
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", '{"auroc": "x"}'),
        pytest.param("metrics.json", None, marks=LONG),
        pytest.param("status.json", '{"state": "well"}', marks=LONG),
    ],
)
def test_a_run_whose_figures_are_lost_is_made_again(file, content, sweep, swept):
    table = (swept / "runs.csv").read_bytes()
    broken = next(iter(runs_of(swept).values())).path / file
    broken.unlink() if content is None else broken.write_text(content)
    result, _ = sweep("seed=0,1")
    assert (result.code, result.err) == (0, "")
    assert f"1 finished, 1 {'interrupted, to go on' if file == 'metrics.json' else 'to begin'}" in result.out
    assert (swept / "runs.csv").read_bytes() == table


@pytest.mark.parametrize("size", [pytest.param(0, marks=LONG), 3000], ids=["empty", "cut off"])
def test_a_run_whose_checkpoint_is_broken_begins_anew(size, sweep, swept):
    table = (swept / "runs.csv").read_bytes()
    run = next(iter(runs_of(swept).values()))
    run.note(state="interrupted")
    os.truncate(run.last_checkpoint, size)
    result, _ = sweep("seed=0,1")
    assert (result.code, result.err) == (0, "")
    assert "epoch 1/1" in run.log.read_text()
    assert (swept / "runs.csv").read_bytes() == table


def test_checkpoints_do_not_pass_through_the_folder_for_temporary_files(sweep, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", "/nowhere")  # from another disk they could not be moved in one step
        result, runs = sweep("seed=0")
    assert (result.code, result.err) == (0, "")
    assert all(run.last_checkpoint.exists() for run in runs.values())


def test_broken_files_of_other_runs_are_left_out_of_the_table(sweep, swept):
    first, second = runs_of(swept).values()
    first.metrics.write_text("{")
    second.overrides.write_text("{")
    result, _ = sweep("seed=2")
    assert (result.code, result.err) == (0, "")
    assert [bool(row["auroc"]) for row in rows(swept / "runs.csv")].count(True) == 2


def test_where_it_runs_is_no_part_of_what_a_run_is(sweep, swept, monkeypatch):
    before = finished(swept)
    monkeypatch.setenv("METRAD_DATA", "elsewhere")
    result, runs = sweep("seed=0,1", "logger=none")
    assert "sweep of 2 runs in multirun/x: 2 finished" in result.out
    assert (result.code, finished(swept)) == (0, before)
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


def test_a_mistyped_setting_of_a_launcher_is_told_with_those_it_has(refused, digits):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.njobs=2"]
    refused("train", "-m", *digits, *launcher, words=("did you mean n_jobs? allowed: jobs_per_gpu, n_jobs",))
