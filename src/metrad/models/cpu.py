"""How memory is handed out while training and embedding on a CPU."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Names and numbers of glibc's malloc.h; the usual values are those that its documentation gives.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 2**20

_open: list[torch.device] = []  # where the block that others lie within computes, while there is one


@contextmanager
def lean_memory(device: torch.device) -> Iterator[None]:
    """Keep freed memory for the next step, and leave fresh memory as it comes, until the block ends.

    A step frees and asks again for some gigabytes. The C library gives large blocks back to the system at once, and the
    system clears each page anew: up to a third of a step of MobileNetV2. Deterministic algorithms, as torch means
    them, also fill fresh memory so that reading it uninitialised gives the same each time, which nothing here does.
    Neither changes a result. Memory is given back at the end, of a block within another at that of the outer one. Only
    glibc has these settings; elsewhere only the filling is left out.

    Args:
        device: where the block computes; nothing is done but on a CPU.
    """
    if device.type != "cpu" or _open:
        yield
        return
    settings: Any = torch.utils.deterministic  # typed as a plain module
    filling, libc = settings.fill_uninitialized_memory, _glibc()
    settings.fill_uninitialized_memory = False
    _set(libc, {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})
    _open.append(device)
    try:
        yield
    finally:
        _open.clear()
        settings.fill_uninitialized_memory = filling
        _set(libc, {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB})
        if libc is not None:
            libc.malloc_trim(0)


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None


def _set(libc: Any, values: dict[int, int]) -> None:
    if libc is not None:
        for name, value in values.items():
            libc.mallopt(name, value)
