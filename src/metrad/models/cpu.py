"""Speed on a CPU: memory reused between steps, layers with faster gradients, and layers that overwrite their input."""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

# Parameters of mallopt, as numbered in glibc's malloc.h. Their defaults are those of its documentation.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 2**20
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


class OverwritingBatchNorm(nn.BatchNorm2d):
    """A batch normalisation that overwrites its input when a CPU only infers, with the same values.

    Fresh memory for each result took a tenth of a forward pass of MobileNetV2. The layer before it must return a tensor
    of its own, as a convolution does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input`` (N, C, h, w), in its memory if it will not be needed any more."""
        if self.training or not torch.is_inference_mode_enabled() or self.running_mean is None:
            return super().forward(input)
        if input.device.type != "cpu" or input.dtype != self.running_mean.dtype:
            return super().forward(input)
        self._check_input_dim(input)
        statistics = self.weight, self.bias, self.running_mean, self.running_var
        unused = input.new_empty(0), input.new_empty(0)
        torch.native_batch_norm(input, *statistics, False, 0.0, self.eps, out=(input, *unused))
        return input


def quicken(module: nn.Module) -> None:
    """Make ``module`` faster on a CPU, with the same weights under the same names and the same values.

    Depthwise convolutions with a stride become ``StridedDepthwise``, and batch normalisations right after a convolution
    become ``OverwritingBatchNorm``. Activations whose gradient needs their input stop working in place, which saves a
    copy of that input; ``overwrite`` turns it on again. Only layers that follow a layer of a ``Sequential`` change,
    because no other code can rely on the overwritten input there.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and 1 < part.groups == part.in_channels and max(part.stride) > 1:
            part.__class__ = StridedDepthwise
        elif isinstance(part, nn.Sequential):
            for before, after in pairwise(part):
                if isinstance(after, _ACTIVATIONS):
                    vars(after)["overwrites"] = after.inplace
                    after.inplace = False
                elif type(after) is nn.BatchNorm2d and isinstance(before, nn.Conv2d):
                    after.__class__ = OverwritingBatchNorm


def overwrite(module: nn.Module, on: bool) -> None:
    """Let activations that ``quicken`` stopped from working in place do so again, or stop them."""
    for part in module.modules():
        if isinstance(part, _ACTIVATIONS) and getattr(part, "overwrites", False):
            part.inplace = on
