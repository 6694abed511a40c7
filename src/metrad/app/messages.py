"""What the command line says of errors and results, and the exit codes it ends with."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

from metrad.app.hydra_seam import full_error_wanted, raised_by_hydra
from metrad.errors import InputError, MetradError

log = logging.getLogger("metrad")
T = TypeVar("T")

BAD_INPUT, FAILED_RUNS = 2, 1


def reporting_errors(job: Callable[[], T], given: Sequence[str] | None = None) -> T:
    """Run ``job`` and return what it returns; end with one line and exit code 2 if the user's input cannot be used.

    Args:
        job: what the command does.
        given: the arguments of the command; None for those of the process.
    """
    whole = full_error_wanted()
    try:
        return job()
    except Exception as error:
        if whole or not is_told(error):
            raise
        typer.echo(f"error: {one_line(error, given)}", err=True)
        raise SystemExit(BAD_INPUT) from None


def is_told(error: Exception) -> bool:
    """Return whether an error is about what the user gave, so that one line says enough of it."""
    return isinstance(error, MetradError | OSError) or raised_by_hydra(error)


def one_line(error: Exception, given: Sequence[str] | None = None) -> str:
    """Return an error as one line for the terminal.

    Args:
        error: the error.
        given: the arguments of the command; None for those of the process.
    """
    if isinstance(error, InputError) and "Traceback (most recent call last)" in str(error):
        return str(error).strip().splitlines()[-1].partition(": ")[2]  # it was raised in a worker process
    if isinstance(error, MetradError):
        return " ".join(str(error).split())
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from metrad.runs.config.explain import explain, explain_null

    arguments = sys.argv[1:] if given is None else given
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, arguments)
    # OmegaConf asserts that a setting's parent is a mapping, where it raises no error of its own.
    if isinstance(error, AssertionError | AttributeError | TypeError) and raised_by_hydra(error):
        null = explain_null(arguments)
        if null:
            return null
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} (given: {' '.join(arguments)})"


def summary(metrics: dict[str, Any]) -> str:
    """Return the most important metrics of a run in one line, without those that a run of an older version lacks."""
    from metrad.evaluation.metrics import shown_in  # takes numpy, which --help has no use for

    seconds = metrics["seconds"].get("total", sum(metrics["seconds"].values()))
    low, high = metrics["intervals"]["auroc_delong"]
    intervals = {"auroc": f" ({low:.3f} to {high:.3f})"}
    there = [each for each in shown_in("summary") if each.name in metrics]
    told = [f"{each.phrase} {metrics[each.name]:.4f}{intervals.get(each.name, '')}" for each in there]
    return f"{', '.join(told)}, {seconds:.0f} s"


def tell_thresholds(metrics: dict[str, Any]) -> None:
    """Log a line for each threshold: what it promises and what it did on the test images."""
    for entry in metrics["thresholds"]:
        log.info(
            "threshold %.4g for %g %% false alarms: above it %.1f %% of normal, %.1f %% of anomalous test images",
            entry["threshold"],
            100 * entry["false_alarm_rate"],
            100 * entry["test_false_alarm_rate"],
            100 * entry["test_detection_rate"],
        )


def relative(path: Path) -> Path:
    """Return ``path`` from the working directory if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
