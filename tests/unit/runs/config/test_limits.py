"""What a machine holds, on a machine of known size."""

import pytest

from metrad.errors import InputError
from metrad.runs.config import limits

SETTINGS = {
    "backbone": {"width": 1.0, "channels": [32, 64]},
    "dataset": {"workers": 2, "source": {"size": None}},
    "trainer": {"devices": 1},
}


@pytest.fixture(autouse=True)
def _a_machine_of_8_gb_and_16_cores(monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 8e9)
    monkeypatch.setattr(limits.os, "cpu_count", lambda: 16)


def test_ordinary_settings_are_held():
    limits.require_held(SETTINGS, on_cpu=True)
    limits.require_held({**SETTINGS, "dataset": {"workers": 2, "source": {"size": 18_000}}}, on_cpu=True)  # 2 of 3.9 GB
    limits.require_centres({"sub_centers": 16}, 1280, 100)
    limits.require_centres({}, 1280, 100)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"dataset": {"workers": 2, "source": {"size": 19_000}}},
            "dataset.source.size=19000 takes at least 9 GB of memory, and this machine has 8 GB",
        ),
        (
            {"dataset": {"workers": 2, "source": {"size": 10**6}}},
            "dataset.source.size=1000000 takes at least 24,000 GB",
        ),
        ({"backbone": {"channels": [65_536, 65_536]}}, "backbone.channels=[65536, 65536] takes at least"),
        ({"backbone": {"width": 100}}, "backbone.width=100 takes at least"),
        (
            {"dataset": {"workers": 65, "source": {}}},
            "dataset.workers=65 asks for as many processes, and this machine has 16",
        ),
        ({"trainer": {"devices": 65}}, "trainer.devices=65 asks for as many processes"),
    ],
)
def test_what_the_machine_cannot_hold_is_refused_with_what_it_has(change, says):
    with pytest.raises(InputError) as error:
        limits.require_held(SETTINGS | change, on_cpu=True)
    assert says in str(error.value)


def test_devices_are_processes_on_the_cpu_alone():
    limits.require_held(SETTINGS | {"trainer": {"devices": 65}}, on_cpu=False)


def test_centres_take_memory_by_classes_and_width():
    with pytest.raises(InputError, match=r"head\.sub_centers=100000 takes at least 15 GB"):
        limits.require_centres({"sub_centers": 100_000}, 1280, 10)
