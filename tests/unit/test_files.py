"""Files: what the strict reader takes at most, and which errors are those of a disk that refuses to be written to."""

import errno
import os

import pytest

from metrad.errors import InputError, WriteError
from metrad.files import DEPTH, in_words, read_bytes, read_json, read_rows, remove, replacing, writing

COLUMNS = {"epoch": int, "loss": float}


def test_a_file_of_the_largest_size_is_read_and_one_byte_more_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"x" * 10)
    assert read_bytes(path, 10) == b"x" * 10
    path.write_bytes(b"x" * 11)
    with pytest.raises(InputError, match=r"a\.json has 11 bytes, and at most 10 are read"):
        read_bytes(path, 10)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["lists", "mappings"])
def test_json_of_the_deepest_nesting_is_read_and_one_level_more_is_refused(opening, closing, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(opening * DEPTH + "1" + closing * DEPTH)
    assert read_json(path)
    path.write_text(opening * (DEPTH + 1) + "1" + closing * (DEPTH + 1))
    with pytest.raises(InputError, match=rf"a\.json cannot be read as JSON \(it nests deeper than {DEPTH} levels\)"):
        read_json(path)


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="this system does not tell where holes are")
def test_a_large_file_of_holes_is_refused(tmp_path):
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.write(b"begin")
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"weights claims 1,099,511,627,776 bytes but consists of holes"):
        read_bytes(path, 2**50)


@pytest.mark.parametrize("row", ["2", "2,0.5,7", "2,", "2,a", "", "2.5,1"])
def test_a_row_of_another_length_or_kind_is_refused(row, tmp_path):
    path = tmp_path / "epochs.csv"
    path.write_text("epoch,loss\n1,0.5\n")
    assert read_rows(path, COLUMNS) == [{"epoch": 1, "loss": 0.5}]
    path.write_text(f"epoch,loss\n1,0.5\n{row}\n")
    with pytest.raises(InputError, match=r"epochs\.csv cannot be read as CSV"):
        read_rows(path, COLUMNS)


def failing(error, path):
    with writing(path):
        raise error


# The system names no file when it refuses bytes for an open one.
@pytest.mark.parametrize("name", [None, "run", ".", "run/part", ".run.1.partial/part"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_the_disk_refuses_is_an_error_of_writing_that_names_the_file(code, name, tmp_path):
    error = OSError(code, "refused") if name is None else OSError(code, "refused", str(tmp_path / name))
    with pytest.raises(WriteError) as caught:
        failing(error, tmp_path / "run")
    assert str(caught.value).startswith(f"{tmp_path / 'run'} cannot be written: {os.strerror(code)}; ")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "no such file", "/elsewhere/image.png"),
        OSError(errno.EACCES, "denied", "/elsewhere/image.png"),
        OSError(errno.ECONNREFUSED, "refused"),
        OSError(errno.ENOSPC, "full", 3),
        RuntimeError("no good"),
        InputError("no class"),
    ],
    ids=repr,
)
def test_any_other_error_stays_what_it_is(error, tmp_path):
    with pytest.raises(type(error)) as caught:
        failing(error, tmp_path / "metrics.json")
    assert caught.value is error


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0", "disk is full"),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0", "disk is full"),
        ("Error while serializing: I/O error: No space left on device (os error 28)", "No space left on device"),
        ("Error while serializing: I/O error: Read-only file system (os error 30)", "Read-only file system"),
    ],
)
def test_a_refusal_in_the_words_of_torch_or_safetensors_is_an_error_of_writing(said, reason, tmp_path):
    with pytest.raises(WriteError, match=rf"model\.ckpt cannot be written: .*{reason}"):
        failing(RuntimeError(said), tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("code", "path", "says"),
    [
        (
            errno.ENOTDIR,
            "file.txt/run",
            "file.txt/run: Not a directory; a part of its path is a file; choose another path",
        ),
        (errno.EEXIST, "run", "run: File exists; something else lies there; move it away or choose another path"),
        (errno.ELOOP, "run", "run: Too many levels of symbolic links; check that path"),
        (errno.ENAMETOOLONG, "x" * 500, f"{'x' * 100}…{'x' * 100}: File name too long; choose a shorter name"),
        (errno.EIO, None, None),
        (None, "run", None),
    ],
)
def test_an_error_of_the_system_is_told_with_its_path_and_what_to_do(code, path, says):
    error = OSError("of another kind") if code is None else OSError(code, "text", path)
    assert in_words(error) == says


def test_a_file_in_place_of_the_folder_is_named_and_not_the_temporary_file(tmp_path):
    (tmp_path / "folder").touch()
    with pytest.raises(InputError) as error, replacing(tmp_path / "folder/file.json") as partial:
        partial.write_text("{}")
    assert str(error.value).startswith(f"{tmp_path}/folder/file.json cannot be written: Not a directory")
    assert "partial" not in str(error.value)


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for _ in range(2):  # what is not there needs no removing
        remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
