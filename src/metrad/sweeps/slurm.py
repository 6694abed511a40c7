"""The runs of a sweep as jobs of a Slurm array, submitted by submitit."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals

from metrad.errors import InputError
from metrad.runs.config.build import missing_package
from metrad.runs.config.checks import register
from metrad.runs.config.suggestions import suggestion
from metrad.sweeps.plan import Ended, Job, quiet
from metrad.sweeps.workers import Maker
from metrad.training.devices.launch import cores

LAUNCHER = "hydra/launcher=slurm"
# A job in one of these states does not run again by itself.
OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
LOST = "not known to Slurm any more"
CANCEL_SECONDS = 20  # longest wait until cancelled jobs release their runs


@dataclass(frozen=True)
class Task:
    """The function of a Slurm job: it makes one run. Submitit pickles it, and calls ``checkpoint`` to requeue the job.

    Attributes:
        maker: makes the run.
        state: Hydra's global state.
    """

    maker: Maker
    state: dict[Any, Any]

    def __call__(self, job: Job) -> Ended:
        """Make one run with the CPUs that Slurm gave the job."""
        # With this name Lightning does not treat the job as a Slurm job and does not requeue it; submitit requeues it.
        os.environ["SLURM_JOB_NAME"] = "interactive"
        _end_as_interrupted()
        Singleton.set_state(self.state)
        setup_globals()
        register()
        _use_threads(int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or cores()))
        with quiet():
            return self.maker.make(job)

    def checkpoint(self, job: Job) -> Any:
        """Return the same function for the requeued job, as an interrupted run continues from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def _end_as_interrupted() -> None:
    """Let a job that timed out too often end as an interrupted one.

    Submitit raises an error then. It would count as an error of the run, which would then begin anew.
    """
    from submitit import JobEnvironment
    from submitit.core.utils import UncompletedJobError

    number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
    requeue = signal.getsignal(number)

    def stop(signum: int, frame: FrameType | None) -> None:
        assert callable(requeue)
        try:
            requeue(signum, frame)
        except UncompletedJobError as error:
            raise SystemExit(str(error)) from error

    signal.signal(number, stop)


def _use_threads(count: int) -> None:
    import faiss
    import torch

    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)


def check(settings: Mapping[str, Any], poll_seconds: Any) -> None:
    """Check packages, Slurm commands and settings before jobs are submitted.

    Raises:
        InputError: a package or a Slurm command is missing, or a setting is unknown or of a wrong type.
    """
    try:
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
    except ImportError as error:
        raise InputError(f"{LAUNCHER}: {missing_package(error)}") from error
    if not all(shutil.which(program) for program in ("sbatch", "srun", "squeue")):
        raise InputError(f"{LAUNCHER}: sbatch, srun or squeue is not on PATH; start the sweep on a Slurm cluster")
    # A run is one process on one node.
    known = {item.name for item in fields(SlurmQueueConf)} - {"submitit_folder", "nodes", "tasks_per_node"}
    for name in settings:
        if name not in known:
            raise InputError(f"unknown configuration key hydra.launcher.{name}; {suggestion(name, known)}")
    if isinstance(poll_seconds, bool) or not isinstance(poll_seconds, int | float) or poll_seconds <= 0:
        raise InputError(f"hydra.launcher.poll_seconds must be a number above 0, got {poll_seconds}")
    requeues = settings.get("max_num_timeout", 0)
    if isinstance(requeues, bool) or not isinstance(requeues, int) or requeues < 0:
        raise InputError(f"hydra.launcher.max_num_timeout must be a number of at least 0, got {requeues}")


def executor(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return submitit's executor, which submits jobs with ``settings``.

    The ``launch`` of hydra-submitit-launcher is not used: it submits every run anew, waits for the jobs in their order,
    and raises an error at the first job without a result.

    Raises:
        InputError: a setting is of a wrong type.
    """
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit import AutoExecutor

    shared = {item.name for item in fields(BaseQueueConf)}
    given = {name: value for name, value in settings.items() if name != "max_num_timeout"}
    if given.get("cpus_per_task"):  # since Slurm 22.05 srun does not inherit it from sbatch
        given["srun_args"] = [f"--cpus-per-task={given['cpus_per_task']}"]
    named = {name if name in shared else f"slurm_{name}": value for name, value in given.items()}
    try:
        made = AutoExecutor(folder.absolute(), "slurm", slurm_max_num_timeout=settings.get("max_num_timeout", 0))
        made.update_parameters(**{"name": "metrad", "nodes": 1, "tasks_per_node": 1, **named})
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise InputError(f"{LAUNCHER}: {' '.join(str(error).split())}") from error
    return made


def make_all(jobs: Sequence[Job], task: Task, submitter: Any, poll_seconds: float) -> Generator[Ended]:
    """Submit jobs and yield how each ended, as soon as it ends. If the generator is closed, cancel the remaining jobs.

    Raises:
        InputError: Slurm refuses the jobs.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if not jobs:
        return
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints the message of sbatch and also raises it
            submitted = submitter.map_array(task, jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        lines = str(error).replace("sbatch: error: ", "").splitlines()
        raise InputError(f"{LAUNCHER}: sbatch refused the jobs: {'; '.join(lines)}") from error
    left = {handle.job_id: (job, handle) for job, handle in zip(jobs, submitted, strict=True)}
    try:
        for name, state in endings(list(left), [handle.paths for handle in submitted], poll_seconds):
            job, handle = left.pop(name)
            yield without_result(job, handle, state) if state else with_result(job, handle)
    finally:
        if left:
            cancel(list(left))


def endings(names: list[str], paths: list[Any], poll_seconds: float) -> Iterator[tuple[str, str]]:
    """Yield the name of each job that has ended, with Slurm's state of the job, or '' if the job left a result.

    A job counts as ended without a result when Slurm reports so twice: results come late on shared file systems, and a
    job that is being requeued may look as if it had failed.
    """
    results = {name: path.result_pickle for name, path in zip(names, paths, strict=True)}
    suspects: dict[str, str] = {}
    asked = time.monotonic()
    while results:
        there = set(os.listdir(paths[0].folder))  # noqa: PTH208 # one listing of the folder, which also refreshes NFS
        for name in [name for name, path in results.items() if path.name in there]:
            del results[name]
            yield name, ""
        if time.monotonic() - asked >= poll_seconds:
            asked = time.monotonic()
            now = over(results)
            for name in now.keys() & suspects.keys():
                del results[name]
                yield name, now.pop(name)
            suspects = now
        time.sleep(min(1, poll_seconds))


def over(names: Iterator[str] | Mapping[str, Any]) -> dict[str, str]:
    """Return the jobs among ``names`` that have ended, each with its state; empty if Slurm does not answer."""
    found = states(names)
    if found is None:
        return {}
    return {name: found.get(name, LOST) for name in names if found.get(name, LOST) in (*OVER, LOST)}


def states(names: Any) -> dict[str, str] | None:
    """Return the states, by name, of the jobs that Slurm knows; None if Slurm does not answer.

    It calls squeue, and not sacct as submitit does, because not every cluster has accounting.
    """
    arrays = sorted({name.partition("_")[0] for name in names})
    options = ["--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    answer = _call("squeue", *options)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return dict(line.split(None, 1) for line in answer.stdout.splitlines() if len(line.split(None, 1)) == 2)


def _call(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 # no shell
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer")


def with_result(job: Job, handle: Any) -> Ended:
    """Return how the run of a job that left a result ended."""
    error = handle.exception()
    if error is None:
        ended: Ended = handle.result()
        return ended
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(("---", "You can"))]
    raised = [line for line in lines if not line.startswith((" ", "or at paths"))]
    return Ended(job.run, "failed", f"Slurm job {handle.job_id} failed: {raised[-1]}; see {handle.paths.stderr}")


def without_result(job: Job, handle: Any, state: str) -> Ended:
    """Return how the run of a job that was killed, cancelled or lost ended."""
    text = f"Slurm job {handle.job_id} ended: {state}"
    if job.run.state == "finished":
        return Ended(job.run, "finished", text)
    where = "" if job.run.log.exists() else f"; see {handle.paths.stderr}"
    return Ended(job.run, "interrupted", f"{text}; the same command continues the run{where}")


def cancel(names: list[str]) -> None:
    """Cancel jobs, print their number, and wait until the running ones have released their runs."""
    # Running jobs are killed: they ignore SIGTERM (training.callbacks.KeepSigterm), and Slurm would wait for them.
    for options in (["--state=PENDING"], ["--signal=KILL"], []):
        _call("scancel", "--quiet", *options, *names)
    typer.echo(
        f"cancelled {len(names)} Slurm job{'s'[: len(names) > 1]}; the same command continues their runs", err=True
    )
    end = time.monotonic() + CANCEL_SECONDS
    while time.monotonic() < end:
        found = states(names)
        if found is not None and all(found.get(name, LOST) in (*OVER, LOST) for name in names):
            return
        time.sleep(0.5)
