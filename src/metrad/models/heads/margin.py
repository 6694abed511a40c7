"""Cosine heads with a fixed scale; they differ in the margin on the true class."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from metrad.errors import InputError
from metrad.models.heads.angular import (
    add_angle,
    add_angular_margin,
    embedding_lengths,
    multiply_angle,
)
from metrad.models.heads.base import HARDLY, CosineHead, gathered, require_angle

SHORT = 0.1  # for shorter embeddings SphereFace gives every class nearly the same probability


class NormFace(CosineHead):
    """Plain softmax on s·cos θ_j.

    Source: Wang 2017, arXiv 1704.06369.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, factor of the cosines.
        sub_centers: K, weights per class.
    """

    def __init__(self, in_features: int, num_classes: int, *, scale: float = 30.0, sub_centers: int = 1) -> None:
        super().__init__(in_features, num_classes, scale=scale, sub_centers=sub_centers)


class SphereFace(CosineHead):
    """Multiplied angle: ‖x‖·(ψ(θ_y) + λ·cos θ_y)/(1 + λ) for the true class, ‖x‖·cos θ_j for the others.

    At first most angles are near 90°. With ψ alone (λ = 0) the true logit is then so far below the others that the loss
    falls fastest by shortening all embeddings, and nothing is learnt. The authors lower λ from 1000 to 5 during
    training; here λ is constant.
    Source: Liu 2017, arXiv 1704.08063; λ comes from its authors' training code.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        margin: m, factor of the angle, a whole number of at least 1.
        easing: λ, at least 0.
        sub_centers: K, weights per class.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, margin: int = 4, easing: float = 5.0, sub_centers: int = 1
    ) -> None:
        super().__init__(in_features, num_classes, scale=1.0, sub_centers=sub_centers)
        if margin < 1:
            raise InputError(f"head.margin of SphereFace must be a whole number of at least 1, got {margin}")
        if not 0 <= easing < math.inf:
            raise InputError(f"head.easing must be a number of at least 0, got {easing}")
        self.margin = margin
        self.easing = easing

    def multiplier(self, embeddings: Tensor) -> Tensor:
        """Return ‖x‖, (N, 1)."""
        return embedding_lengths(embeddings)

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the sums of ``CosineHead``, and the number of embeddings that are too short for any logit."""
        short = embedding_lengths(embeddings) < SHORT
        return {**super().reach(embeddings, labels), "short": short.float().sum()}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return also whether margin and easing leave each other no effect, or the lengths leave them none."""
        found = super().without_effect(shares)
        if float(shares["short"]) > 1 - HARDLY:
            found.append(
                f"head.margin={self.margin} and head.easing={self.easing:g} had hardly an effect: logits are multiples "
                f"of the length of an embedding, and nearly all embeddings were shorter than {SHORT}"
            )
        if self.margin == 1:
            found.append(f"head.margin=1 is no margin, so head.easing={self.easing:g} has no effect")
        elif self.easing >= 1 / HARDLY - 1:
            found.append(f"head.easing={self.easing:g} leaves head.margin={self.margin} hardly an effect")
        return found

    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        """Return (ψ(θ_y) + λ·cos θ_y)/(1 + λ)."""
        return (multiply_angle(cosine, self.margin) + self.easing * cosine) / (1 + self.easing)


class CosFace(CosineHead):
    """Additive cosine margin: s·(cos θ_y - m) for the true class, s·cos θ_j for the others.

    Source: Wang 2018, arXiv 1801.09414.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, factor of the cosines.
        margin: m, from 0 to 2, the width of the range of a cosine.
        sub_centers: K, weights per class.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, scale: float = 30.0, margin: float = 0.35, sub_centers: int = 1
    ) -> None:
        super().__init__(in_features, num_classes, scale=scale, sub_centers=sub_centers)
        if not 0 <= margin <= 2:
            raise InputError(f"head.margin of CosFace must lie in 0 to 2, got {margin}")
        self.margin = margin

    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        """Return cos θ_y - m."""
        return cosine - self.margin


class ArcFace(CosineHead):
    """Additive angular margin: s·cos(θ_y + m) for the true class, s·cos θ_j for the others.

    Source: Deng 2019, arXiv 1801.07698; for several centres per class, sub-center ArcFace, Deng 2020 (ECCV).

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, factor of the cosines.
        margin: m in radians, from 0 to π/2.
        sub_centers: K, weights per class.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, scale: float = 30.0, margin: float = 0.05, sub_centers: int = 1
    ) -> None:
        super().__init__(in_features, num_classes, scale=scale, sub_centers=sub_centers)
        require_angle("margin", margin)
        self.margin = margin

    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        """Return cos(θ_y + m)."""
        return add_angular_margin(cosine, self.margin)


class CurricularFace(ArcFace):
    """ArcFace in which hard negatives gain weight as training goes on.

    A negative class is hard if cos θ_j > cos(θ_y + m). Its cosine is replaced by cos θ_j·(t + cos θ_j), with t the
    running mean of cos θ_y.
    Source: Huang 2020, arXiv 2004.00288.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, factor of the cosines.
        margin: m in radians, from 0 to π/2.
        sub_centers: K, weights per class.
    """

    t: Tensor
    momentum: ClassVar[float] = 0.99

    def __init__(
        self, in_features: int, num_classes: int, *, scale: float = 64.0, margin: float = 0.5, sub_centers: int = 1
    ) -> None:
        super().__init__(in_features, num_classes, scale=scale, margin=margin, sub_centers=sub_centers)
        self.register_buffer("t", torch.tensor(0.0))

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the logits with margin and re-weighted hard negatives, (N, num_classes)."""
        cosine = self.class_cosines(embeddings)
        true = labels[:, None]
        true_cosine = cosine.gather(1, true)
        if self.training:
            mean = gathered(true_cosine).mean()
            self.t.copy_(self.momentum * self.t + (1 - self.momentum) * mean)
        with_margin = self.with_margin(true_cosine, embeddings)
        hard = cosine > add_angle(true_cosine, torch.as_tensor(self.margin))
        weighted = torch.where(hard, cosine * (self.t.clone() + cosine), cosine)
        return self.scale * weighted.scatter(1, true, with_margin)

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the sums of ``CosineHead``, and the number of images for which another class is hard."""
        cosine, true = self.class_cosines(embeddings), labels[:, None]
        others = cosine.scatter(1, true, -math.inf).amax(dim=1, keepdim=True)
        hard = others > add_angle(cosine.gather(1, true), torch.as_tensor(self.margin))
        return {**super().reach(embeddings, labels), "hard": hard.float().sum()}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return also whether the head was ArcFace, because no class was hard."""
        found = super().without_effect(shares)
        if float(shares["hard"]) < HARDLY:
            found.append(f"CurricularFace was ArcFace with head.margin={self.margin:g}: hardly a class was hard")
        return found
