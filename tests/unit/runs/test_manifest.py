"""The manifest of a run: written once, true ever after, and refused when it or a file has changed."""

import os

import pytest

from metrad.errors import InputError
from metrad.runs import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".hydra").mkdir()
    for name in ("metrics.json", ".hydra/config.yaml"):
        (tmp_path / name).write_text(name)
    manifest.write(tmp_path / manifest.NAME, [tmp_path / "metrics.json", tmp_path / ".hydra/config.yaml"], {"c": b"d"})
    return tmp_path


def test_a_manifest_lists_files_by_their_names_below_it_and_those_to_come(folder):
    listed = manifest.listed(folder / manifest.NAME)
    assert listed.keys() == {"metrics.json", ".hydra/config.yaml", "c"}
    manifest.require(folder / "c", b"d", listed["c"])
    manifest.require(folder / "metrics.json", b"metrics.json", listed["metrics.json"])


@pytest.mark.parametrize(("data", "listed"), [(b"e", True), (b"d", False)], ids=["changed", "not listed"])
def test_another_content_and_an_unlisted_file_are_refused(data, listed, folder):
    digest = manifest.listed(folder / manifest.NAME)["c"] if listed else None
    with pytest.raises(InputError, match=r"its checksum differs|is not in manifest\.json"):
        manifest.require(folder / "c", data, digest)


def test_no_bit_of_a_manifest_can_change(folder):
    path = folder / manifest.NAME
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 41):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"manifest\.json"):
            manifest.listed(path)


def test_a_manifest_of_a_later_format_is_refused(folder, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
    with pytest.raises(InputError, match="has format 1"):
        manifest.listed(folder / manifest.NAME)


def test_a_manifest_that_is_a_fifo_is_refused(folder):
    (folder / manifest.NAME).unlink()
    os.mkfifo(folder / manifest.NAME)
    with pytest.raises(InputError, match="it is a FIFO"):
        manifest.listed(folder / manifest.NAME)
