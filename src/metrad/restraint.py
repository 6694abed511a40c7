"""What ``Finetuning`` asks for: slower early layers, held batch statistics, distillation, a moving average."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metrad.embedder import Embedder


def parameter_groups(embedder: Embedder, head: nn.Module, layer_decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Return the parameters to train, each with its share of the learning rate: the head, then from the last block.

    A block that would not learn is frozen.
    """
    groups = [(list(head.parameters()), 1.0)]
    share = 1.0
    for block in reversed(list(blocks(embedder.backbone))):
        parameters = [parameter for parameter in block.parameters() if parameter.requires_grad]
        if share > 0:
            groups.append((parameters, share))
        else:
            block.requires_grad_(False)
        share *= layer_decay
    return [group for group in groups if group[0]]


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a backbone that have parameters, in their order, however deep their common parent lies."""
    children = [child for child in module.children() if next(child.parameters(), None) is not None]
    own = list(module.parameters(recurse=False))
    if len(children) == 1 and not own:
        yield from blocks(children[0])
    elif children and not own:
        yield from children
    else:
        yield module


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
