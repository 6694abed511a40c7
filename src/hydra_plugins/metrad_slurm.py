"""The Hydra launcher of sweeps on a Slurm cluster. Hydra finds it by its place here; conf/hydra/launcher/slurm.yaml.

Nothing of this file is ever pickled: Hydra imports it in a way that pickle does not follow.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.metrad_launcher import SweepLauncher

if TYPE_CHECKING:  # Hydra imports this file whatever is asked of it, so it must be light
    from metrad.sweeps.plan import Ended, Job


class SlurmLauncher(SweepLauncher):
    """Makes the runs of a sweep that have not finished yet as jobs of a Slurm array.

    Args:
        folder: where the jobs' scripts, logs and results go.
        poll_seconds: how often to ask Slurm for jobs that ended without a result.
        settings: what the jobs ask for, by the names of hydra-submitit-launcher's ``submitit_slurm``.
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
        """Keep what the runs need, and check that there is a cluster to run them."""
        from metrad.sweeps import slurm

        slurm.check(self.settings, self.poll_seconds)
        self.executor = slurm.executor(Path(self.folder), self.settings)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def make_all(self, jobs: Sequence[Job]) -> Generator[Ended]:
        """Submit the runs and give how each ended, as soon as it did."""
        from metrad.sweeps import slurm, workers

        task = slurm.Task(workers.Maker(self.context, self.task.train), Singleton.get_state())
        yield from slurm.make_all(jobs, task, self.executor, self.poll_seconds)
