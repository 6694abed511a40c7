"""Heads on inner products: the cross-entropy baseline and its normalised variant."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrad.models.heads.angular import cosines, embedding_lengths, unit
from metrad.models.heads.base import Head, require_positive


class Softmax(Head):
    """Plain cross-entropy on W_j·x + b_j: the baseline.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes)
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.xavier_uniform_(self.weight)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return W_j·x + b_j for every class, (N, num_classes)."""
        return F.linear(embeddings, self.weight.to(embeddings.dtype), self.bias.to(embeddings.dtype))

    def class_cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosine between embedding and W_j, (N, num_classes)."""
        return cosines(embeddings, self.weight)

    def multiplier(self, embeddings: Tensor) -> Tensor:
        """Return ‖x‖·‖W_j‖, (N, num_classes)."""
        lengths: Tensor = torch.linalg.vector_norm(self.weight, dim=1)
        return embedding_lengths(embeddings) * lengths


class L2Softmax(Softmax):
    """Cross-entropy on W_j·(α x/‖x‖) + b_j: embeddings on a sphere of radius α.

    Source: Ranjan 2017, arXiv 1703.09507.

    Args:
        in_features: width of the embeddings.
        num_classes: reference and normal classes together.
        alpha: radius of the sphere.
        learn_alpha: learn the radius, starting at ``alpha``.
    """

    alpha: Tensor

    def __init__(self, in_features: int, num_classes: int, *, alpha: float = 15.0, learn_alpha: bool = False) -> None:
        super().__init__(in_features, num_classes)
        require_positive("alpha", alpha)
        radius = torch.tensor(float(alpha))
        if learn_alpha:
            self.alpha = nn.Parameter(radius)
        else:
            self.register_buffer("alpha", radius)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return W_j·(α x/‖x‖) + b_j for every class, (N, num_classes)."""
        return super().logits(self.alpha * unit(embeddings))

    def multiplier(self, embeddings: Tensor) -> Tensor:
        """Return α·‖W_j‖, (N, num_classes)."""
        return super().multiplier(self.alpha * unit(embeddings))
