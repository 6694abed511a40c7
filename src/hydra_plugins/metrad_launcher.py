"""The Hydra launcher of sweeps, for one run at a time or several. Hydra finds it by its place here.

Hydra's own launchers make every run anew and have no word for one that was interrupted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

if TYPE_CHECKING:  # Hydra imports this file whatever is asked of it, so it must be light
    from metrad.sweeps.plan import Ended, Job


class SweepLauncher(Launcher):
    """Makes the runs of a sweep that have not finished yet; one that fails stops no other.

    Args:
        n_jobs: how many at a time; 1 makes them in this process, more each in a process of its own. None for as many
            as the GPUs take, or without a GPU as there are CPU cores.
        jobs_per_gpu: how many processes share a GPU.
    """

    def __init__(self, n_jobs: int | None = 1, jobs_per_gpu: int = 1) -> None:
        for name, value in (("n_jobs", n_jobs), ("jobs_per_gpu", jobs_per_gpu)):
            if (name, value) != ("n_jobs", None) and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"hydra.launcher.{name} must be a number of at least 1, got {value}")
        self.n_jobs = n_jobs
        self.jobs_per_gpu = jobs_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the runs need."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Make the runs. Nothing is returned: how they ended is in their directories."""
        from metrad.sweeps import plan
        from metrad.sweeps.view import View

        if plan.current.stopped:  # by an earlier batch
            return []
        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        os.environ["TQDM_DISABLE"] = "1"  # bars of single runs would run through the view of them all
        jobs = [self.job(initial_job_idx + i, list(each)) for i, each in enumerate(job_overrides)]
        todo = plan.plan(jobs)
        view = View([job.run for job in jobs], [job.run for job in todo])
        with view, plan.quiet(), contextlib.closing(self.make_all(todo)) as made:
            for ended in made:
                view.tell(ended)
                plan.current.failures += ended.state == "failed"
                plan.current.stopped = bool(plan.current.failures and self.config.sweep.fail_fast)
                if plan.current.stopped:
                    break
        return []

    def job(self, number: int, overrides: list[str]) -> Job:
        """Return one run of the sweep, with its directory settled."""
        from hydra.core.hydra_config import HydraConfig

        from metrad.runs.directory import Run
        from metrad.sweeps.plan import Job

        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            folder, name = Path(config.hydra.sweep.dir).absolute(), str(config.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = before
        with read_write(config.hydra.sweep):
            config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), name
        return Job(number, Run(folder / name), config)

    def make_all(self, jobs: Sequence[Job]) -> Generator[Ended]:
        """Make runs and give how each ended, as soon as it did."""
        from metrad.sweeps import workers
        from metrad.training.devices import launch

        maker = workers.Maker(self.context, self.task)
        if self.n_jobs == 1:
            yield from map(maker.make, jobs)
            return
        gpus = workers.visible_gpus()
        room = len(gpus) * self.jobs_per_gpu or self.n_jobs or launch.cores()
        workers = min(self.n_jobs or room, room, max(len(jobs), 1))
        locks = Path(self.config.hydra.sweep.dir).absolute() / ".gpus"
        share = workers.Share(self.jobs_per_gpu, max(1, launch.cores() // workers), locks)
        if workers == 1:  # another process would gain nothing
            share.take()
            yield from map(maker.make, jobs)
            return
        worker = workers.Worker(maker, share, Singleton.get_state(), os.getpid())
        yield from workers.side_by_side(jobs, worker, workers)


# Not as YAML files, since those of other launchers are of the same names and stand in the store.
_TARGET = "hydra_plugins.metrad_launcher.SweepLauncher"
for _name, _n_jobs in (("basic", 1), ("joblib", None)):
    _node = {"_target_": _TARGET, "n_jobs": _n_jobs, "jobs_per_gpu": 1}
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="metrad")
