"""The Hydra launcher of sweeps on a Slurm cluster: conf/hydra/launcher/slurm.yaml.

Nothing in this file may be pickled, because Hydra imports it in a way that pickle cannot follow.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.metrad_launcher import SweepLauncher

if TYPE_CHECKING:  # Hydra always imports this file, so it must be light
    from metrad.sweeps.plan import Ended, Job


class SlurmLauncher(SweepLauncher):
    """Makes the unfinished runs of a sweep as jobs of a Slurm array.

    Args:
        folder: folder for scripts, logs and results of the jobs.
        poll_seconds: seconds between two checks for jobs that ended without a result.
        settings: resources of the jobs, by the names of hydra-submitit-launcher's ``submitit_slurm``.
    """

    def __init__(self, *, folder: str, poll_seconds: float = 10, **settings: Any) -> None:
        super().__init__()
        self.folder = folder
        self.poll_seconds = poll_seconds
        self.settings = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings and the Slurm commands, and keep context, task and configuration."""
        from metrad.sweeps import slurm

        slurm.check(self.settings, self.poll_seconds)
        self.executor = slurm.executor(Path(self.folder), self.settings)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def make_all(self, jobs: Sequence[Job]) -> Generator[Ended]:
        """Submit the runs and yield how each ended, as soon as it ends."""
        from metrad.sweeps import slurm, workers

        task = slurm.Task(workers.Maker(self.context, self.task.train), Singleton.get_state())
        yield from slurm.make_all(jobs, task, self.executor, self.poll_seconds)
