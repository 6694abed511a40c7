"""What is measured once is kept, and a cache that cannot be used is no reason to stop."""

import json

import pytest
import torch

from metrad.training import measured_once as module
from metrad.training.measured_once import cache_folder, remembered

NAMES = ("a", "b")


class Measure:
    """Counts how often it is called, and gives other numbers each time."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"a": float(self.calls), "b": 0.5}


@pytest.fixture
def measure(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Measure()


def the_file():
    return next(cache_folder().glob("speed-*.json"))


def test_a_second_call_measures_nothing(measure):
    assert remembered({"size": 1}, NAMES, measure) == {"a": 1.0, "b": 0.5}
    assert remembered({"size": 1}, NAMES, measure) == {"a": 1.0, "b": 0.5}
    assert measure.calls == 1


def test_other_conditions_are_measured_anew(measure, monkeypatch):
    remembered({"size": 1}, NAMES, measure)
    remembered({"size": 2}, NAMES, measure)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    remembered({"size": 1}, NAMES, measure)
    monkeypatch.setattr(torch, "__version__", "0.0")
    remembered({"size": 1}, NAMES, measure)
    monkeypatch.setattr(module, "processor", lambda: "another")
    remembered({"size": 1}, NAMES, measure)
    assert measure.calls == 5


def test_the_file_says_what_was_measured_on_what(measure):
    remembered({"size": 1}, NAMES, measure)
    content = json.loads(the_file().read_text())
    assert content["measured"] == {"a": 1.0, "b": 0.5}
    assert set(content["about"]) == {"processor", "torch", "threads", "size"}


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"measured": 3}',
        '{"measured": {"a": 1}}',
        '{"measured": {"a": 1, "b": "x"}}',
        '{"measured": {"a": 1, "b": 0}}',
        '{"measured": {"a": 1, "b": NaN}}',
        '{"measured": {"a": 1, "b": true}}',
    ],
)
def test_a_broken_file_is_measured_and_written_anew(broken, measure):
    remembered({}, NAMES, measure)
    the_file().write_text(broken)
    assert remembered({}, NAMES, measure) == {"a": 2.0, "b": 0.5}
    assert remembered({}, NAMES, measure) == {"a": 2.0, "b": 0.5}


def test_where_nothing_can_be_written_it_is_measured_each_time(measure, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [remembered({}, NAMES, measure)["a"] for _ in range(2)] == [1.0, 2.0]


def test_what_was_measured_is_used_though_it_cannot_be_kept(measure, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    assert remembered({}, NAMES, measure) == {"a": 1.0, "b": 0.5}
    assert measure.calls == 1


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "metrad"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "somewhere"):  # a relative one is to be ignored, says the XDG specification
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder() == tmp_path / "home" / ".cache" / "metrad"
