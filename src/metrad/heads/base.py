"""What every head shares: the contract, and the cosine between embeddings and class weights."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrad.angular import at_least_float32, cosines
from metrad.errors import InputError


class Head(nn.Module, ABC):
    """A layer that is trained with the embedder and dropped afterwards.

    A head is called with embeddings (N, in_features) and integer labels (N,) and returns the mean cross-entropy and
    the logits (N, num_classes) it was taken of. Logits are float32, or float64 for float64 embeddings, whatever
    autocast says. All state lives in parameters and buffers.

    Raises:
        InputError: fewer classes than ``min_classes``, the smallest number that the head can tell apart.
    """

    min_classes: ClassVar[int] = 2
    why_min_classes: ClassVar[str] = "with one class there is nothing to tell apart"

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < self.min_classes:
            raise InputError(
                f"head {type(self).__name__} needs at least {self.min_classes} classes, reference and normal together, "
                f"got {num_classes}: {self.why_min_classes}; add classes to dataset.reference or choose another head"
            )
        self.in_features = in_features
        self.num_classes = num_classes

    @abstractmethod
    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the logits (N, num_classes) without margin: those that predict a class."""

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the logits (N, num_classes) that the loss is taken of; a margin goes here."""
        return self.logits(embeddings)

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy (a scalar) and the logits (N, num_classes) it was taken of."""
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = self.training_logits(at_least_float32(embeddings), labels)
            return F.cross_entropy(logits, labels), logits

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}"


class CosineHead(Head):
    """A head on s·cos θ_j, the angle between embedding and class weight, both normalised per vector.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, what the cosines are multiplied by before softmax.
    """

    scale: Tensor

    def __init__(self, in_features: int, num_classes: int, *, scale: float) -> None:
        super().__init__(in_features, num_classes)
        if not scale > 0:
            raise InputError(f"head.scale must be greater than 0, got {scale}")
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.register_buffer("scale", torch.tensor(float(scale)))
        nn.init.xavier_uniform_(self.weight)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return s·cos θ_j for every class, (N, num_classes)."""
        return self.scale * cosines(embeddings, self.weight)

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return s·cos θ_j with the margin put on the true class, (N, num_classes)."""
        cosine = cosines(embeddings, self.weight)
        is_true = F.one_hot(labels, self.num_classes).bool()
        return self.scale * torch.where(is_true, self.with_margin(cosine), cosine)

    def with_margin(self, cosine: Tensor) -> Tensor:
        """Return what stands in the place of cos θ_y for the true class; the plain cosine unless a head differs."""
        return cosine
