"""The errors that metrad raises on purpose; the command line prints each in one line."""


class MetradError(Exception):
    """Base of every error that metrad raises on purpose."""


class InputError(MetradError, ValueError):
    """Something the user gave cannot be used: a setting, a file, a directory. Nothing has been written."""


class TrainingError(MetradError, RuntimeError):
    """Training went wrong after it had begun."""


class HeldError(InputError):
    """Another process is at work on the same run."""


def told_to_stop(error: BaseException) -> tuple[str, int] | None:
    """Return what told the process to stop, and the exit code for that; None if ``error`` is of another kind.

    Lightning makes ``SystemExit`` of Ctrl-C during training, and of SIGTERM a kind of its own.
    """
    if type(error).__name__ == "SIGTERMException":
        return "SIGTERM", 143
    return ("Ctrl-C", 130) if isinstance(error, KeyboardInterrupt | SystemExit) else None
