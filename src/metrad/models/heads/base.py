"""The contract of all heads, and the base of heads on cosines between embeddings and class weights."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from metrad.errors import InputError
from metrad.models.heads.angular import at_least_float32, cosines

HARDLY = 0.01  # share of the images, or of a range; a setting that acts on less is said to have hardly an effect


class Head(nn.Module, ABC):
    """A layer that is trained with the embedder and dropped afterwards.

    A call takes embeddings (N, in_features) and integer labels (N,). It returns the mean loss and the logits
    (N, num_classes) that the loss is computed from. Logits are float32, or float64 for float64 embeddings, even under
    autocast. All state is in parameters and buffers.

    Attributes:
        min_classes: smallest number of classes that the head can be trained on.
        why_min_classes: reason for that number, for the error message.

    Raises:
        InputError: there are fewer classes than ``min_classes``, embeddings have another width, or a label is out of
            range.
    """

    min_classes: ClassVar[int] = 2
    why_min_classes: ClassVar[str] = "with one class there is nothing to tell apart"

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < self.min_classes:
            frozen = "train no head: experiment=frozen, or experiment=inspect for a folder of good images"
            way_out = "choose head=arcface" if num_classes >= Head.min_classes else frozen
            raise InputError(
                f"head {type(self).__name__} needs at least {self.min_classes} classes, reference and normal together, "
                f"got {num_classes}: {self.why_min_classes}; add classes to dataset.reference, or {way_out}"
            )
        self.in_features = in_features
        self.num_classes = num_classes

    @abstractmethod
    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the logits (N, num_classes) without margin, which predict a class."""

    @abstractmethod
    def class_cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosine of each embedding with each class, (N, num_classes), for the statistics."""

    @abstractmethod
    def multiplier(self, embeddings: Tensor) -> Tensor:
        """Return the factor from cosines to logits; it broadcasts with (N, num_classes)."""

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the logits (N, num_classes) for the loss; heads with a margin override this."""
        return self.logits(embeddings)

    def loss(self, embeddings: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the mean loss, by default the cross-entropy of the logits."""
        return F.cross_entropy(logits, labels)

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss (a scalar) and the logits (N, num_classes) that it is computed from."""
        self._check(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            logits = self.training_logits(embeddings, labels)
            return self.loss(embeddings, labels, logits), logits

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return sums over embeddings (N, in_features) with labels (N,), which show whether settings have an effect.

        By default there are none. The head stays unchanged.
        """
        return {}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return a sentence for each setting that had no effect in training, or hardly any.

        Args:
            shares: the sums of ``reach``, divided by the number of images.
        """
        return []

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}"

    def _check(self, embeddings: Tensor, labels: Tensor) -> None:
        name = type(self).__name__
        if embeddings.ndim != 2 or embeddings.shape[1] != self.in_features:
            raise InputError(f"head {name} takes embeddings (N, {self.in_features}), got {tuple(embeddings.shape)}")
        # A compiled graph cannot read the labels' values; there the cross-entropy itself rejects wrong ones.
        if not torch.compiler.is_compiling() and labels.device.type == "cpu" and len(labels):
            lowest, highest = int(labels.min()), int(labels.max())
            if lowest < 0 or highest >= self.num_classes:
                raise InputError(f"head {name} takes labels 0 to {self.num_classes - 1}, got {lowest} to {highest}")


class CosineHead(Head):
    """A head on s·cos θ_j, where θ_j is the angle between an embedding and the weight of class j.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, factor of the cosines before softmax.
        sub_centers: K, weights per class; the largest of the K cosines counts. Source: sub-center ArcFace, Deng 2020
            (ECCV).
    """

    scale: Tensor

    def __init__(self, in_features: int, num_classes: int, *, scale: float, sub_centers: int = 1) -> None:
        super().__init__(in_features, num_classes)
        require_positive("scale", scale)
        if sub_centers < 1:
            raise InputError(f"head.sub_centers must be at least 1, got {sub_centers}")
        self.sub_centers = sub_centers
        self.weight = nn.Parameter(torch.empty(num_classes * sub_centers, in_features))
        self.register_buffer("scale", torch.tensor(float(scale)))
        nn.init.xavier_uniform_(self.weight)

    def class_cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosine with the nearest centre of each class, (N, num_classes)."""
        cosine = cosines(embeddings, self.weight)
        if self.sub_centers == 1:
            return cosine
        # For its gradient, max stores the positions of the largest values, but amax stores its whole input.
        nearest: Tensor = cosine.unflatten(1, (-1, self.sub_centers)).max(dim=2).values
        return nearest

    def multiplier(self, embeddings: Tensor) -> Tensor:
        """Return s by default."""
        return self.scale

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return s·cos θ_j for every class, (N, num_classes)."""
        return self.multiplier(embeddings) * self.class_cosines(embeddings)

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return s·cos θ_j with the margin applied to the true class, (N, num_classes)."""
        cosine = self.class_cosines(embeddings)
        true = labels[:, None]
        with_margin = self.with_margin(cosine.gather(1, true), embeddings)
        return self.multiplier(embeddings) * cosine.scatter(1, true, with_margin)

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return how often each centre of a class (C, K) was the nearest to an image of that class."""
        if self.sub_centers == 1:
            return {}
        cosine = cosines(embeddings, self.weight).unflatten(1, (-1, self.sub_centers))
        nearest = cosine[torch.arange(len(labels), device=labels.device), labels].argmax(dim=1)
        counts = cosine.new_zeros(self.num_classes, self.sub_centers)
        return {"nearest": counts.index_put((labels, nearest), cosine.new_ones(()), accumulate=True)}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return whether one centre a class would have done."""
        if "nearest" not in shares or 1 - float(shares["nearest"].amax(dim=1).sum()) >= HARDLY:
            return []
        return [
            f"head.sub_centers={self.sub_centers} had hardly an effect: in each class one centre was nearest to nearly "
            "all images"
        ]

    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        """Return the value that replaces cos θ_y, (N, 1); cos θ_y itself by default."""
        return cosine


def require_positive(name: str, value: float) -> None:
    """Raise ``InputError`` unless the setting ``head.name`` is a finite number above 0."""
    if not 0 < value < math.inf:
        raise InputError(f"head.{name} must be a number greater than 0, got {value}")


def require_angle(name: str, value: float) -> None:
    """Raise ``InputError`` unless the setting ``head.name`` is a valid margin, an angle from 0 to π/2."""
    if not 0 <= value <= math.pi / 2:
        raise InputError(f"head.{name} must lie in 0 to π/2 radians, got {value}")


def gathered(values: Tensor) -> Tensor:
    """Return ``values`` (n, …) of all ranks, concatenated in rank order, without gradient."""
    values = values.detach()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    ranks = dist.get_world_size()
    lengths = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(ranks)]
    dist.all_gather(lengths, torch.tensor([len(values)], device=values.device))
    longest = max(int(length) for length in lengths)
    padded = torch.cat([values, values.new_zeros(longest - len(values), *values.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])
