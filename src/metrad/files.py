"""Files: atomic writes, reads with one-line errors, and SHA-256 checks."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrad.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEAL = "sha256"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` if the block succeeds."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_all(contents: Mapping[Path, Any]) -> None:
    """Write files in the given order, each atomically.

    Args:
        contents: content by path: rows for ``.csv``, plain values for ``.json``, a figure for ``.png``.
    """
    writers: dict[str, Callable[[Path, Any], None]]
    writers = {".csv": write_rows, ".json": write_json, ".png": write_picture}
    for path, content in contents.items():
        writers[path.suffix](path, content)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``rows`` as CSV, atomically. All rows must have the same keys."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_picture(path: Path, figure: "Figure") -> None:
    """Write ``figure`` as PNG, atomically."""
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a file's name; scores.csv has it whole
        figure.savefig(partial, pil_kwargs={"compress_level": 1})  # a fifth faster than level 6


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({str(error).splitlines()[0]})") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file at ``path`` as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_unchanged(path: Path, digest: str) -> None:
    """Raise ``InputError`` unless the file at ``path`` exists and has the SHA-256 ``digest``."""
    try:
        found = sha256(path)
    except OSError as error:
        raise InputError(_unreadable(path, error)) from error
    if found != digest:
        raise InputError(_changed(path))


def sealed(record: dict[str, Any]) -> str:
    """Return ``record`` as JSON text that includes its own checksum; ``unsealed`` verifies it."""
    digest = hashlib.sha256(_text(record).encode()).hexdigest()
    return _text({**record, _SEAL: digest})


def unsealed(path: Path) -> dict[str, Any]:
    """Return the record in the file at ``path``, whose text ``sealed`` made.

    Raises:
        InputError: the file is missing, or a byte of it has changed.
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
    return f"{path} is not the file that was saved: its checksum differs; copy or create it again"


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} is missing" if isinstance(error, FileNotFoundError) else f"{path} cannot be read ({error.strerror})"
