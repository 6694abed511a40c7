"""The messages of the command line on errors and results, and its exit codes."""

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import typer

from metrad.app.hydra_seam import full_error_wanted, raised_by_hydra
from metrad.errors import InputError, MetradError
from metrad.runs.config.secrets import secrets
from metrad.terminal import hide, printable

log = logging.getLogger("metrad")
T = TypeVar("T")

BAD_INPUT, FAILED_RUNS = 2, 1


def reporting_errors(job: Callable[[], T], given: Sequence[str] | None = None) -> T:
    """Run ``job`` and return its result; on an error in the user's input, print one line and exit with code 2.

    Args:
        job: function of the command.
        given: the arguments of the command; None for those of the process.
    """
    whole = full_error_wanted()
    try:
        return job()
    except Exception as error:
        if whole or not is_expected(error):
            hide_in_traceback(secrets(given=sys.argv if given is None else given))
            raise
        typer.echo(f"error: {one_line(error, given)}", err=True)
        raise SystemExit(BAD_INPUT) from None


class _Traceback:
    """Prints the traceback that ends the process, without secret values and control characters."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.secrets = dict(secrets)

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(printable(hide(text, self.secrets)))


def hide_in_traceback(secrets: Mapping[str, str]) -> None:
    """Let Python print the traceback of an error that ends the process without the values of ``secrets``."""
    before = sys.excepthook.secrets if isinstance(sys.excepthook, _Traceback) else {}
    sys.excepthook = _Traceback({**before, **secrets})


def is_expected(error: Exception) -> bool:
    """Return whether an error is about the user's input or the disk, so that one line without traceback suffices."""
    return isinstance(error, MetradError | OSError) or raised_by_hydra(error)


def one_line(error: Exception, given: Sequence[str] | None = None, cfg: Any = None) -> str:
    """Return an error as one line for the terminal, without secret values and control characters.

    Args:
        error: the error.
        given: the arguments of the command; None for those of the process.
        cfg: the configuration, some values of which may be secret; None before it is composed.
    """
    arguments = sys.argv[1:] if given is None else given
    return printable(hide(_text(error, arguments), secrets(cfg, arguments)))


def _text(error: Exception, arguments: Sequence[str]) -> str:
    if isinstance(error, InputError) and "Traceback (most recent call last)" in str(error):
        return str(error).strip().splitlines()[-1].partition(": ")[2]  # the error was raised in a worker process
    if isinstance(error, MetradError):
        return " ".join(str(error).split())
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from metrad.runs.config.explain import explain, explain_null

    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, arguments)
    # OmegaConf only asserts that the parent of a setting is a mapping.
    if isinstance(error, AssertionError | AttributeError | TypeError) and raised_by_hydra(error):
        null = explain_null(arguments)
        if null:
            return null
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} (given: {' '.join(arguments)})"


def summary(metrics: dict[str, Any]) -> str:
    """Return the main metrics of a run in one line, without those that an older version did not compute."""
    from metrad.evaluation.metrics import shown_in  # imports numpy, which --help does not need

    seconds = metrics["seconds"].get("total", sum(metrics["seconds"].values()))
    low, high = metrics["intervals"]["auroc_delong"]
    intervals = {"auroc": f" ({low:.3f} to {high:.3f})"}
    there = [each for each in shown_in("summary") if each.name in metrics]
    listed = [f"{each.phrase} {metrics[each.name]:.4f}{intervals.get(each.name, '')}" for each in there]
    return f"{', '.join(listed)}, {seconds:.0f} s"


def log_thresholds(metrics: dict[str, Any]) -> None:
    """Log a line for each threshold: its false-alarm rate, and its rates on the test images."""
    for entry in metrics["thresholds"]:
        log.info(
            "threshold %.4g for %g %% false alarms: above it %.1f %% of normal, %.1f %% of anomalous test images",
            entry["threshold"],
            100 * entry["false_alarm_rate"],
            100 * entry["test_false_alarm_rate"],
            100 * entry["test_detection_rate"],
        )


def relative(path: Path) -> Path:
    """Return ``path`` relative to the working directory if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
