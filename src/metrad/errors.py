"""Errors that metrad raises on purpose, and exit codes. The command line prints each error in one line."""

INTERRUPTED, TERMINATED = 130, 143  # exit codes after Ctrl-C and SIGTERM


class MetradError(Exception):
    """Base of every error that metrad raises on purpose."""


class InputError(MetradError, ValueError):
    """A setting, file or directory from the user cannot be used. Nothing has been written."""


class TrainingError(MetradError, RuntimeError):
    """Training failed after it had begun."""


class WriteError(MetradError, OSError):
    """A file cannot be written: the disk is full, files may not grow that large, or the folder is read-only."""


class HeldError(InputError):
    """Another process is working on the same run."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if the text is empty."""
    return (str(error) or type(error).__name__).splitlines()[0]


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
