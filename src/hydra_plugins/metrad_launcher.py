"""The Hydra launcher of metrad's sweeps: conf/hydra/launcher/metrad.yaml and metrad_parallel.yaml.

Hydra imports this file in every Hydra program of the environment, so it is light and registers nothing.
Hydra's own launchers begin every run anew. This launcher continues interrupted runs and skips finished runs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from metrad.sweeps.plan import Ended, Job


class SweepLauncher(Launcher):
    """Makes the unfinished runs of a sweep; a run that fails does not stop the other runs.

    Args:
        n_jobs: number of runs at a time. 1 makes all runs in this process; a larger number makes each run in a process
            of its own. None makes ``jobs_per_gpu`` runs on each GPU, or without a GPU one run on each CPU core.
        jobs_per_gpu: number of processes that share a GPU.
    """

    def __init__(self, n_jobs: int | None = 1, jobs_per_gpu: int = 1) -> None:
        for name, value in (("n_jobs", n_jobs), ("jobs_per_gpu", jobs_per_gpu)):
            if (name, value) != ("n_jobs", None) and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"hydra.launcher.{name} must be a number of at least 1, got {value}")
        self.n_jobs = n_jobs
        self.jobs_per_gpu = jobs_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep context, task and configuration, and the folder of the sweep before Hydra writes into it.

        Raises:
            InputError: the program is not metrad, a setting of the sweep is wrong, or the folder holds files of a sweep
                that metrad did not write.
        """
        from metrad.errors import InputError
        from metrad.runs.config.checks import check_sweep
        from metrad.sweeps.plan import SweepTask, require_own

        if not isinstance(task_function, SweepTask):
            raise InputError("this launcher only makes runs of metrad; choose hydra/launcher=basic")
        check_sweep(config)
        require_own(Path(config.hydra.sweep.dir))
        self.context, self.task, self.config = hydra_context, task_function, config
        self.task.sweep.folder = Path(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Make the runs. The result is empty: the directories of the runs hold how they ended."""
        from metrad.sweeps import batch
        from metrad.sweeps.plan import require_runs

        require_runs(job_overrides)
        if self.task.sweep.stopped:  # in an earlier batch
            return []
        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        jobs = [batch.job(self.context, self.config, initial_job_idx + i, each) for i, each in enumerate(job_overrides)]
        batch.make(self.task.sweep, jobs, self.make_all, fail_fast=self.config.sweep.fail_fast)
        return []

    def make_all(self, jobs: Sequence[Job]) -> Generator[Ended]:
        """Make the runs and yield how each ended, as soon as it ends."""
        from metrad.sweeps import workers

        maker = workers.Maker(self.context, self.task.train)
        locks = Path(self.config.hydra.sweep.dir).absolute() / ".gpus"
        yield from workers.make_all(jobs, maker, locks, n_jobs=self.n_jobs, jobs_per_gpu=self.jobs_per_gpu)
