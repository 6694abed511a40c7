"""Head scorer: anomaly scores from the class outputs of the trained head, a baseline without an index."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np

from metrad.errors import InputError, MetradError
from metrad.scorers.base import Scorer, stored
from metrad.threads import in_blocks, running_a_model

if TYPE_CHECKING:  # the other scorers need no torch
    from torch import Tensor, nn


class NotAttachedError(MetradError, RuntimeError):
    """A scorer that needs the head was used before ``attach``."""


class ClassHead(Protocol):
    """The methods that a head, a torch module, must have for this scorer."""

    def logits(self, embeddings: "Tensor") -> "Tensor":
        """Return the logits (N, C)."""

    def class_cosines(self, embeddings: "Tensor") -> "Tensor":
        """Return the cosine with each class, (N, C)."""


class HeadScorer(Scorer):
    """How little the trained head believes that an embedding belongs to a normal class.

    ``probability``: s(x) = 1 - Σ over normal classes c of p_c(x). It is computed as the sum over the other classes, so
    that images that are normal with near certainty do not tie at 0. In float32, images that are not normal with near
    certainty still tie at 1.
    ``log_odds``: s(x) = ln((1 - p) / p), with p the sum over normal classes above; the same order without ties.
    ``cosine``: s(x) = 1 - max over normal classes c of cos θ_c(x).

    The saved state holds the numbers of the normal classes, but not the head. Call ``attach`` again, before or after
    ``load``.

    Source: Hendrycks & Gimpel 2017, arXiv 1610.02136, with the known normal classes in place of the most likely class.

    Args:
        variant: ``probability``, ``log_odds`` or ``cosine``.
    """

    needs_head: ClassVar[bool] = True

    def __init__(self, *, variant: Literal["probability", "log_odds", "cosine"] = "probability") -> None:
        self.variant = variant
        self.head: Any = None
        self.normal_classes: np.ndarray | None = None
        self.normal_classes_: np.ndarray | None = None

    def attach(self, head: ClassHead, normal_classes: Sequence[int] | np.ndarray) -> Self:
        """Set the trained head and the numbers of its normal classes.

        Raises:
            InputError: ``head`` is no such module, there is no normal class, or the scorer was fitted with other normal
                classes.
        """
        from torch import nn

        if not isinstance(head, nn.Module) or not hasattr(head, "logits") or not hasattr(head, "class_cosines"):
            raise InputError(
                f"scorer HeadScorer takes a module with logits and class_cosines, got {type(head).__name__}"
            )
        numbers = np.unique(np.asarray(normal_classes))
        if numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer) or numbers[0] < 0:
            raise InputError(f"scorer HeadScorer takes the numbers of the normal classes, got {normal_classes}")
        if self.normal_classes_ is not None:
            self._require_same(numbers, self.normal_classes_)
        self.head, self.normal_classes = head, numbers
        return self

    @property
    def fitted_classes(self) -> np.ndarray:
        """Numbers of the normal classes from ``fit`` or ``load``, (K,).

        Raises:
            NotFittedError: neither has been called.
        """
        assert self.fitted_width
        assert self.normal_classes_ is not None
        return self.normal_classes_

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        del classes  # attach sets the head's own class numbers
        self._outputs(normal[:1])
        self.normal_classes_ = self.normal_classes

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        outputs, normal = self._outputs(embeddings)
        if self.variant == "cosine":
            scores = 1 - outputs[:, normal].amax(dim=1)
        else:
            odds = outputs[:, ~normal].logsumexp(dim=1) - outputs[:, normal].logsumexp(dim=1)
            scores = odds if self.variant == "log_odds" else odds.sigmoid()
        result: np.ndarray = scores.cpu().numpy()
        return result

    def _outputs(self, embeddings: np.ndarray) -> "tuple[Tensor, Tensor]":
        """Return the head's outputs, (N, C) float64, and whether each class is normal, (C,)."""
        import torch

        if self.head is None:
            raise NotAttachedError("scorer HeadScorer has no head; call attach with the trained head first")
        first = next(chain(self.head.parameters(), self.head.buffers()), torch.empty(0))
        give = self.head.class_cosines if self.variant == "cosine" else self.head.logits
        with _evaluating(self.head):
            outputs = self._given(give, torch.from_numpy(embeddings).to(first.device))
        numbers = torch.as_tensor(self.normal_classes, device=outputs.device)
        if int(numbers.max()) >= outputs.shape[1] or len(numbers) == outputs.shape[1]:
            raise InputError(
                f"scorer HeadScorer: normal classes {numbers.tolist()} must be some, not all, of the "
                f"{outputs.shape[1]} classes of the head, 0 to {outputs.shape[1] - 1}"
            )
        normal = torch.zeros(outputs.shape[1], dtype=torch.bool, device=outputs.device)
        normal[numbers] = True
        return outputs, normal

    @staticmethod
    def _given(give: "Callable[[Tensor], Tensor]", embeddings: "Tensor") -> "Tensor":
        """Return the float64 outputs of the head, on a CPU the same for an embedding alone and among others."""
        import torch

        def outputs(rows: "Tensor") -> "Tensor":
            with running_a_model(), torch.inference_mode():  # of the thread that calls it
                return give(rows).double()

        if embeddings.device.type != "cpu":
            return outputs(embeddings)
        return torch.from_numpy(in_blocks(lambda rows: outputs(rows).numpy(), embeddings))

    def _state(self) -> dict[str, Any]:
        return {"normal_classes": self.normal_classes_}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        fitted = stored(state, "normal_classes", None, kind="i")
        if self.normal_classes is not None:
            self._require_same(self.normal_classes, fitted)
        self.normal_classes_ = fitted

    def _require_same(self, attached: np.ndarray, fitted: np.ndarray) -> None:
        if not np.array_equal(attached, fitted):
            raise InputError(
                f"scorer HeadScorer was fitted with normal classes {fitted.tolist()}, but the head is attached with "
                f"{attached.tolist()}"
            )


@contextmanager
def _evaluating(head: "nn.Module") -> Iterator[None]:
    """Set the head to evaluation mode without gradient, and restore the mode of each of its modules afterwards."""
    import torch

    modes = {module: module.training for module in head.modules()}
    head.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
