"""The errors that metrad raises on purpose; the command line prints each in one line."""


class MetradError(Exception):
    """Base of every error that metrad raises on purpose."""


class InputError(MetradError, ValueError):
    """Something the user gave cannot be used: a setting, a file, a directory. Nothing has been written."""


class TrainingError(MetradError, RuntimeError):
    """Training went wrong after it had begun."""


class HeldError(InputError):
    """Another process is at work on the same run."""
