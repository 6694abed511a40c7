"""The methods behind ``Finetuning``: slower early layers, fixed batch statistics, distillation, weight averaging."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metrad.errors import InputError
from metrad.models.embedder import Embedder

NEARLY_ALL = 0.9  # share of the parameters; a child with a larger share is a container of blocks, not a block


def parameter_groups(embedder: Embedder, head: nn.Module, layer_decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Return groups of parameters to train, each with its factor on the learning rate.

    The head comes first, then the blocks of the backbone from last to first. A block whose factor is 0 is frozen.

    Raises:
        InputError: ``layer_decay`` is not 1 and the backbone has a single block.
    """
    parts = blocks(embedder.backbone)
    if len(parts) < 2 and layer_decay != 1:
        raise InputError(
            f"finetuning.layer_decay={layer_decay:g} takes a backbone of several blocks, and {len(parts)} was found in "
            f"{type(embedder.backbone).__name__}; set finetuning.layer_decay=1"
        )
    groups = [(list(head.parameters()), 1.0)]
    share = 1.0
    for block in reversed(parts):
        if share > 0:
            groups.append(([parameter for parameter in block if parameter.requires_grad], share))
        else:
            for parameter in block:
                parameter.requires_grad_(False)
        share *= layer_decay
    return [group for group in groups if group[0]]


def blocks(module: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of a backbone by block, in order, at any depth of nesting.

    Each child of ``module`` is a block. A child that holds nearly all parameters is replaced by its own blocks. The
    module's own parameters form the first block. A norm after a last block of several layers belongs to that block.
    """
    children = [child for child in module.children() if next(child.parameters(), None) is not None]
    own = list(module.parameters(recurse=False))
    found = [own] if own else []
    for child in children:
        most = _size(child) > NEARLY_ALL * _size(module)
        found += blocks(child) if most else [list(child.parameters())]
    if len(children) > 1 and _is_norm(children[-1]) and list(children[-2].children()):
        closing = found.pop()
        found[-1] += closing
    return found


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_norm(module: nn.Module) -> bool:
    return not list(module.children()) and all(parameter.ndim == 1 for parameter in module.parameters())


def freeze_batch_norms(module: nn.Module) -> None:
    """Make batch normalisation in ``module`` use its stored means and variances, and stop updating them."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


class Teacher:
    """A frozen copy of the initial embedder, for distillation.

    The teacher is not a module, so neither checkpoints nor the optimiser contain it.

    Args:
        embedder: embedder to copy.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = copy.deepcopy(embedder).eval().requires_grad_(False)
        self.embedder.test_time_flip = False  # in training, the learner does not embed mirror images

    def loss(self, images: Tensor, embeddings: Tensor) -> Tensor:
        """Return the mean over images of 1 - cos of the angle between ``embeddings`` (N, D) and the teacher's."""
        if self.embedder.mean.device != images.device:
            self.embedder.to(images.device)
        with torch.no_grad():
            wanted = self.embedder(images)
        return (1 - nn.functional.cosine_similarity(embeddings.float(), wanted.float())).mean()


def moving_average(embedder: Embedder, keep: float) -> Any:
    """Return a module that averages an embedder's weights and batch statistics; a step keeps the share ``keep``."""
    average = AveragedModel(embedder, multi_avg_fn=get_ema_multi_avg_fn(keep), use_buffers=True)
    return average.requires_grad_(False).eval()
