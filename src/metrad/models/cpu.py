"""How memory is handed out while training and embedding on a CPU."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride, whose gradients a CPU computes in float32 where the rest is in bfloat16.

    oneDNN has no kernel of its own for the gradient of its input in bfloat16 and takes one for dense convolutions, 20
    to 40 times as slow as float32: the four of MobileNetV2 were half of a training step (docs/performance.md).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor] = super()._conv_forward
        if input.device.type != "cpu" or not input.requires_grad:
            return convolve(input, weight, bias)
        autocast = torch.is_autocast_enabled("cpu") and input.dtype != torch.float64  # which it leaves alone
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        if dtype not in (torch.bfloat16, torch.float16):
            return convolve(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return convolve(input.float(), weight.float(), None if bias is None else bias.float()).to(dtype)


def quicken(module: nn.Module) -> None:
    """Have ``module`` train faster on a CPU, with the same weights under the same names.

    Depthwise convolutions with a stride become ``StridedDepthwise``. Activations whose gradient needs their input no
    longer work in place, for which torch copies that input first; those alone that follow another layer of a
    ``Sequential``, where nothing else can mean their input.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and 1 < part.groups == part.in_channels and max(part.stride) > 1:
            part.__class__ = StridedDepthwise
        elif isinstance(part, nn.Sequential):
            for after in list(part)[1:]:
                if isinstance(after, nn.Hardtanh | nn.Hardswish | nn.SiLU):
                    after.inplace = False
