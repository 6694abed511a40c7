"""One batch of a sweep's runs: its jobs settled, then planned, made and shown."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from metrad.runs.directory import Run
from metrad.sweeps.plan import Ended, Job, Sweep, plan, quiet
from metrad.sweeps.view import View


def job(context: HydraContext, sweep: DictConfig, number: int, overrides: Sequence[str]) -> Job:
    """Return one run of a sweep, with its directory settled.

    Args:
        context: Hydra's, whose loader composes the run's configuration.
        sweep: the configuration of the sweep.
        number: the run's number in the sweep.
        overrides: those of the run.
    """
    config = context.config_loader.load_sweep_config(sweep, list(overrides))
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


def make(
    sweep: Sweep, jobs: Sequence[Job], make_all: Callable[[Sequence[Job]], Generator[Ended]], *, fail_fast: bool
) -> None:
    """Make the runs that have not finished, and show and count how they end.

    Args:
        sweep: keeps the count.
        jobs: all runs of the batch.
        make_all: makes runs and gives how each ended.
        fail_fast: whether the first run that fails ends the sweep.
    """
    todo = plan(sweep, jobs)
    view = View([each.run for each in jobs], [each.run for each in todo])
    with view, quiet(), contextlib.closing(make_all(todo)) as made:
        for ended in made:
            view.tell(ended)
            sweep.failures += ended.state == "failed"
            sweep.stopped = bool(sweep.failures and fail_fast)
            if sweep.stopped:
                break
