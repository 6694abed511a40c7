"""Speed on a CPU: memory reused between training steps, and layers with faster gradients."""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Parameters of mallopt, as numbered in glibc's malloc.h. Their defaults are those of its documentation.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 2**20


class _Blocks:
    """The open ``lean_memory`` blocks of all threads.

    Attributes:
        lock: held while a block opens or closes.
        count: number of open blocks.
        filling: torch's setting before the first one.
    """

    lock = threading.Lock()
    count = 0
    filling = True


@contextmanager
def lean_memory(device: torch.device) -> Iterator[None]:
    """Reuse freed memory, and leave fresh memory unfilled, until the block ends. Results do not change.

    A training step frees and allocates some gigabytes. By default glibc returns large blocks to the system at once, and
    the system zeroes every page that it hands out: up to a third of a step of MobileNetV2. torch's deterministic mode
    also fills fresh memory, so that reading uninitialised memory is reproducible; nothing here reads such memory. The
    memory is returned at the end of the last open block of any thread. Without glibc, only the filling is turned off.

    Args:
        device: device of the computation; on any but a CPU the block has no effect.
    """
    if device.type != "cpu":
        yield
        return
    settings: Any = torch.utils.deterministic  # typed as a plain module
    with _Blocks.lock:
        if not _Blocks.count:
            _Blocks.filling = settings.fill_uninitialized_memory
            settings.fill_uninitialized_memory = False
            _set(_glibc(), {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})
        _Blocks.count += 1
    try:
        yield
    finally:
        with _Blocks.lock:
            _Blocks.count -= 1
            if not _Blocks.count:
                settings.fill_uninitialized_memory = _Blocks.filling
                _give_back(_glibc())


def _give_back(libc: Any) -> None:
    """Restore the defaults of malloc and return the free memory to the system."""
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


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride that a CPU trains in float32 where autocast would choose half precision.

    oneDNN has no bfloat16 kernel for the gradient of its input. It falls back to a kernel for dense convolutions, which
    is 20 to 40 times as slow as float32. In MobileNetV2 these four layers took half of a training step
    (docs/performance.md).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor] = super()._conv_forward
        if input.device.type != "cpu" or not input.requires_grad:
            return convolve(input, weight, bias)
        autocast = torch.is_autocast_enabled("cpu") and input.dtype != torch.float64  # autocast ignores float64
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        if dtype not in (torch.bfloat16, torch.float16):
            return convolve(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return convolve(input.float(), weight.float(), None if bias is None else bias.float()).to(dtype)


def quicken(module: nn.Module) -> None:
    """Make ``module`` train faster on a CPU, with the same weights under the same names.

    Depthwise convolutions with a stride become ``StridedDepthwise``. Activations whose gradient needs their input stop
    working in place, which saves a copy of that input. Only activations that follow a layer of a ``Sequential`` change,
    because no other code can rely on the overwritten input there.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and 1 < part.groups == part.in_channels and max(part.stride) > 1:
            part.__class__ = StridedDepthwise
        elif isinstance(part, nn.Sequential):
            for after in list(part)[1:]:
                if isinstance(after, nn.Hardtanh | nn.Hardswish | nn.SiLU):
                    after.inplace = False
