"""Broken images: the error that names an image, and ``dataset.on_corrupt``, which leaves such images out by name."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import UnidentifiedImageError

from metrad.errors import InputError, first_line

_FILE = "corrupt.json"


class CorruptImageError(InputError):
    """An image cannot be decoded.

    Args:
        message: the error with its advice, for a dataset.
        reason: why the image cannot be decoded.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def corrupt_image(name: str, cause: Exception) -> CorruptImageError:
    """Return the error for the image ``name`` (a path or number) whose decoder raised ``cause``."""
    reason = first_line(cause)
    if isinstance(cause, UnidentifiedImageError):
        reason = "not an image of a format and pixel type that is read"
    return CorruptImageError(
        f"{name} cannot be read as an image ({reason}); replace or remove it, "
        "or set dataset.on_corrupt=skip to leave such files out",
        reason,
    )


class BrokenImages:
    """The broken images of a source.

    Args:
        skip: leave broken images out; otherwise the first one is an error.

    Attributes:
        messages: error message of each broken image, by position.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.messages: dict[int, str] = {}

    def note(self, position: int, error: CorruptImageError) -> None:
        """Record the broken image at ``position``.

        Raises:
            CorruptImageError: ``error``, if broken images are not skipped.
        """
        if not self.skip:
            raise error
        self.messages[position] = str(error)


def save_messages(messages: dict[int, str], folder: Path) -> None:
    """Write the messages of broken images into ``folder``."""
    (folder / _FILE).write_text(json.dumps(messages), encoding="utf-8")


def load_messages(folder: Path) -> dict[int, str]:
    """Return the messages that ``save_messages`` wrote into ``folder``."""
    saved = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return {int(position): message for position, message in saved.items()}


def names_left_out(messages: dict[int, str], names: Sequence[str]) -> list[str]:
    """Return the names of the broken images, in the order of the source."""
    return [names[position] for position in sorted(messages)]
