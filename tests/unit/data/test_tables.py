"""Tables of users: CSV and JSON Lines, and one line for each way in which they can be wrong."""

import csv
import io
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrad.data import tables
from metrad.data.tables import read_table
from metrad.errors import InputError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CELLS = {"path": ["a.png", "b,1.png", 'c"2".png'], "class": ["good", "größe", ""]}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_csv_file_has_its_cells_by_column_and_the_lines_they_are_in(tmp_path, ending, mark):
    lines = ["path,class", "a.png,good", '"b,1.png",größe', "", '"c""2"".png",']
    table = read_table(write(tmp_path / "t.csv", mark + ending.join(lines) + ending))
    assert table.columns == CELLS
    assert table.lines == [2, 3, 5]


def test_json_lines_have_the_same_cells_as_a_csv_file_and_numbers_as_text(tmp_path):
    rows = [dict(zip(CELLS, cells, strict=True)) for cells in zip(*CELLS.values(), strict=True)]
    rows[2]["class"] = None
    text = "\n".join(json.dumps(row) for row in rows[:2]) + "\n\n" + json.dumps(rows[2])
    table = read_table(write(tmp_path / "t.jsonl", text))
    assert table.columns == CELLS
    assert table.lines == [1, 2, 4]
    assert read_table(write(tmp_path / "n.NDJSON", '{"group": 17}')).columns == {"group": ["17"]}


@given(
    st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 2), min_size=1)
)
@settings(max_examples=50, deadline=None)
def test_what_the_csv_library_writes_is_read(tmp_path_factory, rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("path", "class"), *rows])
    table = read_table(write(tmp_path_factory.mktemp("t") / "t.csv", file.getvalue()))
    assert list(zip(*table.columns.values(), strict=True)) == rows


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "", r"t\.csv has no rows"),
        ("t.csv", "path,class\n", r"t\.csv has no rows"),
        ("t.csv", "path,class\na,b,c\n", r"t\.csv line 2: 3 cells, and 2 columns in line 1"),
        ("t.csv", "path,class\na,b\nc\n", r"t\.csv line 3: 1 cells, and 2 columns"),
        ("t.csv", "path;class\na;b\n", r"t\.csv line 1: columns are separated by commas, not by ;"),
        ("t.csv", "path\tclass\n", r"t\.csv line 1: columns are separated by commas, not by tabs"),
        ("t.csv", "path, class\na,b\n", r"t\.csv line 1: ' class' is no name of a column"),
        ("t.csv", "path,\na,b\n", r"t\.csv line 1: '' is no name of a column"),
        ("t.csv", "path,path\na,b\n", r"t\.csv line 1: the column path is there twice"),
        ("t.csv", 'path,class\n"a,b\n', r"t\.csv line 2: unexpected end of data"),
        ("t.csv", 'path,class\na,"b"c\n', r"t\.csv line 2: .* quotes inside a text are doubled"),
        ("t.csv", b"path,class\na,b\nc,gr\xfc\xdfe\n", r"t\.csv line 3: byte 0xfc is not UTF-8"),
        ("t.csv", "path,class\na,b\n".encode("utf-16"), r"t\.csv is in UTF-16; save it as UTF-8"),
        ("t.csv", "path,class\na,b\nc,\0\n", r"t\.csv line 3: a zero byte"),
        ("t.csv", "path,class\n" + "a" * 200_000 + ",b\n", r"t\.csv line 2: field larger than field limit"),
        ("t.jsonl", "\n\n", r"t\.jsonl has no rows"),
        (
            "t.jsonl",
            '{"path": "a"}\n{"path": "b", "class": "c"}\n',
            r"t\.jsonl line 2: the columns path, class, and the",
        ),
        (
            "t.jsonl",
            '{"path": "a", "class": "c"}\n{"path": "b"}\n',
            r"t\.jsonl line 2: the columns path, and the first",
        ),
        ("t.jsonl", '{"path": "a"\n', r"t\.jsonl line 1: no JSON"),
        ("t.jsonl", '{"path": "a"}{"path": "b"}\n', r"t\.jsonl line 1: no JSON"),
        ("t.jsonl", '{"path": "a", "path": "b"}\n', r"t\.jsonl line 1: no JSON \(a name is there twice\)"),
        ("t.jsonl", '["a"]\n', r"t\.jsonl line 1: no object"),
        ("t.jsonl", "{}\n", r"t\.jsonl line 1: no object"),
        ("t.jsonl", '{"path": NaN}\n', r"t\.jsonl line 1: no JSON \(NaN is no value\)"),
        ("t.jsonl", '{"path": 1.5}\n', r"t\.jsonl line 1: path must be a text, a whole number or null, got 1\.5"),
        ("t.jsonl", '{"path": true}\n', r"t\.jsonl line 1: path must be a text"),
        ("t.jsonl", '{"path": ["a"]}\n', r"t\.jsonl line 1: path must be a text"),
        ("t.jsonl", '{"path": "\\u0000"}\n', r"t\.jsonl line 1: 'path' holds a zero or half a sign"),
        ("t.jsonl", '{"path": "\\ud800"}\n', r"t\.jsonl line 1: 'path' holds a zero or half a sign"),
        ("t.jsonl", "[" * 100_000, r"t\.jsonl line 1: no JSON"),
        ("t.jsonl", '{"path": ' + "1" * 5000 + "}", r"t\.jsonl line 1: no JSON"),
        ("t.txt", "path,class\na,b\n", r"t\.txt must be a table whose name ends in \.csv or \.jsonl"),
        ("t.json", "[]", r"t\.json must be a table"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_line_with_file_and_line(tmp_path, name, content, says):
    with pytest.raises(InputError, match=says) as error:
        read_table(write(tmp_path / name, content))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_table_that_is_too_long_too_large_or_no_file_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "t.csv", "path,class\na,b\nc,d\n")
    monkeypatch.setattr(tables, "MOST_ROWS", 1)
    with pytest.raises(InputError, match="has more than 1 rows"):
        read_table(path)
    with path.open("r+b") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(InputError, match="at most 268,435,456 are read"):
        read_table(path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="it is a FIFO"):
        read_table(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="missing"):
        read_table(tmp_path / "nowhere.csv")
