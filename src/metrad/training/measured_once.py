"""Measurements made once on this machine and kept in the user's cache for later runs."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from metrad.errors import InputError
from metrad.files import read_json, write_json
from metrad.training.devices.processor import processor

log = logging.getLogger(__name__)

Numbers = dict[str, float]

LONGEST_WAIT = 120.0  # seconds to wait for another process that makes the same measurement


def cache_folder() -> Path:
    """Return metrad's folder in the user's cache: in $XDG_CACHE_HOME if it is an absolute path, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()) / "metrad"


def remembered(about: dict[str, Any], names: Sequence[str], measure: Callable[[], Numbers]) -> Numbers:
    """Return the result of the first call of ``measure`` for ``about`` on this machine.

    One JSON file is kept for each machine, version of torch, number of threads and ``about``. If several processes ask
    at once, one measures and the others wait. An unusable file is replaced by a new measurement. If the folder cannot
    be written to, the measurement is returned and not kept.

    Args:
        about: plain values that the measurement depends on.
        names: names of the measured numbers.
        measure: returns a positive number for each name.
    """
    place = {"processor": processor(), "torch": torch.__version__, "threads": torch.get_num_threads(), **about}
    name = hashlib.blake2b(json.dumps(place, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    path = cache_folder() / f"speed-{name}.json"
    found = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=LONGEST_WAIT):
            found = _read(path, names)
            if found is None:
                found = measure()
                write_json(path, {"about": place, "measured": found})
    except (OSError, Timeout) as error:
        log.debug("%s cannot be kept: %s", path, error)
    return measure() if found is None else found


def _read(path: Path, names: Sequence[str]) -> Numbers | None:
    """Return the numbers in a file; None unless it has a usable number for each of ``names``."""
    try:
        content = read_json(path)
    except InputError:
        return None
    found = content.get("measured") if isinstance(content, dict) else None
    if not isinstance(found, dict) or set(found) != set(names):
        return None
    good = all(type(value) in (int, float) and math.isfinite(value) and value > 0 for value in found.values())
    return found if good else None
