"""Batch normalisation over the batch of all ranks, on the CPU too; torch's ``SyncBatchNorm`` needs a GPU."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from metrad import collectives


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of the gradients over all ranks."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        summed = values.clone()
        if collectives.several():
            dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())  # type: ignore[no-any-return] # apply has no annotation


class RankBatchNorm(AnyBatchNorm):
    """Batch normalisation (N, C, …) with the mean and variance of the images of all ranks."""

    @classmethod
    def like(cls, other: AnyBatchNorm) -> "RankBatchNorm":
        """Return a ``RankBatchNorm`` that shares the parameters and buffers of ``other``."""
        made = cls(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        share(other, made)
        return made.train(other.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``input`` in its own precision; sums are computed in float32 or float64."""
        if not self.training and self.running_mean is not None:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        with torch.autocast(input.device.type, enabled=False):
            values = input.to(torch.promote_types(input.dtype, torch.float32))
            others, shape = [i for i in range(values.ndim) if i != 1], (1, -1, *[1] * (values.ndim - 2))
            count = _Sum.apply(values.new_tensor(values.numel() / values.shape[1]))
            mean = _Sum.apply(values.sum(others)) / count
            away = values - mean.view(shape)
            variance = _Sum.apply(away.square().sum(others)) / count
            if self.running_mean is not None:
                self._remember(mean, variance * count / (count - 1))
            normal = away * (variance + self.eps).rsqrt().view(shape)
            if self.weight is not None:
                normal = normal * self.weight.view(shape) + self.bias.view(shape)
            output: Tensor = normal.to(input.dtype)
            return output

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class RankBatchNorms(TorchSyncBatchNorm):
    """Lightning's plugin that puts ``RankBatchNorm`` in the place of every batch normalisation while training."""

    def __init__(self) -> None:
        self.replaced: list[tuple[nn.Module, str, AnyBatchNorm]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace every batch normalisation inside ``model``; ``model`` itself must not be one."""
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, AnyBatchNorm):
                    setattr(module, name, RankBatchNorm.like(child))
                    self.replaced.append((module, name, child))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Restore the original layers, with the parameters and buffers of their replacements."""
        for module, name, original in self.replaced:
            share(getattr(module, name), original)
            setattr(module, name, original)
        self.replaced.clear()
        return model


def share(source: nn.Module, target: nn.Module) -> None:
    """Make ``target`` use the same parameter and buffer objects as ``source``."""
    for name, parameter in source.named_parameters(recurse=False):
        setattr(target, name, parameter)
    for name, buffer in source.named_buffers(recurse=False):
        setattr(target, name, buffer)
