"""Losses of pytorch-metric-learning as heads."""

import inspect
from typing import Any

import torch
from torch import Tensor

from metrad.errors import InputError
from metrad.models.heads.angular import SHORTEST, cosines, embedding_lengths, unit
from metrad.models.heads.base import Head, gathered


class PytorchMetricLearning(Head):
    """A pair, proxy or classification loss of pytorch-metric-learning (extra: pml).

    These losses have no logits. The head's logits are the cosines with the running mean of each class's embeddings,
    which serve accuracy and statistics, not the loss. The loss's own parameters, such as proxies, are parameters of
    this module.

    Args:
        in_features: width of the embeddings; passed to losses that take ``embedding_size``.
        num_classes: reference and normal classes together; passed to losses that take ``num_classes``.
        loss: class name in ``pytorch_metric_learning.losses``.
        loss_args: further settings of the loss.

    Raises:
        InputError: there is no such loss, or it rejects its settings.
    """

    centres: Tensor

    def __init__(
        self, in_features: int, num_classes: int, *, loss: str, loss_args: dict[str, Any] | None = None
    ) -> None:
        from pytorch_metric_learning import losses

        super().__init__(in_features, num_classes)
        known = [name for name, value in vars(losses).items() if inspect.isclass(value)]
        if loss not in known:
            raise InputError(
                f"head.loss={loss} is no loss of pytorch-metric-learning; choose one of {', '.join(sorted(known))}"
            )
        make = getattr(losses, loss)
        sizes = {"num_classes": num_classes, "embedding_size": in_features}
        # Some losses pass the sizes to a parent class through **kwargs.
        taken = {name for kind in make.__mro__ for name in inspect.signature(kind.__init__).parameters}
        accepted = {name: value for name, value in sizes.items() if name in taken}
        try:
            self.criterion = make(**accepted, **(loss_args or {}))
        except (TypeError, ValueError) as error:
            raise InputError(f"head.loss_args={loss_args} do not suit {loss} ({str(error).splitlines()[0]})") from error
        self.register_buffer("centres", torch.zeros(num_classes, in_features))

    def class_cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosine with the running mean of each class, (N, num_classes)."""
        return cosines(embeddings, self.centres)

    def multiplier(self, embeddings: Tensor) -> Tensor:
        """Return 1, because the losses apply their own scale."""
        return embeddings.new_ones(())

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the same cosines; the class of the nearest mean is predicted."""
        return self.class_cosines(embeddings)

    def training_logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the same cosines, without gradient. In training mode the class means are updated first."""
        if self.training:
            every, classes = gathered(unit(embeddings)), gathered(labels)
            self.centres.mul_(0.9).index_add_(0, classes, 0.1 * every.to(self.centres.dtype))
        return self.logits(embeddings).detach()

    def loss(self, embeddings: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the loss of the embeddings.

        Embeddings shorter than ``angular.SHORTEST`` have no reliable direction and get no gradient. The losses' own
        normalisation would give them a gradient of up to 1e12.
        """
        points = embedding_lengths(embeddings) >= SHORTEST
        try:
            value: Tensor = self.criterion(torch.where(points, embeddings, embeddings.detach()), labels)
        except (NotImplementedError, TypeError, ValueError) as error:
            name = type(self.criterion).__name__
            raise InputError(f"head.loss={name} cannot train from labels ({' '.join(str(error).split())})") from error
        return value
