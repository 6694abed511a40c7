"""Cosine heads with a fixed scale: what differs between them is the margin on the true class."""

import math
from typing import ClassVar

from torch import Tensor

from metrad.angular import adacos_scale, add_angular_margin
from metrad.errors import InputError
from metrad.heads.base import CosineHead


class ArcFace(CosineHead):
    """Additive angular margin: s·cos(θ_y + m) for the true class, s·cos θ_j for the others.

    Source: Deng 2019, arXiv 1801.07698.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, what the cosines are multiplied by.
        margin: m in radians, from 0 to π/2.
    """

    def __init__(self, in_features: int, num_classes: int, *, scale: float = 30.0, margin: float = 0.05) -> None:
        super().__init__(in_features, num_classes, scale=scale)
        if not 0 <= margin <= math.pi / 2:
            raise InputError(f"head.margin must lie in 0 to π/2 radians, got {margin}")
        self.margin = margin

    def with_margin(self, cosine: Tensor) -> Tensor:
        """Return cos(θ_y + m)."""
        return add_angular_margin(cosine, self.margin)


class AdaCos(CosineHead):
    """Cosine softmax at the fixed scale s̃ = √2·ln(C - 1), which leaves nothing to tune.

    Source: Zhang 2019, arXiv 1905.00292, the fixed variant.

    Args:
        in_features: width of the embeddings.
        num_classes: C, reference and normal classes together; at least 3.
    """

    min_classes: ClassVar[int] = 3
    why_min_classes: ClassVar[str] = "its scale √2·ln(C - 1) is 0 for two classes, so nothing would be learnt"

    def __init__(self, in_features: int, num_classes: int) -> None:
        scale = adacos_scale(num_classes) if num_classes >= self.min_classes else 1.0  # too few: refused by the base
        super().__init__(in_features, num_classes, scale=scale)
