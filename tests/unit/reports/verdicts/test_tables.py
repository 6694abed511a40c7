"""Tables of verdicts: what is written comes back, and a torn file loses only its last row."""

import errno
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrad.errors import InputError, WriteError
from metrad.reports.verdicts import resume, tables
from metrad.reports.verdicts.rows import COLUMNS, Row
from metrad.reports.verdicts.tables import Aligned, FileTable, Lines, read_rows

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
SCORED = st.builds(
    Row,
    NAMES,
    st.floats(0, 1e6, width=32),
    st.floats(0.001, 1) | st.just(math.nan),
    st.sampled_from(["anomalous", "normal"]),
    NAMES | st.just(""),
    st.booleans(),
    group=NAMES,
)
FAILED = st.builds(lambda name, error: Row(name, math.nan, math.nan, "error", error=error, group="g"), NAMES, NAMES)
ROWS = st.lists(SCORED | FAILED, max_size=5)
EVIL = 'a,b"\r\n<script>\x1b[31m=1+1'


def same(one, other):
    return repr(one) == repr(other)  # NaN is not equal to itself


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=ROWS, cut=st.integers(0, 2000))
def test_rows_come_back_and_a_torn_file_gives_the_rows_before_the_tear(tmp_path, ending, rows, cut):
    path = tmp_path / f"table{ending}"
    path.unlink(missing_ok=True)
    table = FileTable(path, grouped=True)
    table.add(rows)
    table.close(whole=True)
    assert same(list(read_rows(path)), rows)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    found = list(read_rows(path))
    assert same(found, rows[: len(found)])
    again = FileTable(path, grouped=True, kept=read_rows(path))
    again.add(rows[len(found) :])
    again.close(whole=True)
    assert path.read_bytes() == whole


def test_parquet_is_made_at_the_end_and_is_gone_on_with_before_and_after(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [Row(f"{i}{EVIL}", i / 7, 0.5, "normal", "good.png", i % 2 == 0) for i in range(6)]
    rows[3] = Row("x", math.nan, math.nan, "error", error="no image")
    path = tmp_path / "table.parquet"
    table = FileTable(path)
    table.add(rows[:2])
    table.close(whole=False)  # stopped
    assert not path.exists()
    there = resume.there(path)
    assert there == tmp_path / "table.parquet.jsonl"
    for rest in (rows[2:5], rows[5:]):
        table = FileTable(path, kept=read_rows(resume.there(path)))
        table.add(rest)
        table.close(whole=True)
        assert not there.exists()
    assert same(list(read_rows(path)), rows)
    content = parquet.read_table(path)
    assert content.column_names == list(COLUMNS)
    assert content["score"].to_pylist()[3] is None
    assert content["fitted_on"].to_pylist() == [True, False, True, None, True, False]


def test_without_pyarrow_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'metrad\[parquet\]'.*\.csv or \.jsonl"):
        tables.require_kind(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["x", "x.txt", "x.csv.gz", ".csv"])
def test_another_ending_is_refused(name):
    with pytest.raises(InputError, match=r"--out must end with \.csv, \.jsonl, \.parquet"):
        tables.kind_of(Path(name))


@pytest.mark.parametrize(
    "content",
    [
        b"image,score\nx,1\n",
        b"image,score,p_value,verdict,nearest,fitted_on,error\nx,one,,normal,,,\n",
        b"image,score,p_value,verdict,nearest,fitted_on,error\nx,1,,fine,,,\n",
        b"image,score,p_value,verdict,nearest,fitted_on,error\nx,1\n",
        b"\xff\xfe\n",
    ],
)
def test_a_file_that_is_no_table_of_verdicts_is_refused(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.csv"):
        list(read_rows(path))


@pytest.mark.parametrize("content", ["[1]\n", "{}\n", "nonsense\n", "[" * 100_000 + "\n", '{"image": 1}\n'])
def test_lines_that_are_no_verdicts_are_refused(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="verdict"):
        list(read_rows(path))


def test_a_table_that_exists_is_not_overwritten(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        FileTable(path)
    with pytest.raises(InputError, match=r"x\.csv exists; add --resume"):
        resume.require_new(path)
    assert path.read_text() == "mine"


def test_a_full_disk_is_named(tmp_path):
    table = FileTable(tmp_path / "x.csv")

    def full(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    table.close(whole=False)
    table.lines.file = SimpleNamespace(write=full)
    with pytest.raises(WriteError, match=r"x\.csv cannot be written: No space left"):
        table.add([Row("x", 1.0, 0.5, "normal")])


def test_only_the_same_detector_and_settings_go_on_with_a_table(tmp_path):
    path = tmp_path / "x.csv"
    resume.begin(path, {"detector": "a", "rate": 0.05})
    resume.require_same(path, {"detector": "a", "rate": 0.05})
    with pytest.raises(InputError, match=r"made with rate 0\.05, and this call has 0\.01"):
        resume.require_same(path, {"detector": "a", "rate": 0.01})
    with pytest.raises(InputError, match="made with detector a"):
        resume.require_same(path, {"detector": "b", "rate": 0.05})
    resume.beside(path).write_text("[]")
    with pytest.raises(InputError, match="does not record"):
        resume.require_same(path, {"detector": "a"})
    resume.beside(path).unlink()
    with pytest.raises(InputError, match=r"x\.csv\.json is missing"):
        resume.require_same(path, {"detector": "a"})


def test_on_a_terminal_a_row_is_one_line_without_control_characters():
    out = io.StringIO()
    Aligned(out).add(
        [Row(EVIL, 1.23456789, 0.5, "anomalous"), Row("b", math.nan, math.nan, "error", error="bad\nfile")]
    )
    head, first, second = out.getvalue().splitlines()
    assert head.split() == ["verdict", "score", "p_value", "fitted_on", "image"]
    assert first.split()[:4] == ["anomalous", "1.235", "0.5", "false"]
    assert "\\x1b[31m" in first
    assert second.endswith("b (bad file)")
    assert head.index("score") == first.index("1.235")


def test_missing_values_are_empty_in_csv_and_null_in_json():
    row = Row("x", math.nan, math.nan, "error", error="no image")
    for kind, wanted in ((".csv", "x,,,error,,,no image\n"), (".jsonl", None)):
        out = io.StringIO()
        Lines(out, kind, headed=True).add([row])
        assert wanted is None or out.getvalue() == wanted
    assert json.loads(out.getvalue()) == dict(
        zip(COLUMNS, ("x", None, None, "error", None, None, "no image"), strict=True)
    )
