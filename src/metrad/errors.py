"""The errors that metrad raises on purpose; the command line prints each in one line."""

INTERRUPTED, TERMINATED = 130, 143  # exit codes after Ctrl-C and SIGTERM


class MetradError(Exception):
    """Base of every error that metrad raises on purpose."""


class InputError(MetradError, ValueError):
    """Something the user gave cannot be used: a setting, a file, a directory. Nothing has been written."""


class TrainingError(MetradError, RuntimeError):
    """Training went wrong after it had begun."""


class HeldError(InputError):
    """Another process is at work on the same run."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class where it has no text."""
    return (str(error) or type(error).__name__).splitlines()[0]


def told_to_stop(error: BaseException) -> tuple[str, int] | None:
    """Return why the process is to stop, and the exit code for that; None if ``error`` is of another kind.

    Lightning makes ``SystemExit`` of Ctrl-C during training, and of SIGTERM a kind of its own; one with words has its
    reason in them.
    """
    if type(error).__name__ == "SIGTERMException":
        return "stopped by SIGTERM", TERMINATED
    if isinstance(error, SystemExit) and isinstance(error.code, str):
        return error.code, 1
    return ("stopped by Ctrl-C", INTERRUPTED) if isinstance(error, KeyboardInterrupt | SystemExit) else None
