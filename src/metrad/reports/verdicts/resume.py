"""What a table of verdicts was made with, in a file beside it, so that only the same detector goes on with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrad.errors import InputError
from metrad.files import read_json, write_json
from metrad.quoting import argument
from metrad.reports.verdicts import tables


def beside(path: Path) -> Path:
    """Return the file beside the table at ``path`` that records what it was made with."""
    return path.with_name(f"{path.name}.json")


def begin(path: Path, made_with: Mapping[str, Any]) -> None:
    """Record what the new table at ``path`` is made with."""
    write_json(beside(path), dict(made_with))


def there(path: Path) -> Path | None:
    """Return the file with the rows of the table at ``path`` so far; None if there is none."""
    return next((each for each in (tables.growing(path), path) if each.exists() or each.is_symlink()), None)


def require_new(path: Path) -> None:
    """Raise ``InputError`` if there is a table at ``path``."""
    found = there(path)
    if found is not None:
        raise InputError(
            f"--out: {found} exists; add --resume to keep its rows and score only the other images, or give another "
            "file"
        )


def require_same(path: Path, made_with: Mapping[str, Any]) -> None:
    """Check that the table at ``path`` was made with the same detector and settings.

    Raises:
        InputError: it was not, or this is not recorded.
    """
    note = beside(path)
    if not note.exists():
        raise InputError(
            f"--resume: {note} is missing, which records the detector that {path} was made with; give another --out"
        )
    before = read_json(note)
    if not isinstance(before, dict):
        raise InputError(f"--resume: {note} does not record what {path} was made with; give another --out")
    for name, value in made_with.items():
        if name not in before or before[name] != value:
            raise InputError(
                f"--resume: {path} was made with {name} {before.get(name)!s:.80}, and this call has {value!s:.80}; "
                f"call it as before, or without --resume with another --out than {argument(path)}"
            )
