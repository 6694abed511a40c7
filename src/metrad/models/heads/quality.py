"""Quality-aware cosine heads: the margin depends on the length of the embedding, a measure of image quality."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metrad.errors import InputError
from metrad.models.heads.angular import add_angle, add_angular_margin, embedding_lengths
from metrad.models.heads.base import HARDLY, CosineHead, gathered, require_angle, require_positive

NARROW = 0.03  # mean deviation of ẑ, which lies in -1 to 1; 0.27 is that of normally distributed lengths and h = 1/3


class AdaFace(CosineHead):
    """Margin by image quality: cos(θ_y + g_angle) - g_add, both from the embedding's standardised length ẑ.

    g_angle = -m·ẑ and g_add = m·ẑ + m, where ẑ = (‖x‖ - μ)/σ·h is clipped to ±1, and μ and σ are running over batches.
    The angle is clipped to [0, π], so the value never increases with θ_y.
    Source: Kim 2022, arXiv 2204.00964.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, factor of the cosines.
        margin: m.
        concentration: h, the value of ẑ at one standard deviation.
        momentum: weight of a batch in the running mean and standard deviation.
        sub_centers: K, weights per class.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 64.0,
        margin: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.01,
        sub_centers: int = 1,
    ) -> None:
        super().__init__(in_features, num_classes, scale=scale, sub_centers=sub_centers)
        require_angle("margin", margin)
        require_positive("concentration", concentration)
        if not 0 < momentum <= 1:
            raise InputError(f"head.momentum must lie above 0 and at most at 1, got {momentum}")
        self.margin = margin
        self.concentration = concentration
        self.momentum = momentum
        self.register_buffer("mean", torch.tensor(20.0))  # the authors' starting values
        self.register_buffer("std", torch.tensor(100.0))

    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        """Return cos(θ_y + g_angle) - g_add, (N, 1)."""
        z = self.standardised(cut_lengths(embeddings.detach()))
        return shifted(cosine, -self.margin * z) - (self.margin * z + self.margin)

    def standardised(self, lengths: Tensor) -> Tensor:
        """Return ẑ of lengths (N, 1). In training mode the running mean and deviation are updated first."""
        if self.training:
            every = gathered(lengths)
            spread = every.std() if len(every) > 1 else self.std
            self.mean.lerp_(every.mean(), self.momentum)
            self.std.lerp_(spread, self.momentum)
        return self._clipped(lengths)

    def _clipped(self, lengths: Tensor) -> Tensor:
        return ((lengths - self.mean) / (self.std + 1e-3) * self.concentration).clamp(-1, 1)

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the sums of ``CosineHead``, and those of |ẑ - mean ẑ| and of ẑ."""
        z = self._clipped(cut_lengths(embeddings))
        return {**super().reach(embeddings, labels), "deviation": (z - z.mean()).abs().sum(), "z": z.sum()}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return also whether all images had nearly the same margin."""
        found, z = super().without_effect(shares), float(shares["z"])
        settings = f"head.concentration={self.concentration:g} and head.momentum={self.momentum:g}"
        if self.margin == 0:
            found.append(f"head.margin=0 is no margin, so {settings} have no effect")
        elif float(shares["deviation"]) < NARROW:
            found.append(
                f"{settings} had hardly an effect: the standardised lengths lay within {shares['deviation']:.2g} of "
                f"their mean {z:.2g}, of -1 to 1, so the margin was fixed, {-self.margin * z:.2g} radians and "
                f"{self.margin * (1 + z):.2g} off the cosine"
            )
        return found


class MagFace(CosineHead):
    """Margin by length: cos(θ_y + m(a)), where m grows with a = ‖x‖, and a regulariser that favours long embeddings.

    m(a) rises linearly from l_m at length l_a to u_m at length u_a. The loss adds λ·mean(1/a + a/u_a²).
    Source: Meng 2021, arXiv 2103.06627.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        scale: s, factor of the cosines.
        lengths: l_a and u_a, the range that lengths are clipped to.
        margins: l_m and u_m in radians, the margins at both ends of that range.
        regulariser: λ, weight of the regulariser.
        sub_centers: K, weights per class.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 64.0,
        lengths: tuple[float, float] = (10.0, 110.0),
        margins: tuple[float, float] = (0.45, 0.8),
        regulariser: float = 35.0,
        sub_centers: int = 1,
    ) -> None:
        super().__init__(in_features, num_classes, scale=scale, sub_centers=sub_centers)
        for margin in margins:
            require_angle("margins", margin)
        if not (0 < lengths[0] < lengths[1] and margins[0] <= margins[1]):
            raise InputError(
                f"head.lengths must rise from above 0 and head.margins must not fall, got {lengths} and {margins}"
            )
        if not regulariser >= 0:
            raise InputError(f"head.regulariser must be at least 0, got {regulariser}")
        self.lengths = lengths
        self.margins = margins
        self.regulariser = regulariser

    def with_margin(self, cosine: Tensor, embeddings: Tensor) -> Tensor:
        """Return cos(θ_y + m(a)), (N, 1)."""
        (lowest, highest), (least, most) = self.lengths, self.margins
        margin = least + (most - least) / (highest - lowest) * (self.cut_lengths(embeddings) - lowest)
        return add_angular_margin(cosine, margin)

    def reach(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the sums of ``CosineHead``, and how many lengths lie below, within and above the range."""
        lengths, (lowest, highest) = embedding_lengths(embeddings), self.lengths
        below, above = (lengths <= lowest).float().sum(), (lengths >= highest).float().sum()
        return {**super().reach(embeddings, labels), "below": below, "within": len(labels) - below - above}

    def without_effect(self, shares: dict[str, Tensor]) -> list[str]:
        """Return also whether the head was ArcFace, because hardly a length lay within the range."""
        found = super().without_effect(shares)
        (least, most), (lowest, highest) = self.margins, self.lengths
        if least == most and self.regulariser == 0:
            found.append(f"head.lengths={list(self.lengths)} have no effect, with equal margins and head.regulariser=0")
        elif float(shares["within"]) < HARDLY:
            below = float(shares["below"])
            above = max(0.0, 1 - below - float(shares["within"]))
            found.append(
                f"head.lengths={list(self.lengths)} were out of reach: {below:.0%} of the embeddings were at most "
                f"{lowest:g} long and {above:.0%} at least {highest:g}, so MagFace was ArcFace with head.margin="
                f"{least if below > above else most:g}, and head.regulariser={self.regulariser:g} had no gradient"
            )
        return found

    def loss(self, embeddings: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the mean cross-entropy plus λ·mean(g(a))."""
        a = self.cut_lengths(embeddings)
        return F.cross_entropy(logits, labels) + self.regulariser * (1 / a + a / self.lengths[1] ** 2).mean()

    def cut_lengths(self, embeddings: Tensor) -> Tensor:
        """Return a = ‖x‖ clipped to its range, (N, 1)."""
        return embedding_lengths(embeddings).clamp(*self.lengths)


def cut_lengths(embeddings: Tensor) -> Tensor:
    """Return ‖x‖ of embeddings (N, D) clipped to 0.001 to 100, (N, 1), as AdaFace takes it."""
    return embedding_lengths(embeddings).clamp(1e-3, 100)


def shifted(cosine: Tensor, angle: Tensor) -> Tensor:
    """Return cos(θ + angle) with θ + angle clipped to [0, π], for angles from -π/2 to π/2; the gradient is finite."""
    below_zero = (angle < 0) & (cosine > angle.cos())
    past_end = (angle > 0) & (cosine < -angle.cos())
    return torch.where(below_zero, 1.0, torch.where(past_end, -1.0, add_angle(cosine, angle)))
