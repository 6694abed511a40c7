"""Text on its way to a terminal or a log: control characters are escaped, and secret values replaced."""

import logging
import re
from collections.abc import Mapping

# Control characters but for tab and line feed, marks that change the direction of writing, and broken file names.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return ``text`` with each character that controls a terminal written as an escape, such as ``\x1b``.

    Names of classes and files, and the content of files, may come from elsewhere. Raw, they could recolour the
    terminal, overwrite lines or set its title.
    """
    return _CONTROLS.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def hide(text: str, secrets: Mapping[str, str]) -> str:
    """Return ``text`` with each value among the keys of ``secrets`` replaced, longer values first."""
    for value in sorted(secrets, key=len, reverse=True):
        text = secrets[value].join(re.split(rf"(?<!\w){re.escape(value)}(?!\w)", text))
    return text


class Formatter(logging.Formatter):
    """Formats log records for a terminal.

    Attributes:
        secrets: what to write in place of secret values.
    """

    secrets: Mapping[str, str] = {}

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of ``record``."""
        return printable(hide(super().format(record), self.secrets))
