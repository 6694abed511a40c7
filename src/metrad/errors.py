"""Errors that metrad raises on purpose, faults of its own, and exit codes. Each error is printed in one line."""

import sysconfig
import traceback
from pathlib import Path

INTERRUPTED, TERMINATED = 130, 143  # exit codes after Ctrl-C and SIGTERM


class MetradError(Exception):
    """Base of every error that metrad raises on purpose."""


class InputError(MetradError, ValueError):
    """A setting, file or directory from the user cannot be used. Nothing has been written."""


class TrainingError(MetradError, RuntimeError):
    """Training failed after it had begun."""


class DivergedError(TrainingError):
    """Training diverged, so that going on from its last checkpoint would end in the same way."""


class WriteError(MetradError, OSError):
    """A file cannot be written: the disk is full, files may not grow that large, or the folder is read-only."""


class HeldError(InputError):
    """Another process is working on the same run."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if the text is empty."""
    return (str(error) or type(error).__name__).splitlines()[0]


# Errors of libraries that settings or the machine cause, by class name, so that no library is imported.
_OF_SETTINGS = ("MisconfigurationException", "OutOfMemoryError")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_PACKAGES = {"site-packages", "dist-packages"}
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def is_of_memory(error: BaseException) -> bool:
    """Return whether the machine's or a GPU's memory did not suffice."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)
    )


def is_fault(error: BaseException) -> bool:
    """Return whether ``error`` is a fault of metrad's own: nothing that it raises on purpose, and raised by its code.

    An error that a library raises belongs to the code that called the library.
    """
    if isinstance(error, MetradError | OSError) or type(error).__name__ in _OF_SETTINGS or is_of_memory(error):
        return False
    return users_place(error) is None


def raised_by(error: BaseException) -> str:
    """Return the name of the module that raised ``error``; empty if it was never raised."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""


def users_place(error: BaseException) -> str | None:
    """Return the line, such as head.py:12, of the user's own code that raised ``error``; None for metrad's code."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(Path(__file__).parent):
            return None
        of_a_library = frame.filename.startswith(("<", *_LIBRARIES)) or _PACKAGES & {*Path(frame.filename).parts}
        if not of_a_library:
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return None


def told_to_stop(error: BaseException) -> tuple[str, int] | None:
    """Return the reason and the exit code if ``error`` is a request to stop the process, else None.

    Lightning turns Ctrl-C during training into ``SystemExit``, and SIGTERM into ``SIGTERMException``. If the code of a
    ``SystemExit`` is a text, that text is the reason.
    """
    if type(error).__name__ == "SIGTERMException":
        return "stopped by SIGTERM", TERMINATED
    if isinstance(error, SystemExit) and isinstance(error.code, str):
        return error.code, 1
    return ("stopped by Ctrl-C", INTERRUPTED) if isinstance(error, KeyboardInterrupt | SystemExit) else None
