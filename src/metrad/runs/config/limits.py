"""What this machine holds: the largest images, models and numbers of processes that a run can have here.

The ranges of the schema hold on every machine. These limits are looked at before a run is trained, never when one is
read, since it may have been trained on a larger machine.
"""

import os
from collections.abc import Iterator
from typing import Any

from metrad.errors import InputError

_FLOAT = 4  # bytes of a float32
_COPIES = 3  # a weight, its gradient, and at least one more value in training
_GB = 1e9


def memory() -> float:
    """Return the bytes of this machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def processes() -> int:
    """Return the number of processes that may share this machine's CPU cores."""
    return max(32, 4 * (os.cpu_count() or 1))


def require_held(settings: dict[str, Any], *, on_cpu: bool) -> None:
    """Check that this machine can hold a run with the settings of a configuration.

    Args:
        settings: the configuration as a plain dictionary.
        on_cpu: whether it trains on the CPU, where each device is a process.

    Raises:
        InputError: it cannot; the line names the setting, what it needs and what there is.
    """
    for key, value, needed in _needs(settings):
        _require(key, value, needed)
    counts = {"dataset.workers": settings["dataset"]["workers"]}
    counts |= {"trainer.devices": settings["trainer"].get("devices")} if on_cpu else {}
    for key, value in counts.items():
        if isinstance(value, int) and value > processes():
            raise InputError(
                f"{key}={value} asks for as many processes, and this machine has {os.cpu_count()} CPU cores; "
                f"set at most {processes()}"
            )


def require_centres(head: dict[str, Any], in_features: int, num_classes: int) -> None:
    """Check that this machine can hold the centres of a head with the settings ``head``.

    Raises:
        InputError: it cannot.
    """
    centres = head.get("sub_centers")
    if isinstance(centres, int):
        _require("head.sub_centers", centres, float(centres) * in_features * num_classes * _FLOAT * _COPIES)


def _require(key: str, value: Any, needed: float) -> None:
    if needed > memory():
        raise InputError(
            f"{key}={value} takes at least {needed / _GB:,.0f} GB of memory, and this machine has "
            f"{memory() / _GB:,.0f} GB; lower it"
        )


def _needs(settings: dict[str, Any]) -> Iterator[tuple[str, Any, float]]:
    """Yield the settings that take memory by themselves: the key, the value and the fewest bytes."""
    side = settings["dataset"]["source"].get("size")
    if isinstance(side, int):
        yield "dataset.source.size", side, 2.0 * side**2 * 3 * _FLOAT  # a batch has two images or more
    channels = settings["backbone"].get("channels")
    if isinstance(channels, list) and all(isinstance(width, int) for width in channels):
        weights = sum(9.0 * before * after for before, after in zip([3, *channels], channels, strict=False))
        yield "backbone.channels", channels, weights * _FLOAT * _COPIES
    width = settings["backbone"].get("width")
    if isinstance(width, int | float):
        yield "backbone.width", width, 2.2e6 * float(width) ** 2 * _FLOAT * _COPIES  # of MobileNetV2
