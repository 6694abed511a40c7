"""What can be told of a sweep on Slurm where there is none: refusals, and how jobs that left no result are noticed.

The real thing is in tests/slurm.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from metrad.runs.directory import Run
from metrad.sweeps import slurm
from metrad.sweeps.plan import Ended, Job

SLURM = "hydra/launcher=slurm"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs of Slurm's names on PATH that do nothing but what ``squeue`` is told to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(squeue: str = "") -> None:
        for name, script in {"sbatch": "", "srun": "", "scancel": "", "squeue": squeue}.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    write()
    return write


def test_without_slurm_one_line_says_so(refused, digits, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("train", "-m", *digits, SLURM, words=("sbatch", "not on PATH"))
    assert list(tmp_path.glob("multirun/*")) == []


def test_without_its_package_one_line_names_the_extra(refused, digits, programs, monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_submitit_launcher.config", None)
    refused("train", "-m", *digits, SLURM, words=("pip install 'metrad[slurm]'",))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("+hydra.launcher.partitoin=gpu", ("hydra.launcher.partitoin", "did you mean partition?")),
        ("+hydra.launcher.nodes=2", ("hydra.launcher.nodes",)),
        ("hydra.launcher.poll_seconds=0", ("hydra.launcher.poll_seconds", "above 0")),
        ("hydra.launcher.cpus_per_task=many", ("cpus_per_task",)),
        ("hydra.launcher.max_num_timeout=often", ("hydra.launcher.max_num_timeout", "at least 0")),
    ],
)
def test_a_setting_that_cannot_be_used_is_told_in_one_line(setting, words, refused, digits, programs, tmp_path):
    refused("train", "-m", *digits, SLURM, setting, words=words)
    assert list(tmp_path.glob("multirun/*")) == []


def test_a_finished_sweep_needs_no_job(metrad, digits, programs, tmp_path):
    assert metrad("train", "-m", *digits, "sweep=x").code == 0
    result = metrad("train", "-m", *digits, "sweep=x", SLURM)
    assert (result.code, result.err) == (0, "")
    assert "1 finished" in result.out
    assert list((tmp_path / "multirun/x/.submitit").glob("*")) == []


@pytest.mark.parametrize(
    ("squeue", "found"),
    [
        ("echo 7_0 RUNNING; echo 7_1 FAILED; echo 7_2 PENDING", {"7_1": "FAILED", "7_3": slurm.LOST}),
        (
            "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            dict.fromkeys(["7_0", "7_1", "7_2", "7_3"], slurm.LOST),
        ),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", {}),
    ],
    ids=["some", "forgotten", "no answer"],
)
def test_jobs_are_over_only_when_slurm_says_so(squeue, found, programs):
    programs(squeue)
    assert slurm.over(["7_0", "7_1", "7_2", "7_3"]) == found


def test_endings_give_results_at_once_and_jobs_without_when_they_are_sure(programs, tmp_path):
    programs(f"echo 7_0 RUNNING; if [ -e {tmp_path}/asked ]; then echo 7_1 CANCELLED; fi; touch {tmp_path}/asked")
    (tmp_path / "jobs").mkdir()
    results = [tmp_path / "jobs" / f"7_{i}_0_result.pkl" for i in range(3)]
    results[2].touch()
    paths = [SimpleNamespace(folder=tmp_path / "jobs", result_pickle=path) for path in results]
    ended = slurm.endings(["7_0", "7_1", "7_2"], paths, 0.05)
    assert next(ended) == ("7_2", "")
    assert next(ended) == ("7_1", "CANCELLED")  # first not known to Slurm, then cancelled: two times over
    results[0].touch()
    assert list(ended) == [("7_0", "")]


@pytest.mark.parametrize(("noted", "state"), [("running", "interrupted"), ("finished", "finished")])
def test_a_job_without_result_counts_by_what_became_of_its_run(noted, state, tmp_path):
    run = Run(tmp_path / "run")
    run.begin()
    run.note(state=noted)
    handle = SimpleNamespace(job_id="7_1", paths=SimpleNamespace(stderr=Path("7_1_0_log.err")))
    ended = slurm.without_result(Job(1, run, None), handle, "OUT_OF_MEMORY")
    assert (ended.run, ended.state) == (run, state)
    assert "Slurm job 7_1 ended: OUT_OF_MEMORY" in ended.text


def test_an_error_that_no_run_made_is_told_in_a_line(tmp_path):
    from submitit.core.utils import FailedJobError

    trace = (
        "Job (task=0) failed during processing with trace:\n---\nTraceback:\n  File x\nImportError: no metrad\n---\n"
    )
    error = FailedJobError(f"{trace}You can check full logs\nor at paths:\n  - a\n  - b")
    handle = SimpleNamespace(job_id="7", exception=lambda: error, paths=SimpleNamespace(stderr="7_0_log.err"))
    ended = slurm.with_result(Job(0, Run(tmp_path), None), handle)
    assert ended == Ended(ended.run, "failed", "Slurm job 7 failed: ImportError: no metrad; see 7_0_log.err")
