"""The embedder and head of a saved detector, built at their first use, so that loading a detector takes no torch."""

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from metrad.detector.bundle import Bundle

if TYPE_CHECKING:  # importing this file must not import torch
    from metrad.models.embedder import Embedder
    from metrad.models.heads import Head


class SavedBackend:
    """Builds embedder and head from a bundle, each at its first use.

    Args:
        opened: the bundle.
        allow: packages, such as ``mine``, whose classes may be built besides metrad's own.
    """

    def __init__(self, opened: Bundle, allow: Sequence[str] = ()) -> None:
        self.opened = opened
        self.allow = allow
        self._building = threading.RLock()  # two threads build neither part twice

    @property
    def embedder(self) -> "Embedder":
        """The embedder with its trained weights, in evaluation mode.

        Raises:
            InputError: the weights do not fit the blueprint.
        """
        with self._building:
            return self._embedder

    @property
    def head(self) -> "Head":
        """The head with its trained weights, in evaluation mode.

        Raises:
            InputError: the weights do not fit the blueprint.
        """
        with self._building:
            return self._head

    @cached_property
    def _embedder(self) -> "Embedder":
        from metrad.detector.torch_backend import load_embedder

        return load_embedder(self.opened, self.allow)

    @cached_property
    def _head(self) -> "Head":
        from metrad.detector.torch_backend import load_head

        return load_head(self.opened, self.allow, self.embedder.out_features)
