"""What the command line says of errors and results, and the exit codes it ends with."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from metrad.errors import InputError, MetradError

log = logging.getLogger("metrad")
T = TypeVar("T")

BAD_INPUT, FAILED_RUNS = 2, 1
WANTS_TRACEBACK = "METRAD_FULL_ERROR"


def reporting_errors(job: Callable[[], T]) -> T:
    """Run ``job`` and return what it returns; end with one line and exit code 2 if it was given what it cannot use."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    if before == "1":
        os.environ[WANTS_TRACEBACK] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing several lines of each
    try:
        return job()
    except Exception as error:
        if before == "1" or not is_told(error):
            raise
        typer.echo(f"error: {one_line(error)}", err=True)
        raise SystemExit(BAD_INPUT) from None
    finally:
        os.environ.pop(WANTS_TRACEBACK, None)
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def is_told(error: Exception) -> bool:
    """Tell whether an error is of what the user gave, so that one line says enough of it."""
    return isinstance(error, MetradError | OSError) or _is_of_the_configuration(error)


def _is_of_the_configuration(error: Exception) -> bool:
    """Tell whether Hydra, OmegaConf or the YAML parser raised it; they use errors of Python's own too."""
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    module = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return module.split(".")[0] in ("antlr4", "hydra", "omegaconf", "yaml")


def one_line(error: BaseException) -> str:
    """Return an error as one line for the terminal."""
    if isinstance(error, InputError) and "Traceback (most recent call last)" in str(error):
        return str(error).strip().splitlines()[-1].partition(": ")[2]  # it was raised in a worker process
    if isinstance(error, MetradError):
        return " ".join(str(error).split())
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from metrad.runs.config.explain import explain, explain_null

    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if "NoneType" in text and (null := explain_null(sys.argv[1:])):
        return null
    return f"{text} (given: {' '.join(sys.argv[1:])})"


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
