"""Files: atomic writes with one-line errors, SHA-256 checks, and the strict reader of everything that is stored.

The strict reader takes only regular files of bounded size: a FIFO or a device in place of a file would make a reader
wait for ever or grow without bound. What it reads may come from elsewhere, so every fault is an ``InputError``.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrad.errors import InputError, MetradError, WriteError, first_line

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

TEXT_BYTES = 2**28  # largest JSON or CSV file that is read, about two million image names
DEPTH = 40  # deepest nesting of JSON that is read
_SPARSE_BYTES = 2**30  # a file of at least this size must not consist of holes
_SEAL = "sha256"
_AGAIN = "copy or create it again"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
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
_SHOWN_PATH = 200  # characters of a path in an error
_MISTAKEN = {errno.ENOTDIR, errno.ENAMETOOLONG}  # the path is wrong, and not the disk
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
        with contextlib.suppress(NotADirectoryError):  # the folder of ``path`` is a file, as the error says
            remove(partial)


def remove(path: Path) -> None:
    """Remove the file, link or folder at ``path`` if there is one. A link is removed, and never what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def in_words(error: OSError) -> str | None:
    """Return an error of the system on a file as one line: the path, the reason and what to do; None for other errors.

    A long path is cut in the middle.
    """
    if error.errno is None or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    path = os.fsdecode(error.filename)
    short = path if len(path) <= _SHOWN_PATH else f"{path[: _SHOWN_PATH // 2]}…{path[-_SHOWN_PATH // 2 :]}"
    advice = {**_ADVICE, errno.EEXIST: "something else lies there; move it away or choose another path"}
    return f"{short}: {os.strerror(error.errno)}; {advice.get(error.errno, 'check that path')}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ``WriteError``, which names ``path``, where the disk refuses what the block writes to ``path``.

    A path that can be no file is an ``InputError``.
    """
    try:
        yield
    except MetradError:
        raise
    except Exception as error:
        refusal = _refusal(error, path)
        if refusal is None:
            raise
        mistaken = isinstance(error, OSError) and error.errno in _MISTAKEN
        raise (InputError if mistaken else WriteError)(f"{path} cannot be written: {refusal}") from error


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
        partial.write_bytes(json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return ``content`` as ``write_json`` writes it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


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


def follow_umask(path: Path) -> None:
    """Give the file or folder at ``path`` the permissions of a new one, which safetensors and tempfile do not."""
    umask = os.umask(0o077)  # the only portable way to read it; another thread's new file is private meanwhile
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


@contextlib.contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[io.BufferedReader]:
    """Open the regular file at ``path`` for reading, without waiting for one that would never answer.

    Args:
        path: the file.
        most: largest allowed size in bytes; None for any size.

    Raises:
        InputError: the file is missing, is no regular file, is larger than ``most``, or consists of holes.
    """
    handle = _handle(path)
    with open(handle, "rb") as file:  # noqa: PTH123 - it is open already
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise InputError(f"{path} is no regular file any more; copy or create it again")
        if most is not None and state.st_size > most:
            raise InputError(f"{path} has {state.st_size:,} bytes, and at most {most:,} are read; create it again")
        if state.st_size >= _SPARSE_BYTES and _data_bytes(handle, state.st_size) < state.st_size // 8:
            raise InputError(f"{path} claims {state.st_size:,} bytes but consists of holes; copy or create it again")
        yield file


def require_file(path: Path) -> None:
    """Raise ``InputError`` unless a library may open ``path`` by its name; see ``opened``."""
    with opened(path):
        pass


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """Return the content of the regular file at ``path``, which has at most ``most`` bytes.

    Raises:
        InputError: as for ``opened``, or the file cannot be read.
    """
    with opened(path, most) as file:
        try:
            return file.read(most)
        except OSError as error:
            raise _unreadable(path, error) from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    return json_of(read_bytes(path), path)


def json_of(data: bytes, path: Path) -> Any:
    """Return the content of the JSON file at ``path`` from its bytes.

    Raises:
        InputError: the bytes are no JSON in UTF-8, or nest deeper than ``DEPTH``.
    """
    try:
        text = data.decode("utf-8")
        content = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # half of a surrogate pair cannot be written or printed
            json.dumps(content, ensure_ascii=False).encode()
        deep = _deeper(content, DEPTH)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({first_line(error)}); {_AGAIN}") from error
    if deep:
        raise InputError(f"{path} cannot be read as JSON (it nests deeper than {DEPTH} levels); {_AGAIN}")
    return content


def read_rows(path: Path, columns: Mapping[str, Callable[[str], Any]]) -> list[dict[str, Any]]:
    """Return the rows of a CSV file that has exactly ``columns``, as values of their types.

    Raises:
        InputError: the file is missing, has other columns, a row of another length, or a cell of another type.
    """
    return rows_of(read_bytes(path), path, columns)


def rows_of(data: bytes, path: Path, columns: Mapping[str, Callable[[str], Any]]) -> list[dict[str, Any]]:
    """Return the rows of the CSV file at ``path`` from its bytes; see ``read_rows``."""
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
        head = next(lines, [])
        if head != list(columns):
            raise InputError(f"{path} must have the columns {', '.join(columns)}, and has {', '.join(head)[:200]}")
        rows = [{name: kind(cell) for (name, kind), cell in zip(columns.items(), line, strict=True)} for line in lines]
    except InputError:
        raise
    except (ValueError, csv.Error) as error:  # not UTF-8, a row of another length, or no number
        raise InputError(f"{path} cannot be read as CSV ({first_line(error)})") from error
    return rows


def read_arrays(path: Path) -> "dict[str, np.ndarray]":
    """Return the arrays of a safetensors file by name.

    Raises:
        InputError: the file is missing or is no safetensors file.
    """
    from safetensors import numpy as safetensors

    require_file(path)
    try:
        return dict(safetensors.load_file(path))
    except Exception as error:  # safetensors' own errors share no base, and a type that numpy lacks is a KeyError
        raise InputError(f"{path} cannot be read as arrays ({first_line(error)}); create it again") from error


def require_inside(folder: Path, path: Path) -> None:
    """Raise ``InputError`` if ``path``, which is below ``folder``, is a link that leads out of ``folder``."""
    try:
        leads_out = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links
        raise InputError(f"{path} cannot be read ({first_line(error)})") from error
    if leads_out:
        raise InputError(f"{path} is a link that leads out of {folder}; put a copy of the file in its place")


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file at ``path`` as 64 hexadecimal digits.

    Raises:
        InputError: as for ``opened``.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_unchanged(path: Path, digest: str) -> None:
    """Raise ``InputError`` unless the file at ``path`` exists and has the SHA-256 ``digest``."""
    if sha256(path) != digest:
        raise changed(path)


def sealed(record: dict[str, Any]) -> str:
    """Return ``record`` as JSON text that includes its own checksum; ``unsealed`` verifies it."""
    digest = hashlib.sha256(_text(record).encode()).hexdigest()
    return _text({**record, _SEAL: digest})


def unsealed(path: Path) -> dict[str, Any]:
    """Return the record in the file at ``path``, whose text ``sealed`` made.

    Raises:
        InputError: the file is missing, or a byte of it has changed.
    """
    text = read_bytes(path)
    try:
        record = json.loads(text)
        record.pop(_SEAL)
        whole = sealed(record).encode() == text and not _deeper(record, DEPTH)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise changed(path)
    return dict(record)


def checksums(record: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return the checksums by file name that the unsealed ``record`` of the file at ``path`` lists as ``files``.

    Raises:
        InputError: it lists none, or a name leads out of the record's folder.
    """
    files = record.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise InputError(f"{path} lists no checksums of files; create it again")
    for name in files:
        if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
            raise InputError(f"{path} lists {name!r}, which is no name of a file beside it; create it again")
    return files


def changed(path: Path) -> InputError:
    """Return the error that the file at ``path`` is not the file that was saved."""
    return InputError(f"{path} is not the file that was saved: its checksum differs; copy or create it again")


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def _deeper(content: Any, levels: int) -> bool:
    """Return whether lists and mappings in ``content`` nest deeper than ``levels``."""
    nodes = [content]
    for _ in range(levels + 1):
        nodes = [
            child
            for node in nodes
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not nodes:
            return False
    return True


def _handle(path: Path) -> int:
    """Return a descriptor of the regular file at ``path``; ``os.open`` alone would wait for the writer of a FIFO."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        handle = None
        if kind == stat.S_IFREG:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if handle is None:
        raise InputError(f"{path} cannot be read: it is {_KINDS.get(kind, 'a device')}, not a file; {_AGAIN}")
    return handle


def _data_bytes(handle: int, size: int) -> int:
    """Return how many bytes of an open file are stored, at least; the rest are holes, which read as zeros."""
    if not hasattr(os, "SEEK_DATA"):
        return size
    end, found = 0, 0
    try:
        while found < size // 8 and end < size:
            start = os.lseek(handle, end, os.SEEK_DATA)
            end = os.lseek(handle, start, os.SEEK_HOLE)
            found += end - start
    except OSError as error:  # ENXIO: no data after ``end``; anything else: this file system cannot tell
        return found if error.errno == errno.ENXIO else size
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
    return found


def _unreadable(path: Path, error: OSError | ValueError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path} is missing; {_AGAIN}")
    return InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or first_line(error)}); {_AGAIN}")
