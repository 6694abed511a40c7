"""Tables that users write: CSV or JSON Lines, read strictly; every error names the file and the line."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrad.errors import InputError, first_line
from metrad.files import read_bytes

MOST_ROWS = 5_000_000
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Table:
    """The rows of a table, as texts.

    Attributes:
        path: the file.
        lines: for each row the number of the line that it ends in, from 1.
        columns: the cells of each column in the order of the rows; an empty cell is an empty text.
    """

    path: Path
    lines: Sequence[int]
    columns: dict[str, list[str]]

    def rows(self, positions: Sequence[int]) -> "Table":
        """Return the table of the rows at ``positions``."""
        columns = {name: [cells[i] for i in positions] for name, cells in self.columns.items()}
        return Table(self.path, [self.lines[i] for i in positions], columns)

    def refusal(self, position: int, reason: str) -> InputError:
        """Return the error that the row at ``position`` cannot be used for ``reason``."""
        return InputError(f"{self.path} line {self.lines[position]}: {reason}")


def read_table(path: Path, *, numbers: bool = False) -> Table:
    """Return the table in a CSV file, whose first line names the columns, or in a file of JSON objects, one a line.

    Args:
        path: the file.
        numbers: whether the values of JSON may be numbers of any kind, true and false, too.

    Raises:
        InputError: the file is missing, is of another kind, is too large, is not UTF-8, or has no rows; a row has
            other columns than the first; or a value is no text and no whole number.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", *_JSON_LINES):
        raise InputError(f"{path} must be a table whose name ends in .csv or .jsonl")
    text = _text(read_bytes(path), path)
    rows = _json_rows(text, path, numbers) if kind in _JSON_LINES else _csv_rows(text, path)
    first = next(rows, None)
    names = [] if first is None else list(first[1])
    columns: dict[str, list[str]] = {name: [] for name in names}
    lines: list[int] = []
    while first is not None:
        number, cells = first
        if len(lines) == MOST_ROWS:
            raise InputError(f"{path} has more than {MOST_ROWS:,} rows; divide it")
        lines.append(number)
        for name, cell in cells.items():
            columns[name].append(cell)
        first = next(rows, None)
    if not lines:
        raise InputError(f"{path} has no rows; the first line names the columns, and each further line is an image")
    return Table(path, lines, columns)


def _text(data: bytes, path: Path) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is in UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise InputError(
            f"{path} line {_line(data, data.index(0))}: a zero byte, so this is no table; save it as UTF-8"
        )
    try:
        return data.decode("utf-8-sig")  # spreadsheets begin UTF-8 with a mark
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} line {_line(data, error.start)}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8"
        ) from error


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    try:
        for cells in lines:
            if not cells:  # an empty line
                continue
            if names is None:
                names = _header(cells, f"{path} line {lines.line_num}")
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{path} line {lines.line_num}: {len(cells)} cells, and {len(names)} columns in line 1; a "
                    'text with a comma needs quotes: "a,b"'
                )
            yield lines.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path} line {lines.line_num}: {first_line(error)}; quotes inside a text are doubled"
        ) from error


def _header(cells: Sequence[str], where: str) -> list[str]:
    if len(cells) == 1 and any(mark in cells[0] for mark in ";\t"):
        raise InputError(f"{where}: columns are separated by commas, not by {'tabs' if chr(9) in cells[0] else ';'}")
    for name in cells:
        if not name or name != name.strip():
            index = "; pandas leaves out its index by to_csv(FILE, index=False)" if cells[0] == "" else ""
            raise InputError(
                f"{where}: {name!r} is no name of a column; names are not empty and have no spaces around{index}"
            )
        if cells.count(name) > 1:
            raise InputError(f"{where}: the column {name} is there twice; remove one")
    return list(cells)


def _json_rows(text: str, path: Path, numbers: bool) -> Iterator[tuple[int, dict[str, str]]]:
    names: list[str] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        row = _json_row(line, where, numbers)
        if names is None:
            names = _header(list(row), where)
        if row.keys() != set(names):
            raise InputError(
                f"{where}: the columns {', '.join(row)[:100]}, and the first row has {', '.join(names)[:100]}; "
                'give every row the same, with "" for no value'
            )
        yield number, row


def _json_row(line: str, where: str, numbers: bool) -> dict[str, str]:
    try:
        content = json.loads(line, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no JSON ({first_line(error)}); each line is an object of texts") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f'{where}: no object with columns; each line is one, as in {{"path": "good/000.png", …}}')
    return {name: _json_cell(name, value, where, numbers) for name, value in content.items()}


def _json_cell(name: str, value: Any, where: str, numbers: bool) -> str:
    if value is None:
        return ""
    allowed = isinstance(value, str | int | float) if numbers else isinstance(value, str | int)
    if not allowed or (isinstance(value, bool) and not numbers):
        number = "a number" if numbers else "a whole number"
        raise InputError(f"{where}: {name} must be a text, {number} or null, got {str(value)[:100]}")
    text = str(value)
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in name + text):
        raise InputError(f"{where}: {name[:100]!r} holds a zero or half a sign; write whole signs in UTF-8")
    return text


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no value")
