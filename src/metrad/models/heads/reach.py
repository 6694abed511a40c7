"""The reach of a head's settings: whether the embeddings of a training gave them an effect."""

from typing import Any

import torch
from torch import Tensor

from metrad.models.heads.angular import at_least_float32, embedding_lengths
from metrad.models.heads.base import Head, gathered


class Reach:
    """Collects, batch by batch, the lengths of the embeddings and what ``Head.reach`` returns.

    Attributes:
        images: number of images seen.
        shortest: smallest length of an embedding; infinite at first.
        longest: largest length of an embedding; 0 at first.
        sums: the sums of ``Head.reach`` over all batches.
    """

    def __init__(self) -> None:
        self.images = 0
        self.shortest = torch.tensor(torch.inf)
        self.longest = torch.tensor(0.0)
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, head: Head, embeddings: Tensor, labels: Tensor) -> None:
        """Add embeddings (N, D) with labels (N,), without changing the head."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            lengths = embedding_lengths(embeddings)
            self.images += len(labels)
            self.shortest = torch.minimum(self.shortest.to(lengths), lengths.amin())
            self.longest = torch.maximum(self.longest.to(lengths), lengths.amax())
            for name, value in head.reach(embeddings, labels).items():
                self.sums[name] = self.sums[name].to(value) + value if name in self.sums else value

    def without_effect(self, head: Head) -> list[str]:
        """Return a sentence for each setting of ``head`` without effect, with the lengths seen; over all ranks."""
        if not self.images:
            return []
        images = gathered(self.longest.new_tensor([self.images])).sum()
        shares = {name: gathered(value[None]).sum(dim=0) / images for name, value in self.sums.items()}
        shortest, longest = gathered(self.shortest[None]).amin(), gathered(self.longest[None]).amax()
        lengths = f"lengths of the embeddings in training: {shortest:.3g} to {longest:.3g}"
        return [f"{line} ({lengths})" for line in head.without_effect(shares)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state to keep in a checkpoint."""
        return {"images": self.images, "shortest": self.shortest, "longest": self.longest, "sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.images, self.shortest, self.longest = state["images"], state["shortest"], state["longest"]
        self.sums = dict(state["sums"])
