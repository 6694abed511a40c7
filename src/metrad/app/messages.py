"""The messages of the command line on errors and results, and its exit codes."""

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import typer

from metrad.app.hydra_seam import full_error_wanted, raised_by_hydra
from metrad.errors import INTERRUPTED, InputError, MetradError, is_fault, is_of_memory, users_place
from metrad.files import in_words
from metrad.runs.config.secrets import secrets
from metrad.terminal import hide, printable

log = logging.getLogger("metrad")
T = TypeVar("T")

BAD_INPUT, FAILED_RUNS, FLAGGED, INTERNAL = 2, 1, 3, 70


def reporting_errors(job: Callable[[], T], given: Sequence[str] | None = None) -> T:
    """Run ``job`` and return its result; on an error, print one line and exit.

    The exit code is 2 for an error in the user's input, 70 for a fault of metrad's own, and 130 after Ctrl-C.

    Args:
        job: function of the command.
        given: the arguments of the command; None for those of the process.
    """
    whole = full_error_wanted()
    try:
        return job()
    except Exception as error:
        if whole:
            hide_in_traceback(secrets(given=sys.argv if given is None else given))
            raise
        end(error, given, expected=is_expected(error))
    except KeyboardInterrupt:
        typer.echo("stopped by Ctrl-C", err=True)
        raise SystemExit(INTERRUPTED) from None


def end(
    error: Exception, given: Sequence[str] | None = None, cfg: Any = None, *, expected: bool, where: str = ""
) -> NoReturn:
    """Print one line on ``error`` and end the process, with code 2 if it was expected and 70 for a fault.

    ``given`` and ``cfg`` are as for ``one_line``; ``where`` stands before an expected error.
    """
    line = f"error: {where}{one_line(error, given, cfg)}" if expected else internal(error, given, cfg)
    typer.echo(line, err=True)
    raise SystemExit(BAD_INPUT if expected else INTERNAL) from None


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
    """Return whether an error is about the user's input or the machine, and not a fault of metrad's own."""
    return raised_by_hydra(error) or not is_fault(error)


def internal(error: Exception, given: Sequence[str] | None = None, cfg: Any = None) -> str:
    """Return the line on a fault of metrad's own: the error, and the place in the code that raised it.

    ``given`` and ``cfg`` are as for ``one_line``.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    text = printable(hide(text, secrets(cfg, sys.argv[1:] if given is None else given)))
    return (
        f"internal error: {text}{place}. This is a fault of metrad, not of your input; please report it with the "
        "traceback that the environment variable HYDRA_FULL_ERROR=1 prints"
    )


def is_expected_of_run(error: Exception) -> bool:
    """Return the same for an error of a run whose configuration Hydra has composed.

    An error of OmegaConf is then a fault of metrad's own, but for an interpolation of the user's that leads nowhere.
    """
    from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

    return isinstance(error, InterpolationResolutionError | MissingMandatoryValue) or not is_fault(error)


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
    if is_of_memory(error):
        reason = " ".join(str(error).split()) or "MemoryError"
        return f"the machine's memory does not hold this: lower batch_size, image_size or the model's size ({reason})"
    text = _of_hydra(error, arguments)
    if text is None and isinstance(error, OSError):
        text = in_words(error)
    if text is not None:
        return text
    text = " ".join(str(error).split()) or type(error).__name__
    place = users_place(error)
    if place is not None and not isinstance(error, OSError) and not raised_by_hydra(error):
        return f"{type(error).__name__} in {place}, a part of your own: {text}"
    return f"{text} (given: {' '.join(arguments)})"


def _of_hydra(error: Exception, arguments: Sequence[str]) -> str | None:
    """Return an error of Hydra or OmegaConf as one line; None for other errors."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from metrad.runs.config.explain import explain, explain_choice, explain_null

    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, arguments)
    # OmegaConf only asserts that the parent of a setting is a mapping.
    if isinstance(error, AssertionError | AttributeError | TypeError) and raised_by_hydra(error):
        return explain_null(arguments)
    return explain_choice(arguments) if isinstance(error, ValueError) and raised_by_hydra(error) else None


def summary(metrics: dict[str, Any]) -> str:
    """Return the main metrics of a run in one line, without those that an older version did not compute."""
    from metrad.evaluation.metrics import shown_in  # imports numpy, which --help does not need

    seconds = metrics["seconds"].get("total", sum(metrics["seconds"].values()))
    if metrics["auroc"] is None:
        return f"no anomalous test images, so no AUROC, {seconds:.0f} s"
    low, high = metrics["intervals"]["auroc_delong"]
    intervals = {"auroc": f" ({low:.3f} to {high:.3f})"}
    there = [each for each in shown_in("summary") if each.name in metrics]
    listed = [f"{each.phrase} {metrics[each.name]:.4f}{intervals.get(each.name, '')}" for each in there]
    return f"{', '.join([*listed, *_worst_kind(metrics)])}, {seconds:.0f} s"


def _worst_kind(metrics: Mapping[str, Any]) -> list[str]:
    """Return the anomalous class with the lowest AUROC in words; nothing if there are not several."""
    found = {name: entry["auroc"] for name, entry in metrics.get("per_class", {}).items() if "auroc" in entry}
    worst = min(found, key=lambda name: found[name], default=None)
    return [] if worst is None else [f"worst of {len(found)} kinds: {worst} with AUROC {found[worst]:.4f}"]


def log_thresholds(metrics: dict[str, Any]) -> None:
    """Log a line for each threshold: its false-alarm rate, and its rates on the test images."""
    for entry in [*metrics["thresholds"], *metrics.get("confident_thresholds", [])]:
        log.info(
            "threshold %.4g for %g %% false alarms%s: above it %s test images",
            entry["threshold"],
            100 * entry["false_alarm_rate"],
            f" with confidence {entry['confidence']:g}" if "confidence" in entry else "",
            _above(entry, metrics["intervals"]["level"]),
        )


def log_trivial(metrics: dict[str, Any]) -> None:
    """Log a warning if good test images score otherwise than calibration images, or a property does as well."""
    from metrad.evaluation import audit  # imports numpy, which --help does not need
    from metrad.evaluation.trivial import not_beyond

    scores = {"exchangeability": (metrics.get("audit") or {}).get("exchangeability")}  # the start warned of the rest
    for line in [*audit.lines(scores), not_beyond(metrics)]:
        if line is not None:
            log.warning("%s", line)


def _above(entry: Mapping[str, Any], level: float) -> str:
    """Return which share of the test images is above a threshold; without anomalous images, with its interval."""
    normal = f"{100 * entry['test_false_alarm_rate']:.1f} % of normal"
    if entry["test_detection_rate"] is None:
        low, high = entry["test_false_alarm_interval"]
        return f"{normal} ({100 * low:.1f} to {100 * high:.1f} % with confidence {level:g})"
    found, kinds = f"{normal}, {100 * entry['test_detection_rate']:.1f} % of anomalous", entry.get("by_kind")
    if not kinds:
        return found
    worst = entry["worst_kind"]
    return f"{found} (worst of {len(kinds)} kinds: {worst}, {100 * kinds[worst]['rate']:.1f} %)"


def relative(path: Path) -> Path:
    """Return ``path`` relative to the working directory if it is below it."""
    below = path != Path.cwd() and path.is_relative_to(Path.cwd())
    return path.relative_to(Path.cwd()) if below else path
