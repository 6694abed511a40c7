"""The start of ``train.py`` and ``metrad train``: Hydra's start, one run, and the end of a sweep."""

import gc
import logging
import os
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

import typer

from metrad.app import hydra_seam
from metrad.app.arguments import for_hydra
from metrad.app.messages import (
    FAILED_RUNS,
    end,
    hide_in_traceback,
    internal,
    is_expected_of_run,
    log_thresholds,
    log_trivial,
    one_line,
    relative,
    reporting_errors,
    summary,
)
from metrad.errors import HeldError, InputError, told_to_stop
from metrad.terminal import hide, printable

log = logging.getLogger("metrad")


def start(argv: list[str]) -> None:
    """Train the run or sweep that the arguments ask for, and end the process if a run fails."""
    reporting_errors(lambda: _train_all(argv), given=argv)


def _train_all(argv: list[str]) -> None:
    from metrad.runs.config import checks
    from metrad.sweeps import plan
    from metrad.training.devices import launch

    checks.register()
    arguments = for_hydra(argv)
    if launch.started_by_others() and "--multirun" in arguments:
        raise InputError("a sweep starts the ranks of its runs itself; start it without torchrun or srun")
    if launch.follows():
        arguments.append("hydra.run.dir=.")  # the first rank makes the directory of the run
    sweep = plan.Sweep()
    kept = True
    task = partial(_task, given=tuple(argv), full_error=hydra_seam.full_error_wanted())
    try:
        hydra_seam.run(arguments, plan.SweepTask(sweep, task))
    except Exception:
        sweep.forget_unstarted()
        raise
    finally:
        if sweep.runs:
            kept = _report_sweep(sweep)
    if sweep.failures or sweep.unfinished() or not kept:
        raise SystemExit(FAILED_RUNS)


def _report_sweep(sweep: Any) -> bool:
    """Write the table of all runs into the folder of the sweep; log the means over seeds and the unfinished runs.

    Returns:
        Whether the table could be written.
    """
    from metrad.files import write_rows
    from metrad.sweeps.table import collect, summarise, table_text
    from metrad.sweeps.thresholds import lacking

    assert sweep.folder is not None
    rows, kept = collect(sweep.folder), True
    if rows:
        log.info("\n%s", table_text(summarise(rows)))
        try:
            write_rows(sweep.folder / "runs.csv", rows)
            log.info("each run: %s", relative(sweep.folder / "runs.csv"))
        except OSError as error:  # for example, the disk is full
            typer.echo(f"error: {one_line(error)}", err=True)
            kept = False
    missing, left = lacking(sweep.runs), sweep.unfinished()
    if missing:
        log.info("%s", missing)
    if left:
        listed = ", ".join(f"{count} {state}" for state, count in left.items())
        way_on = "the same command with sweep=%s continues them"
        if sweep.all_refused():
            way_on = "each was refused for what its line says; after mending that, sweep=%s skips the finished runs"
        log.info(
            f"not finished: %d of %d runs (%s); {way_on}", left.total(), len(sweep.runs), listed, sweep.folder.name
        )
    return kept


def _task(cfg: Any, *, given: Sequence[str], full_error: bool) -> Any:
    """Train one run. In a sweep, return how it ended; otherwise log it, and end the process if the run failed.

    Args:
        cfg: the configuration of the run.
        given: the arguments of the command.
        full_error: whether the user asks for full tracebacks.

    Raises:
        SystemExit: a single run failed, or the process got a signal to stop.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from metrad.runs.config.checks import require_here
    from metrad.runs.config.home import expand_home
    from metrad.runs.config.secrets import secrets
    from metrad.runs.directory import Run
    from metrad.sweeps.plan import Ended
    from metrad.training.devices import launch

    cfg = expand_home(cfg)
    if launch.follows():
        _follow(cfg, given)
        return None
    hydra = HydraConfig.get()
    run = Run(hydra.runtime.output_dir)
    sweeping = hydra.mode == RunMode.MULTIRUN
    try:
        require_here(hydra)
        if cfg.sweep.name is not None and not sweeping:
            raise InputError(f"sweep={cfg.sweep.name} names a sweep, but this is one run; add -m")
        metrics = _importing_train()(cfg, run, OmegaConf.create({"hydra": hydra}), sweeping=sweeping)
    except (KeyboardInterrupt, SystemExit) as stop:
        stopped = told_to_stop(stop)
        assert stopped is not None
        if not sweeping:
            typer.echo(f"{stopped[0]}; {run.way_on()}", err=True)
        raise SystemExit(stopped[1]) from None
    except Exception as error:
        run.remove_if_empty()
        hidden = secrets(cfg, given)
        if full_error and not sweeping:
            hide_in_traceback(hidden)
            raise
        expected = is_expected_of_run(error)
        if not sweeping:
            end(error, given, cfg, expected=expected)
        if full_error:
            typer.echo(printable(hide(traceback.format_exc(), hidden)), err=True)
        line = (one_line if expected else internal)(error, given, cfg)
        return Ended(run, "running" if isinstance(error, HeldError) else "failed", line)
    if sweeping:
        return Ended(run, "finished", summary(metrics))
    log.info("%s -> %s", summary(metrics), relative(run.path))
    log_thresholds(metrics)
    log.info("pictures there: %s", ", ".join(path.name for path in run.pictures.values() if path.exists()))
    log_trivial(metrics)
    return None


def _importing_train() -> Any:
    """Return ``app.train.train``, imported without garbage collection.

    Objects made by the import of torch and Lightning stay, and garbage collection takes a tenth of the import time.
    """
    gc.disable()
    try:
        from metrad.app.train import train
    finally:
        gc.enable()
    return train


def _follow(cfg: Any, given: Sequence[str]) -> None:
    """Train as a further rank of a run, the directory of which belongs to the first rank."""
    from metrad.app.train import follow
    from metrad.runs.config.secrets import secrets

    try:
        follow(cfg)
    except Exception as error:
        if hydra_seam.full_error_wanted():
            hide_in_traceback(secrets(cfg, given))
            raise
        end(error, given, cfg, expected=is_expected_of_run(error), where=f"rank {os.environ['RANK']}: ")
