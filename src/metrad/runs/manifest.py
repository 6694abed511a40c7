"""The manifest of a finished run: the checksum of each file in its directory that something reads."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from metrad.errors import InputError
from metrad.files import changed, replacing, sealed, sha256, unsealed

NAME = "manifest.json"
FORMAT = 1


def write(path: Path, files: Iterable[Path], coming: Mapping[str, bytes]) -> None:
    """Write the manifest ``path`` of ``files`` below its folder, and of files with the contents ``coming``."""
    listed = {file.relative_to(path.parent).as_posix(): sha256(file) for file in files}
    listed |= {name: hashlib.sha256(data).hexdigest() for name, data in coming.items()}
    save(path, listed)


def save(path: Path, listed: Mapping[str, str]) -> None:
    """Write the manifest ``path`` of files by their names, relative to its folder, and their checksums."""
    with replacing(path) as partial:
        partial.write_text(sealed({"format": FORMAT, "files": dict(listed)}), encoding="utf-8")


def listed(path: Path) -> dict[str, str]:
    """Return the checksums in the manifest ``path``, by file name relative to its folder.

    Raises:
        InputError: the manifest is missing, has changed, or is of another format.
    """
    record = unsealed(path)
    if record.get("format") != FORMAT or not isinstance(record.get("files"), dict):
        raise InputError(f"{path} has format {record.get('format')!r}, and this version of metrad reads {FORMAT}")
    return dict(record["files"])


def require(path: Path, data: bytes, digest: str | None) -> None:
    """Raise ``InputError`` unless ``data``, the content of the file at ``path``, has the SHA-256 ``digest``."""
    if digest is None:
        raise InputError(f"{path} is not in {NAME}, so it is no file of this run; move it away")
    if hashlib.sha256(data).hexdigest() != digest:
        raise changed(path)
