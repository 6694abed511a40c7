"""Settings written so that they can be pasted: quoted for Hydra, and for the shell around it."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9_/\-+.%@:]+( [A-Za-z0-9_/\-+.%@:]+)*")  # text that Hydra reads as itself
_OTHER_KINDS = re.compile(r"(true|false|null|nan|inf|[+-]?[\d._]+(e[+-]?\d+)?)", re.IGNORECASE)


def as_text(text: str) -> str:
    """Return ``text`` in double quotes, as Hydra's grammar escapes it; the shell's single quotes fit around them."""
    escaped = re.sub(r'(\\*)"', lambda match: match[1] * 2 + '\\"', text)
    return '"' + re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped) + '"'


def value(content: Any) -> str:
    """Return a value as Hydra reads it: text in quotes where these are needed, and a list in brackets."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return f"[{','.join(value(item) for item in content)}]"
    if content is None or isinstance(content, bool | int | float):
        return "null" if content is None else str(content).lower()
    text = str(content)
    return text if _PLAIN.fullmatch(text) and not _OTHER_KINDS.fullmatch(text) else as_text(text)


def setting(key: str, content: Any) -> str:
    """Return ``key=content`` ready to be pasted into a command."""
    return argument(f"{key}={value(content)}")


def argument(text: object) -> str:
    """Return one argument, such as a path, ready to be pasted into a command.

    Text with an apostrophe stands in double quotes if these leave it as it is.
    """
    plain = str(text)
    if "'" in plain and not re.search(r'["$`!\n]|\\\\|\\$', plain):
        return f'"{plain}"'
    return shlex.quote(plain)
