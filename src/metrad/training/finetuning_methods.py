"""What ``Finetuning`` asks for: slower early layers, held batch statistics, distillation, a moving average."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metrad.errors import InputError
from metrad.models.embedder import Embedder

NEARLY_ALL = 0.9  # of the parameters; in the networks whose blocks lie side by side none holds so many


def parameter_groups(embedder: Embedder, head: nn.Module, layer_decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Return the parameters to train, each with its share of the learning rate: the head, then from the last block.

    A block that would not learn is frozen.

    Raises:
        InputError: the backbone is one block, so that a decay would change nothing.
    """
    parts = blocks(embedder.backbone)
    if len(parts) < 2 and layer_decay != 1:
        raise InputError(
            f"finetuning.layer_decay={layer_decay:g} takes a backbone of several blocks, and {len(parts)} can be told "
            f"apart in {type(embedder.backbone).__name__}; set finetuning.layer_decay=1"
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
    """Return the parameters of a backbone by block, in their order, however deep the blocks' common parents lie.

    Each child of ``module`` is a block; in place of one that holds nearly all parameters stand its own blocks.
    Parameters beside the children come first, as a block. A norm behind the last block of several layers is part of it.
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
    """Have batch normalisation in ``module`` go by its means and variances, which stay as they are."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


class Teacher:
    """The embedder as it came, for distillation. It is no module, and so no part of checkpoints or of what is trained.

    Args:
        embedder: copied.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = copy.deepcopy(embedder).eval().requires_grad_(False)
        self.embedder.test_time_flip = False  # what learns sees each image once

    def loss(self, images: Tensor, embeddings: Tensor) -> Tensor:
        """Return the mean over images of 1 - cos of the angle between ``embeddings`` (N, D) and its own."""
        if self.embedder.mean.device != images.device:
            self.embedder.to(images.device)
        with torch.no_grad():
            wanted = self.embedder(images)
        return (1 - nn.functional.cosine_similarity(embeddings.float(), wanted.float())).mean()


def moving_average(embedder: Embedder, keep: float) -> Any:
    """Return a moving average of an embedder's weights and batch statistics, which nothing trains."""
    average = AveragedModel(embedder, multi_avg_fn=get_ema_multi_avg_fn(keep), use_buffers=True)
    return average.requires_grad_(False).eval()
