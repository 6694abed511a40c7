"""Tables of verdicts, written row by row so that a killed process leaves a file that can be gone on with.

CSV and JSONL files grow with each batch. A Parquet file has its index at its end, so its rows are first kept in a JSONL
file beside it, and the Parquet file is made of them when the last image is scored.
"""

import csv
import importlib
import importlib.util
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from metrad.errors import InputError, first_line
from metrad.files import opened, replacing, writing
from metrad.reports.verdicts.rows import COLUMNS, GROUP, Cells, Row, text
from metrad.terminal import printable

CSV, JSONL, PARQUET = ".csv", ".jsonl", ".parquet"
ENDINGS = (CSV, JSONL, PARQUET)
_BATCH = 5_000  # rows of a Parquet row group
_WIDTHS = {"verdict": 9, "score": 9, "p_value": 8, "fitted_on": 9}


class Table(Protocol):
    """A table that rows are added to."""

    def add(self, rows: Sequence[Row]) -> None:
        """Add ``rows``; they are in the hands of the operating system when this returns."""

    def close(self, *, whole: bool) -> None:
        """Close the table; ``whole`` says whether it has all rows."""


class Lines:
    """A CSV or JSONL table in an open file.

    Args:
        file: text file to write to.
        kind: ``.csv`` or ``.jsonl``.
        grouped: whether the rows have the column ``group``.
        headed: whether the file has its header line already.
    """

    def __init__(self, file: IO[str], kind: str, *, grouped: bool = False, headed: bool = False) -> None:
        self.file, self.kind, self.grouped = file, kind, grouped
        if not headed:
            self.file.write(header(kind, columns(grouped=grouped)))

    def add(self, rows: Sequence[Row]) -> None:
        """Add ``rows`` and hand them to the operating system."""
        self.file.write("".join(line(row.cells(grouped=self.grouped), self.kind) for row in rows))
        self.file.flush()

    def close(self, *, whole: bool) -> None:
        """Leave the file open, as it was given."""


class Aligned:
    """A table for a terminal: columns of fixed width, the name of the image last, control characters escaped."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        heads = [f"{name:<{width}}" for name, width in _WIDTHS.items()]
        self.file.write("  ".join([*heads, "image"]) + "\n")

    def add(self, rows: Sequence[Row]) -> None:
        """Print ``rows``."""
        for row in rows:
            cells = row.cells(grouped=False)
            shown = [f"{_short(cells[name]):<{width}}" for name, width in _WIDTHS.items()]
            why = f" ({row.error})" if row.error else ""
            self.file.write(printable(" ".join(f"{'  '.join(shown)}  {row.image}{why}".splitlines())) + "\n")
        self.file.flush()

    def close(self, *, whole: bool) -> None:
        """Leave what is printed."""


class FileTable:
    """A table in a file, whose ending says its kind.

    Args:
        path: the file, ending with one of ``ENDINGS``.
        grouped: whether the rows have the column ``group``.
        kept: rows of an earlier, interrupted call to begin with; None to make a new table.

    Raises:
        InputError: the ending is another one, or the package for it is not installed.
        WriteError: the file cannot be written.
    """

    def __init__(self, path: Path, *, grouped: bool = False, kept: Iterable[Row] | None = None) -> None:
        self.path, self.grouped = path, grouped
        require_kind(path)
        self.growing, kind = growing(path), JSONL if kind_of(path) == PARQUET else kind_of(path)
        with writing(path):
            if kept is not None:
                self._keep(kept, kind)
            self.file = self.growing.open("x" if kept is None else "a", encoding="utf-8", newline="")
            self.lines = Lines(self.file, kind, grouped=grouped, headed=kept is not None)

    def add(self, rows: Sequence[Row]) -> None:
        """Add ``rows``; they survive the death of the process."""
        with writing(self.path):
            self.lines.add(rows)

    def close(self, *, whole: bool) -> None:
        """Close the file; a Parquet file is made of its rows once they are ``whole``."""
        with writing(self.path):
            self.file.close()
            if whole and self.growing != self.path:
                _write_parquet(self.path, read_rows(self.growing), grouped=self.grouped)
                self.growing.unlink()

    def _keep(self, rows: Iterable[Row], kind: str) -> None:
        """Write the rows of before into the growing file, without torn lines; they are read while this is written."""
        with replacing(self.growing) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            lines = Lines(file, kind, grouped=self.grouped)
            for row in rows:
                lines.file.write(line(row.cells(grouped=self.grouped), kind))


def columns(*, grouped: bool) -> tuple[str, ...]:
    """Return the names of the columns; ``group`` is the last one if ``grouped``."""
    return (*COLUMNS, GROUP) if grouped else COLUMNS


def require_kind(path: Path) -> None:
    """Raise ``InputError`` if the ending of a table is unknown, or the package that writes it is not installed."""
    if kind_of(path) == PARQUET and importlib.util.find_spec("pyarrow") is None:  # it is imported to write the table
        raise _no_arrow()


def kind_of(path: Path) -> str:
    """Return the ending that says the kind of a table.

    Raises:
        InputError: it is none of ``ENDINGS``.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"--out must end with {', '.join(ENDINGS)}, got {path}")
    return ending


def growing(path: Path) -> Path:
    """Return the file that rows are added to: ``path`` itself, or the JSONL file beside a Parquet file."""
    return path.with_name(f"{path.name}{JSONL}") if kind_of(path) == PARQUET else path


def header(kind: str, names: Sequence[str]) -> str:
    """Return the first line of a table; JSONL has none."""
    return line(dict(zip(names, names, strict=True)), CSV) if kind == CSV else ""


def line(cells: Cells, kind: str) -> str:
    """Return one line of a CSV or JSONL table; a name with line breaks stays one field of a CSV record."""
    if kind == JSONL:
        return json.dumps(cells, ensure_ascii=False) + "\n"
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow([text(value) for value in cells.values()])  # quotes both breaks
    return out.getvalue().removesuffix("\r\n") + "\n"


def write_cells(path: Path, rows: Sequence[Cells]) -> None:
    """Write a small table of other columns into the file at ``path``, whole or not at all, by its ending."""
    kind = kind_of(path)
    with replacing(path) as partial:
        if kind == PARQUET:
            arrow = _arrow()
            arrow.parquet.write_table(arrow.Table.from_pylist(list(rows)), partial)
            return
        body = "".join(line(cells, kind) for cells in rows)
        partial.write_text(header(kind, list(rows[0])) + body, encoding="utf-8", newline="")


def show_cells(rows: Sequence[Cells], file: IO[str]) -> None:
    """Write a small table of other columns to ``file``: aligned on a terminal, else as CSV."""
    names = list(rows[0])
    if not file.isatty():
        file.write(header(CSV, names) + "".join(line(cells, CSV) for cells in rows))
        return
    shown = [names, *([printable(_short(value).replace("\n", " ")) for value in cells.values()] for cells in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for entries in shown:
        file.write("  ".join(map(str.ljust, entries, widths)).rstrip() + "\n")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, read bit by bit; a torn last record, of a process that was killed, is left out.

    Raises:
        InputError: the file is no table of verdicts.
    """
    if kind_of(path) == PARQUET:
        yield from _parquet_rows(path)
        return
    records = _csv_cells(path) if kind_of(path) == CSV else _json_cells(path)
    try:
        yield from (Row.of(cells) for cells in records)
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path} is no table of verdicts ({first_line(error)}); give another --out") from error


def _whole_records(path: Path, *, quoted: bool) -> Iterator[str]:
    """Yield the records of a file that end with a line feed outside quotes."""
    record, open_quote = [], False
    with opened(path) as file:
        for part in file:
            record.append(part)
            open_quote ^= quoted and part.count(b'"') % 2 == 1
            if part.endswith(b"\n") and not open_quote:
                yield b"".join(record).decode("utf-8")
                record = []


def _csv_cells(path: Path) -> Iterator[Cells]:
    records = csv.reader(_whole_records(path, quoted=True), strict=True)
    head = next(records, None)
    if head is None:  # killed before the header was written
        return
    if tuple(head) not in (columns(grouped=False), columns(grouped=True)):
        raise InputError(f"{path} has the columns {', '.join(head)[:200]}, and not {', '.join(COLUMNS)}")
    for record in records:
        yield dict(zip(head, record, strict=True))


def _json_cells(path: Path) -> Iterator[Cells]:
    for record in _whole_records(path, quoted=False):
        cells = json.loads(record)
        if not isinstance(cells, dict):
            raise InputError(f"a line of it is {record[:50]!r}")
        yield cells


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def _arrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise _no_arrow() from error


def _no_arrow() -> InputError:
    return InputError(
        f"{PARQUET} files need the package pyarrow: pip install 'metrad[parquet]', or give --out a file that ends "
        f"with {CSV} or {JSONL}"
    )


def _write_parquet(path: Path, rows: Iterator[Row], *, grouped: bool) -> None:
    arrow = _arrow()
    kinds = {"score": arrow.float64(), "p_value": arrow.float64(), "fitted_on": arrow.bool_()}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in columns(grouped=grouped)])
    with replacing(path) as partial, arrow.parquet.ParquetWriter(partial, schema) as writer:
        while batch := [row.cells(grouped=grouped) for _, row in zip(range(_BATCH), rows, strict=False)]:
            writer.write_table(arrow.Table.from_pylist(batch, schema))


def _parquet_rows(path: Path) -> Iterator[Row]:
    arrow = _arrow()
    with opened(path) as file:
        try:
            table = arrow.parquet.ParquetFile(file)
            for batch in table.iter_batches(_BATCH):
                yield from (Row.of(cells) for cells in batch.to_pylist())
        except (arrow.ArrowException, InputError) as error:
            raise InputError(f"{path} is no table of verdicts ({first_line(error)}); give another --out") from error
