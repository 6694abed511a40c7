"""A disk that is full, read-only or limited ends a command with one line, and a run says that it failed."""

import errno
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from metrad.errors import WriteError
from metrad.files import read_json, replacing
from metrad.runs import directory
from metrad.runs.directory import Run
from metrad.sweeps.table import collect
from tests.helpers.runs import sweep as made_up_sweep

LONG = pytest.mark.long


@contextmanager
def limited(size):
    """Let files grow to ``size`` bytes at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python sets it
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def assert_one_line(result, *words):
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert [word for word in ("error: ", "cannot be written: ", *words) if word not in result.err] == [], result.err
    assert "Traceback" not in result.out + result.err


# In this order a run writes .hydra/config.yaml, split.json, run.log, the checkpoint, the model, pictures.
@pytest.mark.parametrize("size", [pytest.param(700, marks=LONG), 3_000, pytest.param(12_000, marks=LONG), 40_000])
def test_a_run_that_outgrows_the_limit_on_file_size_fails_in_one_line(size, metrad, digits, tmp_path):
    with limited(size):
        result = metrad("train", *digits, "hydra.run.dir=run")
    assert_one_line(result, "File too large" if size < 12_000 else "", str(tmp_path / "run"))
    status = read_json(tmp_path / "run/status.json")
    assert status["state"] == "failed"
    assert "cannot be written" in status["error"]
    assert Run("run").state == "failed"


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("filled", [pytest.param(0, marks=LONG), 200_000, pytest.param(290_000, marks=LONG)])
def test_a_run_on_a_full_disk_fails_in_one_line(filled, small_disk, metrad, digits):
    (small_disk / "other").write_bytes(b"x" * filled)
    result = metrad("train", *digits, f"hydra.run.dir={small_disk}/run", "backbone.channels=[32,64]")
    assert_one_line(result, str(small_disk / "run"))
    assert read_json(small_disk / "run/status.json")["state"] == "failed"


def test_runs_of_a_sweep_on_a_full_disk_fail_in_a_line_each(small_disk, metrad, digits):
    result = metrad("train", "-m", *digits, f"hydra.sweep.dir={small_disk}/s", "seed=0,1", "backbone.channels=[32,64]")
    assert result.code == 1
    lines = result.err.splitlines()
    assert len([line for line in lines if re.match(r"[12]/2 failed: .* cannot be written: ", line)]) == 2
    assert len(lines) <= 3, lines  # the third says that runs.csv cannot be written
    assert {row["state"] for row in collect(small_disk / "s")} == {"failed"}


@LONG
def test_after_a_full_disk_the_same_sweep_can_be_made(small_disk, metrad, digits):
    (small_disk / "other").write_bytes(b"x" * 250_000)
    command = ["train", "-m", *digits, f"hydra.sweep.dir={small_disk}/s", "seed=0"]
    assert metrad(*command).code == 1
    (small_disk / "other").unlink()
    result = metrad(*command)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("size", [600, pytest.param(3_000, marks=LONG)])  # the line itself goes to a file
@pytest.mark.parametrize(
    "command", [["evaluate", "run", "scorer.k=2"], ["report", "run"], ["compare", "sweep"]], ids=lambda words: words[0]
)
def test_commands_that_outgrow_the_limit_end_in_one_line_and_leave_nothing(
    command, size, finished_run, metrad, tmp_path
):
    shutil.copytree(finished_run.path, "run")
    if command[0] == "compare":
        made_up_sweep(tmp_path / "sweep", heads=("AdaCos", "ArcFace"), datasets=("digits",))
    before = sorted(tmp_path.rglob("*"))
    with limited(size):
        result = metrad(*command)
    assert_one_line(result, "File too large")
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "evaluations") == before


READ_ONLY = {"EROFS": OSError(errno.EROFS, "Read-only file system"), "EACCES": PermissionError(errno.EACCES, "denied")}


@pytest.mark.parametrize("kind", ["EROFS", pytest.param("EACCES", marks=LONG)])
@pytest.mark.parametrize("command", ["train", "train -m", "evaluate", "report", "compare"])
def test_read_only_folders_are_refused_in_one_line(kind, command, finished_run, metrad, digits, monkeypatch, tmp_path):
    """The folders are made read-only by hand, since root may write to folders without that permission."""
    shutil.copytree(finished_run.path, "run")
    made_up_sweep(tmp_path / "sweep", heads=("AdaCos", "ArcFace"), datasets=("digits",), seeds=(0, 1))
    make, opened = Path.mkdir, os.open

    def refuse(path, *_):
        error = type(READ_ONLY[kind])(READ_ONLY[kind].errno, READ_ONLY[kind].strerror, str(path))
        raise error

    monkeypatch.setattr(Path, "mkdir", lambda path, *rest, **more: refuse(path) if path != tmp_path else make(path))
    monkeypatch.setattr(
        os, "open", lambda path, flags, *rest: (refuse if flags & os.O_CREAT else opened)(path, flags, *rest)
    )
    monkeypatch.setattr(Path, "write_text", lambda path, *rest, **more: refuse(path))
    monkeypatch.setattr(os, "mkdir", lambda path, *rest, **more: refuse(path))
    arguments = {
        "train": ["train", *digits, "hydra.run.dir=new"],
        "train -m": ["train", "-m", *digits, "hydra.sweep.dir=new"],
        "evaluate": ["evaluate", "run", "scorer.k=2"],
        "report": ["report", "run"],
        "compare": ["compare", "sweep"],
    }[command]
    result = metrad(*arguments)
    monkeypatch.undo()
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert ("Read-only" if kind == "EROFS" else "denied") in result.err
    assert not Path("new").exists()


def test_a_status_that_cannot_be_replaced_is_written_over(tmp_path, monkeypatch):
    run = Run(tmp_path / "run")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail():
        with run.held():
            run.claim()
            with run.recorded(keep_refused=False):
                monkeypatch.setattr(directory, "write_json", full)
                full()

    with pytest.raises(WriteError, match=r"run cannot be written: No space left on device; free space there"):
        fail()
    assert read_json(run.status)["state"] == "failed"
    assert "No space left" in read_json(run.status)["error"]


def test_a_log_that_cannot_be_written_ends_the_run_and_prints_no_traceback(tmp_path, capfd):
    run = Run(tmp_path / "run")

    def talk():
        with run.held():
            run.claim()
            with limited(400), run.recorded(keep_refused=False):
                logging.getLogger("metrad").warning("x" * 500)

    with pytest.raises(WriteError, match="File too large"):
        talk()
    assert "Logging error" not in capfd.readouterr().err
    assert read_json(run.status)["state"] == "failed"


def test_the_line_names_the_file_and_not_its_temporary_name(tmp_path):
    def write():
        with replacing(tmp_path / "folder") as outer:
            outer.mkdir()
            with limited(10), replacing(outer / "file.txt") as inner:
                inner.write_text("x" * 100)

    with pytest.raises(WriteError) as caught:
        write()
    assert str(caught.value).startswith(f"{tmp_path / 'folder' / 'file.txt'} cannot be written: File too large; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "/elsewhere/data.png"), ValueError("no good")])
def test_an_error_on_another_file_stays_what_it_is(error, tmp_path):
    with pytest.raises(type(error)), replacing(tmp_path / "file"):
        raise error
