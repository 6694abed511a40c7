"""Files: atomic writes, reads and writes with one-line errors, and SHA-256 checks."""

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrad.errors import InputError, MetradError, WriteError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEAL = "sha256"
_ADVICE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of files, as by: ulimit -f unlimited",
    errno.EROFS: "choose a directory on another disk",
    errno.EACCES: "choose a directory that you may write to",
    errno.EPERM: "choose a directory that you may write to",
    errno.EIO: "the disk may be broken; choose a directory on another disk",
    errno.ENOENT: "make its folder first",
    errno.EISDIR: "give a file and not a folder",
    errno.ENOTDIR: "a part of its path is a file; choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# The errors of torch and safetensors, which write without Python.
_NOT_WRITTEN = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|iostream error|Error while serializing")
_CODE = re.compile(r"\(os error (\d+)\)")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` if the block succeeds."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        with writing(path):
            yield partial
            partial.replace(path)
    except WriteError as error:  # of a file in a folder that is written
        raise WriteError(str(error).replace(str(partial), str(path))) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ``WriteError``, which names ``path``, where the disk refuses what the block writes to ``path``."""
    try:
        yield
    except MetradError:
        raise
    except Exception as error:
        refusal = _refusal(error, path)
        if refusal is None:
            raise
        raise WriteError(f"{path} cannot be written: {refusal}") from error


def _refusal(error: Exception, path: Path) -> str | None:
    """Return why the disk refused to write ``path``, and what to do; None if the error is another one."""
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError):
        if code not in _ADVICE or not _concerns(error.filename, path):
            return None
    elif _NOT_WRITTEN.search(str(error)):
        said = _CODE.search(str(error))
        code = int(said[1]) if said else None
    else:
        return None
    if code not in _ADVICE:
        return f"the disk is full, or files may not grow that large; {_ADVICE[errno.ENOSPC]}"
    return f"{os.strerror(code)}; {_ADVICE[code]}"


def _concerns(name: Any, path: Path) -> bool:
    """Return whether an error on the file ``name`` is about ``path``, a folder above it or a temporary file for it."""
    if not isinstance(name, str | bytes | os.PathLike):  # an error while writing has no file name
        return name is None
    found = Path(os.fsdecode(name))
    ours = found.is_relative_to(path) or path.is_relative_to(found)
    return ours or any(part.startswith(f".{path.name}.") for part in found.parts)


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


def overwrite_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON over the file at ``path``, which works on a full disk too, but is not atomic."""
    with path.open("r+", encoding="utf-8") as file:
        file.write(json.dumps(content, ensure_ascii=False) + "\n")
        file.truncate()


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
