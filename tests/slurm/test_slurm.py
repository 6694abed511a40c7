"""Sweeps on a real Slurm of one node, which `make test-slurm` starts: jobs that are killed, preempted and cancelled."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metrad.runs.directory import Run
from tests.helpers.commands import DIGITS
from tests.helpers.runs import runs_of, wait_for

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
# One thread in every process: sums in another order round otherwise, and the test compares bytes.
SLURM = [
    "hydra/launcher=slurm",
    *(f"hydra.launcher.{setting}" for setting in ("cpus_per_task=1", "mem_gb=1", "timeout_min=60", "poll_seconds=1")),
]


def told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> None:
    """Skip unless the cluster for tests runs; a real one is none to try things on."""
    runs = shutil.which("scontrol") and "SLURM_CONF" in os.environ
    if not runs or "= metrad\n" not in told("scontrol", "show", "config"):
        reason = "the Slurm for tests does not run; `make test-slurm` starts it"
        (pytest.fail if os.environ.get("METRAD_REQUIRE_SLURM") else pytest.skip)(reason)


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
    subprocess.run(["scancel", "--signal=KILL", "--user=root"], check=False)
    subprocess.run(["scancel", "--user=root"], check=False)


def training(folder: Path) -> list[Run]:
    """Return the runs below ``folder`` that train and have a checkpoint."""
    runs = runs_of(folder).values()
    return [run for run in runs if run.last_checkpoint.exists() and run.noted().get("state") == "running"]


def assert_same_results(one: Path, other: Path) -> None:
    assert (one / "runs.csv").read_bytes() == (other / "runs.csv").read_bytes()
    for name, run in runs_of(one).items():
        assert Run(other / name).scores.read_bytes() == run.scores.read_bytes()
        assert Run(other / name).epochs.read_bytes() == run.epochs.read_bytes()


def test_a_killed_job_costs_no_other_and_the_same_command_makes_its_run_alone(start, tmp_path):
    sweep = ["head=adacos,softmax", "seed=0,1", "trainer.max_epochs=30"]
    local, folder = start(*sweep, "sweep=local"), tmp_path / "multirun/slurm"
    process = start(*sweep, "sweep=slurm", *SLURM)
    wait_for(lambda: training(folder), process)
    victim = training(folder)[0]
    os.kill(victim.noted()["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("\n") == 1, err
    assert "Slurm job" in err
    assert "ended: FAILED; the same command continues the run" in err
    assert "not finished: 1 of 4 runs (1 interrupted)" in out
    states = {run.path: run.state for run in runs_of(folder).values()}
    assert states.pop(victim.path) == "interrupted"
    assert set(states.values()) == {"finished"}
    before = {path: (path / "status.json").read_bytes() for path in states}

    again = start(*sweep, "sweep=slurm", *SLURM)
    out, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "")
    assert "3 finished, 1 interrupted, to go on" in out
    assert "going on after epoch" in victim.log.read_text()
    assert {path: (path / "status.json").read_bytes() for path in states} == before
    assert (local.communicate(timeout=120)[1], local.returncode) == ("", 0)
    assert_same_results(tmp_path / "multirun/local", folder)


def preempt() -> None:
    """Submit a job that wants the whole node and goes before all others."""
    told("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")


def warn() -> None:
    """Send SIGTERM, of which jobs are to take no notice, and then the signal that announces the end of their time."""
    names = told("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
    told("scancel", "--signal=TERM", *names)
    time.sleep(1)  # some twenty epochs: whoever wanted to end would have
    told("scancel", "--signal=USR2", *names)


@pytest.mark.parametrize("stop", [preempt, warn], ids=["preempted", "out of time"])
def test_requeued_jobs_go_on_by_themselves(stop, start, tmp_path):
    sweep, folder = ["head=adacos", "seed=0,1", "trainer.max_epochs=300"], tmp_path / "multirun/slurm"
    local, process = start(*sweep, "sweep=local"), start(*sweep, "sweep=slurm", *SLURM)
    wait_for(lambda: len(training(folder)) == 2, process)
    stop()
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, ""), out
    for run in runs_of(folder).values():
        assert run.state == "finished"
        assert run.log.read_text().count("going on after epoch") == 1
    assert (local.communicate(timeout=120)[1], local.returncode) == ("", 0)
    assert_same_results(tmp_path / "multirun/local", folder)


def test_a_job_out_of_time_too_often_is_interrupted_and_not_failed(start, tmp_path):
    # of a job of 10 minutes submitit takes every such signal for the end of its time
    few = ["hydra.launcher.timeout_min=10", "hydra.launcher.max_num_timeout=0"]
    process = start("head=adacos", "seed=0", "trainer.max_epochs=300", "sweep=slurm", *SLURM, *few)
    wait_for(lambda: training(tmp_path / "multirun/slurm"), process)
    (run,) = training(tmp_path / "multirun/slurm")
    warn()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, run.state) == (1, "interrupted")
    assert err.count("\n") == 1, err
    assert "timed-out too many times" in run.noted()["error"]


def test_ctrl_c_cancels_all_jobs(start, tmp_path):
    process = start("head=adacos,softmax", "seed=0,1", "sweep=slurm", "trainer.max_epochs=300", *SLURM)
    folder = tmp_path / "multirun/slurm"
    wait_for(lambda: training(folder), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "cancelled 4 Slurm jobs; the same command continues their runs\nstopped by Ctrl-C\n"
    assert "not finished: 4 of 4 runs" in out
    assert told("squeue", "--noheader") == ""
    assert "running" not in {run.state for run in runs_of(folder).values()}


def test_what_slurm_refuses_is_told_in_a_line(start):
    process = start("seed=0,1", "sweep=x", *SLURM, "hydra.launcher.partition=banana")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("\n") == 1, err
    assert "sbatch refused the jobs: invalid partition specified: banana" in err
