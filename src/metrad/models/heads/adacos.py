"""AdaCos and its variants: the scale follows from the class count or from the training batches.

An adaptive scale is state, updated on each training batch without gradient. Batch statistics are gathered over all
ranks first, so that every rank holds the same state.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from metrad.models.heads.angular import (
    angles,
    cosines,
)
from metrad.models.heads.base import HARDLY, CosineHead, gathered

# For well separated classes ln B_avg can be 0 or negative. With such a scale softmax is flat or inverted.
SMALLEST_SCALE = 0.1


def adacos_scale(num_centres: int) -> float:
    """Return the fixed scale of AdaCos, s̃ = √2 · ln(C - 1), which is 0 for C = 2.

    Source: Zhang 2019, arXiv 1905.00292.

    Args:
        num_centres: C, the number of classes, or of all centres if a class has several.
    """
    return math.sqrt(2) * math.log(num_centres - 1)


def dynamic_scale(log_b_avg: Tensor, true_angles: Tensor) -> Tensor:
    """Return the adaptive scale of AdaCos for one batch, s_t = ln B_avg / cos(min(π/4, θ_med)).

    Source: Zhang 2019, arXiv 1905.00292.

    Args:
        log_b_avg: ln B_avg, a scalar.
        true_angles: θ_y of each embedding, (N,).
    """
    return log_b_avg / true_angles.quantile(0.5).clamp_max(math.pi / 4).cos()


class AdaCos(CosineHead):
    """Cosine softmax with the fixed scale s̃ = √2·ln(C - 1), so that no scale needs tuning.

    Source: Zhang 2019, arXiv 1905.00292, the fixed variant.

    Args:
        in_features: width of the embeddings.
        num_classes: C, reference and normal classes together; at least 3.
        sub_centers: K, weights per class; the scale does not depend on K.
    """

    min_classes: ClassVar[int] = 3
    why_min_classes: ClassVar[str] = "its scale √2·ln(C - 1) is 0 for two classes, so nothing would be learnt"

    def __init__(self, in_features: int, num_classes: int, *, sub_centers: int = 1) -> None:
        # With too few classes the base class raises; until then, the scale must be a number.
        scale = adacos_scale(max(num_classes, self.min_classes))
        super().__init__(in_features, num_classes, scale=scale, sub_centers=sub_centers)


class DynamicAdaCos(AdaCos):
    """AdaCos with a scale that adapts to each batch: s_t = ln B_avg / cos(min(π/4, θ_med)).

    B_avg is the mean over the batch of Σ_{j≠y} exp(s_{t-1} cos θ_j), and θ_med the median of θ_y. The scale starts at
    √2·ln(C - 1) and never falls below 0.1.
    Source: Zhang 2019, arXiv 1905.00292.

    Args:
        in_features: width of the embeddings.
        num_classes: C, reference and normal classes together; at least 3.
        sub_centers: K, weights per class.
    """

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return s_t·cos θ_j, (N, num_classes). In training mode the scale is updated first."""
        cosine = self.class_cosines(embeddings)
        if self.training:
            true = labels[:, None]
            others = (self.scale * cosine.detach()).scatter(1, true, -math.inf)
            update_scale(self.scale, others.logsumexp(dim=1), cosine.gather(1, true)[:, 0])
        return self.scale.clone() * cosine

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the sums of ``CosineHead``, and the number of images if the scale is the smallest."""
        return {**super().reach(embeddings, labels), **at_smallest_scale(self.scale, len(labels))}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return also whether the scale was the smallest throughout."""
        return [*super().without_effect(shares), *held_at_smallest_scale(shares)]


class SubClusterAdaCos(CosineHead):
    """AdaCos with K centres per class: softmax over all C·K centres, probabilities summed over each class's centres.

    The fixed scale is √2·ln(C·K - 1). For the adaptive scale, B_avg sums over all centres, also those of the true
    class. θ_y is the angle to the nearest centre of the true class. The author's code instead sums the angles to
    all K centres. For K > 1 that sum exceeds π/4 for every batch, so the cut-off of θ_med always applies.
    Source: Wilkinghoff 2021 (IJCNN), Sub-Cluster AdaCos.

    Args:
        in_features: width of the embeddings.
        num_classes: C, reference and normal classes together; C·K must be at least 3.
        sub_centers: K, centres per class.
        adaptive: adapt the scale to each batch.
    """

    why_min_classes: ClassVar[str] = "its scale √2·ln(C·K - 1) is 0 for two centres, so nothing would be learnt"

    def __init__(self, in_features: int, num_classes: int, *, sub_centers: int = 16, adaptive: bool = False) -> None:
        self.min_classes = 2 if sub_centers > 1 else 3  # type: ignore[misc] # the rule counts centres
        scale = adacos_scale(max(num_classes * sub_centers, 3))
        super().__init__(in_features, num_classes, scale=scale, sub_centers=sub_centers)
        self.adaptive = adaptive

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the logarithm of Σ_k exp(s·cos θ_{j,k}) for every class, (N, num_classes)."""
        return self._summed(self.scale.clone() * cosines(embeddings, self.weight))

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the same logits. In training mode an adaptive scale is updated first."""
        cosine = cosines(embeddings, self.weight)
        if self.training and self.adaptive:
            nearest = cosine.unflatten(1, (-1, self.sub_centers)).amax(dim=2).gather(1, labels[:, None])
            update_scale(self.scale, (self.scale * cosine).logsumexp(dim=1), nearest[:, 0])
        return self._summed(self.scale.clone() * cosine)

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the number of images if an adaptive scale is the smallest.

        The nearest centres tell nothing here, since all centres take part in the loss.
        """
        return at_smallest_scale(self.scale, len(labels)) if self.adaptive else {}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return whether an adaptive scale was the smallest throughout, or the centres of each class are the same."""
        found = held_at_smallest_scale(shares)
        centres = self.weight.detach().unflatten(0, (-1, self.sub_centers))
        alike = torch.cosine_similarity(centres, centres.mean(dim=1, keepdim=True), dim=2).amin()
        if self.sub_centers > 1 and alike > 1 - HARDLY / 10:
            found.append(
                f"head.sub_centers={self.sub_centers} had an effect on the scale alone: the centres of each class "
                "point the same way"
            )
        return found

    def _summed(self, logits: Tensor) -> Tensor:
        summed: Tensor = logits.unflatten(1, (-1, self.sub_centers)).logsumexp(dim=2)
        return summed


def at_smallest_scale(scale: Tensor, images: int) -> dict[str, Tensor]:
    """Return ``images`` as a sum of ``Head.reach`` if ``scale`` is the smallest, else 0."""
    return {"smallest_scale": (scale <= SMALLEST_SCALE).float() * images}


def held_at_smallest_scale(shares: dict[str, Tensor]) -> list[str]:
    """Return a sentence if the scale was the smallest for nearly all images of a training."""
    if "smallest_scale" not in shares or float(shares["smallest_scale"]) <= 1 - HARDLY:
        return []
    return [f"the adaptive scale of the head stayed at its least, {SMALLEST_SCALE}, so it adapted to nothing"]


def update_scale(scale: Tensor, log_b: Tensor, true_cosine: Tensor) -> None:
    """Update the buffer ``scale`` from the batch of all ranks; keep it if the result is not finite.

    Args:
        scale: s_{t-1}; becomes s_t, at least ``SMALLEST_SCALE``.
        log_b: logarithm of each embedding's sum in B_avg, (N,).
        true_cosine: cos θ_y of each embedding, (N,).
    """
    log_b = gathered(log_b)
    log_b_avg = log_b.logsumexp(dim=0) - math.log(len(log_b))
    wanted = dynamic_scale(log_b_avg, angles(gathered(true_cosine))).clamp_min(SMALLEST_SCALE)
    scale.copy_(torch.where(wanted.isfinite(), wanted, scale))
