"""Speed on a CPU: memory reused between steps, faster gradients, activations in place, and folded normalisations."""

import copy
import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Parameters of mallopt, as numbered in glibc's malloc.h. Their defaults are those of its documentation.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 2**20
M = TypeVar("M", bound=nn.Module)
_ACTIVATIONS = (nn.Hardtanh, nn.Hardswish, nn.SiLU)  # their gradient needs their input


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
    """Make ``module`` faster on a CPU, with the same weights under the same names and the same values.

    Depthwise convolutions with a stride become ``StridedDepthwise``. Activations whose gradient needs their input stop
    working in place, which saves a copy of that input; ``overwrite`` turns it on again. Only activations that follow a
    layer of a ``Sequential`` change, because no other code can rely on the overwritten input there.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and 1 < part.groups == part.in_channels and max(part.stride) > 1:
            part.__class__ = StridedDepthwise
    for part in _sequences(module):
        for after in list(part)[1:]:
            if isinstance(after, _ACTIVATIONS):
                vars(after)["overwrites"] = after.inplace
                after.inplace = False


def overwrite(module: nn.Module, on: bool) -> None:
    """Let activations that ``quicken`` stopped from working in place do so again, or stop them."""
    for part in module.modules():
        if isinstance(part, _ACTIVATIONS) and getattr(part, "overwrites", False):
            part.inplace = on


def folded(module: M) -> M:
    """Return a copy of ``module``, in evaluation mode, whose batch normalisations are part of convolutions.

    This holds for a normalisation right after a convolution in a ``Sequential``, where no other code sees the values in
    between. Results differ by rounding, about 1e-6 of their size; all else is shared with ``module``. A forward pass of
    MobileNetV2 takes two thirds of the time. Without such a pair, ``module`` itself is returned.
    """
    if not any(_pairs(part) for part in _sequences(module)):
        return module
    shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    copied: M = copy.deepcopy(module, shared)
    for part in _sequences(copied):
        for at in _pairs(part):
            convolution, norm = part[at], part[at + 1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            part[at], part[at + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return copied


def _sequences(module: nn.Module) -> list[nn.Sequential]:
    """Return all parts of ``module`` that do nothing but call their layers one after another."""
    parts = [part for part in module.modules() if isinstance(part, nn.Sequential)]
    return [part for part in parts if type(part).forward is nn.Sequential.forward]


def _pairs(part: nn.Sequential) -> list[int]:
    """Return the positions of convolutions right before a batch normalisation that can be folded."""
    return [
        at
        for at, (before, after) in enumerate(pairwise(part))
        if isinstance(before, nn.Conv2d)
        and type(after) is nn.BatchNorm2d
        and after.running_mean is not None
        and not (before.training or after.training)
    ]
