"""A batch of the runs of a sweep: its jobs are composed, planned, made and shown."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from metrad.errors import InputError
from metrad.runs.directory import Run
from metrad.runs.identity import differences
from metrad.sweeps.plan import Ended, Job, Sweep, plan, quiet
from metrad.sweeps.view import View


def job(context: HydraContext, sweep: DictConfig, number: int, overrides: Sequence[str]) -> Job:
    """Return the job of one run of a sweep, with the directory of the run resolved.

    Args:
        context: Hydra's context, whose loader composes the configuration of the run.
        sweep: the configuration of the sweep.
        number: the number of the run in the sweep.
        overrides: the overrides of the run.

    Raises:
        InputError: ``hydra.sweep.subdir`` is no name of a folder.
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
    if Path(name).name != name or name in ("", ".."):  # compare and evaluate look one folder below the sweep
        raise InputError(
            f"hydra.sweep.subdir={name} must be the name of a folder in {folder}, without /; leave it out, or name "
            "each run, as in 'hydra.sweep.subdir=run-${seed}'"
        )
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), name
    return Job(number, Run(folder / name), config)


def _require_apart(jobs: Sequence[Job]) -> None:
    """Raise ``InputError`` if two of ``jobs`` with different settings share a folder."""
    first: dict[Path, Job] = {}
    for each in jobs:
        before = first.setdefault(each.run.path, each)
        with contextlib.suppress(OmegaConfBaseException):  # the check of the run reports it
            other = differences(before.config, each.config) if before is not each else []
            if other:
                raise InputError(
                    f"hydra.sweep.subdir={each.run.path.name} gives two runs one folder ({other[0]}); leave it out, or "
                    "let it tell them apart, as in 'hydra.sweep.subdir=run-${seed}'"
                )


def make(
    sweep: Sweep, jobs: Sequence[Job], make_all: Callable[[Sequence[Job]], Generator[Ended]], *, fail_fast: bool
) -> None:
    """Make the runs that have not finished, show how each ends, and count failures.

    Args:
        sweep: the sweep, which keeps the count of failures.
        jobs: the jobs of all runs of the batch.
        make_all: makes the runs of jobs and yields how each ended.
        fail_fast: whether the first failed run ends the sweep.

    Raises:
        InputError: two runs with different settings share a folder.
    """
    _require_apart(jobs)
    todo = plan(sweep, jobs)
    view = View([each.run for each in jobs], [each.run for each in todo])
    with view, quiet(), contextlib.closing(make_all(todo)) as made:
        for ended in made:
            view.report(ended)
            sweep.failures += ended.state == "failed"
            sweep.stopped = bool(sweep.failures and fail_fast)
            if sweep.stopped:
                break
