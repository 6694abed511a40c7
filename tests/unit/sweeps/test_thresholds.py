"""The line on the runs of a sweep that have no threshold."""

import pytest

from metrad.sweeps.thresholds import lacking
from tests.helpers.runs import Sweep

AUTO = {"dataset.sizes.calibration": "auto"}


@pytest.fixture
def add(tmp_path):
    sweep = Sweep(tmp_path)

    def call(seed, calibration, thresholds=(), config=None, **metrics):
        found = {"sizes": {"calibration": calibration}, "thresholds": list(thresholds), **metrics}
        return sweep.add(["head=adacos", f"seed={seed}"], 0.9, config=config, metrics=found)

    return call


def test_runs_without_a_threshold_are_counted_once_with_what_they_have_and_need(add):
    runs = [add(0, 6), add(1, 6), add(2, 40, [{"false_alarm_rate": 0.05}])]
    assert lacking(runs) == (
        "no threshold for 5 % in 2 runs: 6 calibration images, 19 needed; dataset.sizes.calibration=auto"
    )
    runs.append(add(3, 30, groups={"calibration": 10}))
    assert "in 3 runs: 6 to 10 calibration " in lacking(runs)


def test_an_automatic_size_takes_more_images_and_groups_are_counted(add):
    runs = [add(0, 30, config=AUTO, groups={"calibration": 6})]
    assert lacking(runs) == "no threshold for 5 % in 1 run: 6 calibration groups, 19 needed; add good groups"


def test_runs_with_thresholds_and_runs_of_earlier_versions_are_no_word(add, tmp_path):
    old = Sweep(tmp_path / "old").add(["head=adacos", "seed=1"], 0.9)
    failed = Sweep(tmp_path / "old").add(["head=adacos", "seed=2"], state="failed")
    assert lacking([old, failed, add(0, 40, [{"false_alarm_rate": 0.05}])]) == ""
    assert lacking([]) == ""
