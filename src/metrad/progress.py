"""Progress bars, and whether they may be shown."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SWITCH = "TQDM_DISABLE"  # tqdm's own environment variable, which processes that are started inherit


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Show no progress bar in this process and in those that it starts, because the whole sweep is shown instead."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before


def bars_allowed() -> bool:
    """Return whether neither ``hidden`` nor the user's ``TQDM_DISABLE`` hides progress bars."""
    return not os.environ.get(_SWITCH)


def bars_wanted() -> bool:
    """Return whether progress bars are allowed and would go to a terminal."""
    return sys.stderr.isatty() and bars_allowed()


def bar(items: Iterable[T], text: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """Return ``items`` with a progress bar that appears after a second and vanishes at the end, if bars are wanted."""
    counted: Iterable[T] = tqdm(items, text, total, leave=False, delay=1, disable=not bars_wanted(), unit=unit)
    return counted
