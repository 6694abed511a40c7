"""Several sources as one, such as normal images of one dataset and anomalous ones of another."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from metrad.data.decoding import Decoded, Reading
from metrad.data.joined_arrays import Joined
from metrad.data.sources import Source, kept_size
from metrad.data.torchvision_sources import open_source
from metrad.errors import InputError


class JoinedSources(Source):
    """Several sources, each with a name. Classes and images have it in front: ``mnist/7 - seven``, ``mnist/test/12``.

    The first source decides about parts, since it has the normal images. If it has a test part, a later source keeps
    its own, or belongs to the test part as a whole. If the first source has none, no source has one.

    Args:
        sources: the factory of each source, by its name.
        size: height and width in pixels that images are kept at; null for the size that all sources have, or else
            for the input size of the model.

    Raises:
        InputError: a name cannot be used, or a source cannot be opened.
    """

    def __init__(self, sources: Mapping[str, Any], *, size: int | None = None) -> None:
        for name in sources:
            if not isinstance(name, str) or name != name.strip() or not name or "/" in name:
                raise InputError(f"dataset.source.sources: {name!r} is no name; write a word, without /")
        if not sources:
            raise InputError("dataset.source.sources must be sources by name, as in {parts: {_target_: …, root: …}}")
        self.sources = {name: _opened(name, factory) for name, factory in sources.items()}
        parts = list(self.sources.values())
        self._starts = np.cumsum([0, *(len(one.labels) for one in parts)])
        offsets = np.cumsum([0, *(len(one.classes) for one in parts)])
        self.classes = self._prefixed("classes")
        self.names = self._prefixed("names")
        self.labels = np.concatenate([one.labels + first for one, first in zip(parts, offsets, strict=False)])
        self.in_test_part = _in_test_part(parts)
        self.columns = self._columns()
        self.left_out = dict(sum((Counter(one.left_out) for one in parts), Counter()))
        self.named = any(one.named for one in parts)
        self.threads = any(one.threads for one in parts)
        self.pixels = _pixels(parts)
        sizes = {one.size for one in parts}
        self.size = kept_size(size) or (sizes.pop() if len(sizes) == 1 else None)
        kinds = {name: (type(one).__qualname__, one.identity) for name, one in self.sources.items()}
        self.identity = None if any(one.identity is None for one in parts) else tuple(kinds.items())

    def _prefixed(self, attribute: str) -> list[str]:
        return [f"{name}/{text}" for name, one in self.sources.items() for text in getattr(one, attribute)]

    def _columns(self) -> dict[str, list[str]]:
        """Return the columns of all sources. A text has the name of its source in front, so that no group joins two."""
        wanted = dict.fromkeys(column for one in self.sources.values() for column in one.columns)
        return {
            column: [
                f"{name}/{text}" if text else ""
                for name, one in self.sources.items()
                for text in one.columns.get(column, [""] * len(one.labels))
            ]
            for column in wanted
        }

    @property
    def reading(self) -> Reading:
        """How image files are read."""
        return next(iter(self.sources.values())).reading

    @reading.setter
    def reading(self, reading: Reading) -> None:
        for one in self.sources.values():
            one.reading = reading

    def read(self, position: int) -> Decoded:
        """Return the image at ``position`` as its source does."""
        one, own = self._place(position)
        return one.read(own)

    def size_of(self, position: int) -> tuple[int, int]:
        """Return the width and height of the image at ``position`` as its source does."""
        one, own = self._place(position)
        return one.size_of(own)

    def _place(self, position: int) -> tuple[Source, int]:
        """Return the source of an image and the position there."""
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        return list(self.sources.values())[number], position - int(self._starts[number])


def _opened(name: str, factory: Any) -> Source:
    if not isinstance(factory, partial):
        raise InputError(f"dataset.source.sources.{name} must be a source, with _target_ and its settings")
    try:
        return open_source(factory)
    except InputError as error:
        raise InputError(str(error).replace("dataset.source", f"dataset.source.sources.{name}")) from error


def _in_test_part(sources: list[Source]) -> np.ndarray | None:
    if sources[0].in_test_part is None:
        return None
    whole = [np.ones(len(one.labels), dtype=bool) if one.in_test_part is None else one.in_test_part for one in sources]
    return np.concatenate(whole)


def _pixels(sources: list[Source]) -> Joined | None:
    """Return the images of all sources, if each holds them in memory, and in one size and number of channels."""
    arrays: list[np.ndarray] = []
    for one in sources:
        if one.pixels is None:
            return None
        arrays += one.pixels.arrays if isinstance(one.pixels, Joined) else [one.pixels]
    return Joined(arrays) if len({array.shape[1:] for array in arrays}) == 1 else None
