"""The option ``--group`` of the commands: a word, a pattern, or a mapping in braces for running numbers."""

from collections.abc import Mapping
from typing import Any

import yaml

from metrad.data.groups import Pattern
from metrad.errors import InputError

OPTION = "--group"
FORM = r"{pattern: 'num_(?P<number>\d+)', gap: 60}"  # of a mapping, for manuals and messages


def read(text: str) -> str | dict[str, Any]:
    """Return a mapping where ``text`` is one in braces, as YAML reads it; else ``text``.

    Raises:
        InputError: ``text`` begins with a brace and is no mapping.
    """
    if not text.startswith("{"):
        return text
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unreadable(text) from error
    if not isinstance(content, dict):
        raise _unreadable(text)
    return {str(key): each for key, each in content.items()}


def pattern(text: str) -> str | Pattern:
    """Return what ``read`` returns, with a mapping as a checked pattern.

    Raises:
        InputError: as for ``read``, or a setting of the mapping cannot be used.
    """
    content = read(text)
    if isinstance(content, str):
        return content
    _require_settings(content)
    try:
        return Pattern(**content)
    except InputError as error:
        raise InputError(str(error).replace("dataset.group", OPTION)) from error


def _require_settings(content: Mapping[str, Any]) -> None:
    unknown = [name for name in content if name not in ("pattern", "gap", "size")]
    if unknown:
        raise InputError(f"{OPTION}: {unknown[0]} is no setting of groups; allowed are pattern, gap and size")
    if not isinstance(content.get("pattern"), str):
        raise InputError(f"{OPTION}: pattern must be a regular expression, got {content.get('pattern')}; as in {FORM}")
    if type(content.get("gap", 1)) is not int:
        raise InputError(f"{OPTION}: gap must be a whole number, got {content['gap']}")
    if content.get("size") is not None and type(content["size"]) not in (int, float):
        raise InputError(f"{OPTION}: size must be a number, such as 0.1, or null, got {content['size']}")


def _unreadable(text: str) -> InputError:
    return InputError(f"{OPTION} {text} cannot be read; write a pattern, or {FORM}")
