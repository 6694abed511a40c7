"""Checksums of files, so that a changed byte is noticed before a file is used."""

import hashlib
import json
from pathlib import Path
from typing import Any

from metrad.errors import InputError

_SEAL = "sha256"


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file at ``path``, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_unchanged(path: Path, digest: str) -> None:
    """Raise ``InputError`` unless the file at ``path`` is there and has the SHA-256 ``digest``."""
    try:
        found = sha256(path)
    except OSError as error:
        raise InputError(_unreadable(path, error)) from error
    if found != digest:
        raise InputError(_changed(path))


def sealed(record: dict[str, Any]) -> str:
    """Return ``record`` as JSON text that holds its own checksum, for ``unsealed`` to read."""
    digest = hashlib.sha256(_text(record).encode()).hexdigest()
    return _text({**record, _SEAL: digest})


def unsealed(path: Path) -> dict[str, Any]:
    """Return the record that ``sealed`` made the text of the file at ``path`` from.

    Raises:
        InputError: the file is missing, or any byte of it has changed.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(_unreadable(path, error)) from error
    try:
        record = json.loads(text)
        record.pop(_SEAL)
        whole = sealed(record).encode() == text
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise InputError(_changed(path))
    return dict(record)


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def _changed(path: Path) -> str:
    return f"{path} is not the file that was saved: its checksum differs; copy it again or make it anew"


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} is missing" if isinstance(error, FileNotFoundError) else f"{path} cannot be read ({error.strerror})"
