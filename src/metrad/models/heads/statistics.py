"""Statistics of a head over an epoch, with the same meaning for every head."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from metrad.models.heads.angular import angles, at_least_float32
from metrad.models.heads.base import Head

ANGLE_QUANTILES = {"angle_q05": 0.05, "angle_q25": 0.25, "angle_median": 0.5, "angle_q75": 0.75, "angle_q95": 0.95}


class HeadStatistics(Metric):
    """Scale, angles, cosines and accuracy, collected batch by batch since the last reset.

    ``scale`` is the mean factor between cosine and logit. ``angle_…`` are quantiles of θ_y in degrees.
    ``largest_wrong_cosine`` is the mean over images of the largest cos θ_j with j ≠ y. ``accuracy`` is the share of
    images whose largest logit without margin is that of the true class.
    """

    full_state_update = False
    scales: list[Tensor]
    true_cosines: list[Tensor]
    wrong_cosines: list[Tensor]
    right: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("scales", "true_cosines", "wrong_cosines", "right"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, head: Head, embeddings: Tensor, labels: Tensor) -> None:
        """Collect the values of embeddings (N, D) with labels (N,), without gradient and without changing the head."""
        with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            cosine, true = head.class_cosines(embeddings), labels[:, None]
            self.scales.append(head.multiplier(embeddings).mean().expand(len(labels)))
            self.true_cosines.append(cosine.gather(1, true)[:, 0])
            self.wrong_cosines.append(cosine.scatter(1, true, -1).amax(dim=1))
            self.right.append(head.logits(embeddings).argmax(dim=1) == labels)

    def compute(self) -> dict[str, float]:
        """Return the statistics by name."""
        degrees = angles(joined(self.true_cosines)).rad2deg().cpu().numpy()
        quantiles = {name: float(np.quantile(degrees, q)) for name, q in ANGLE_QUANTILES.items()}
        return {
            "scale": float(joined(self.scales).mean()),
            **quantiles,
            "largest_wrong_cosine": float(joined(self.wrong_cosines).mean()),
            "accuracy": float(joined(self.right).float().mean()),
        }


def joined(values: list[Tensor] | Tensor) -> Tensor:
    """Return ``values`` in one tensor; with several ranks torchmetrics has joined them already."""
    return values if isinstance(values, Tensor) else torch.cat(values)
