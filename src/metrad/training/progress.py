"""Whether a training may show a progress bar."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Let trainings show no progress bar, because a view of the whole sweep is in their place."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def bars_wanted() -> bool:
    """Return whether a progress bar would go to a terminal and neither ``hidden`` nor tqdm's own variable hides it."""
    return sys.stderr.isatty() and not _hidden.get() and not os.environ.get("TQDM_DISABLE")
