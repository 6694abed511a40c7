"""A run whose images come in groups: its split, thresholds and evaluation go by group."""

import json
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from metrad.app.evaluate import evaluate_run
from metrad.app.train import train as make
from metrad.data import prepared
from metrad.data.ungrouped import UngroupedViews
from metrad.detector.core import Detector
from metrad.files import read_json
from metrad.reports.report import write_run_report
from metrad.runs.directory import Run
from tests.helpers.commands import SMALL, configured, trained


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Good parts with three photographs each, alike but for noise, and defective ones of other parts."""
    generator, root = np.random.default_rng(0), tmp_path_factory.mktemp("photographs")
    for kind, parts in (("good", 60), ("other", 8), ("defect", 8)):
        (root / kind).mkdir()
        for part in range(parts):
            level = generator.integers(60, 200, (8, 8, 1))
            for view in range(3):
                pixels = (level + generator.integers(-9, 9, (8, 8, 1))).clip(0, 255).astype(np.uint8)
                Image.fromarray(np.repeat(pixels, 3, axis=2)).save(root / kind / f"{kind}{part}_view{view}.png")
    return root


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    return trained(
        tmp_path_factory.mktemp("grouped") / "run",
        "dataset=image_folder",
        f"dataset.source.root={photographs}",
        "dataset.normal=[good]",
        "dataset.anomalous=[defect]",
        r"dataset.group='(?P<part>[a-z]+\d+)_'",
        "dataset.sizes.calibration=0.5",
        "experiment=frozen",
        "backbone=convnet",
        "image_size=8",
    )


def test_all_photographs_of_a_part_have_one_side(run):
    split = read_json(run.split)
    parts = {
        role: {name.partition("_")[0].partition("/")[2] for name in names if name.startswith("good")}
        for role, names in split["images"].items()
    }
    assert not parts["normal"] & parts["calibration"]
    assert not (parts["normal"] | parts["calibration"]) & parts["test_normal"]
    for role, names in split["images"].items():
        assert len(split["groups"][role]) == len(names)
        by_group = {}
        for name, number in zip(names, split["groups"][role], strict=True):
            by_group.setdefault(number, set()).add(name.partition("/")[2].partition("_")[0])
        assert all(len(found) == 1 for found in by_group.values())


def test_thresholds_count_parts(run):
    metrics = read_json(run.metrics)
    assert metrics["groups"]["calibration"] >= 19
    assert metrics["sizes"]["calibration"] > 2 * metrics["groups"]["calibration"]
    assert [entry["false_alarm_rate"] for entry in metrics["thresholds"]] == [0.05]
    assert metrics["confident_thresholds"] == []  # 59 parts are needed


def test_an_evaluation_has_the_run_s_thresholds_and_p_values(run):
    folder, metrics = evaluate_run(run.path, [])
    assert (folder / "scores.csv").read_bytes() == run.scores.read_bytes()
    own = read_json(run.metrics)
    assert json.dumps([metrics["thresholds"], metrics["intervals"], metrics["groups"]]) == json.dumps(
        [own["thresholds"], own["intervals"], own["groups"]]
    )
    assert Run(run.path).saved_split()["groups"]


def test_a_run_whose_calibration_groups_suffice_has_confident_thresholds(run):
    _, metrics = evaluate_run(run.path, ["evaluation.false_alarm_rates=[0.2]", "evaluation.confidence=0.9"])
    (average,), (confident,) = metrics["thresholds"], metrics["confident_thresholds"]
    assert confident["confidence"] == 0.9
    assert confident["threshold"] >= average["threshold"]


def test_a_report_names_groups_and_both_kinds_of_thresholds(run, tmp_path):
    page = write_run_report(run.path, tmp_path / "report.html").read_text()
    counts = read_json(run.metrics)["groups"]
    trained_on = ", ".join(f"{counts[role]} {role}" for role in ("reference", "normal", "calibration"))
    assert f"groups: {trained_on}; tested on" in page
    assert "on average" in page
    needed = f"it takes 59 calibration groups, and there are {counts['calibration']}."
    assert f"No threshold for 5 % with confidence 0.95: {needed}" in page


@pytest.fixture
def found(photographs):
    """Overrides of a training whose groups are found by themselves."""
    return [
        *SMALL,
        "dataset=image_folder",
        f"dataset.source.root={photographs}",
        "dataset.normal=[good]",
        "dataset.anomalous=[defect]",
        "dataset.group=auto",
        "head=softmax",
        "image_size=8",
    ]


def part_of(name):
    return name.partition("/")[2].partition("_")[0]


def assert_apart(run):
    """Assert that all photographs of a part are on one side of the run's split."""
    images = read_json(run.split)["images"]
    sides = [("reference", "normal"), ("calibration",), ("test_normal", "test_anomalous")]
    parts = [{part_of(name) for role in side for name in images[role]} for side in sides]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_groups_that_are_found_keep_parts_on_one_side_and_are_logged(found, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run = trained(tmp_path / "run", *found)
    assert_apart(run)
    assert "dataset.group=auto: 228 images are 76 groups, such as " in caplog.text
    assert "seem to show one part several times" not in caplog.text
    assert Detector.load(run.path).ungrouped_views is None
    assert "ungrouped_views" not in read_json(run.metrics)
    assert "seem to show" not in write_run_report(run.path).read_text(encoding="utf-8")
    metrics = read_json(run.metrics)
    assert metrics["groups"]["calibration"] == -(-metrics["sizes"]["calibration"] // 3)


def test_a_run_without_groups_says_what_auto_would_find(found, tmp_path, caplog):
    overrides = [one for one in found if one != "dataset.group=auto"]
    with caplog.at_level(logging.INFO):
        run = trained(tmp_path / "run", *overrides)
    (line,) = [one.getMessage() for one in caplog.records if "seem to show" in one.getMessage()]
    assert "228 images are 76 groups, such as good/" in line
    assert "dataset.group=auto" in line
    assert "\n" not in line
    assert "groups" not in read_json(run.split)
    assert "--group auto" in line
    assert Detector.load(run.path).ungrouped_views == UngroupedViews(228, 76)
    assert read_json(run.metrics)["ungrouped_views"] == {"images": 228, "groups": 76}
    page = write_run_report(run.path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "228 images seem to show 76 parts" in page


def never(*arguments, **settings):
    raise AssertionError("groups are looked for again")


def test_an_evaluation_takes_found_groups_from_the_split(found, tmp_path, monkeypatch):
    run = trained(tmp_path / "run", *found)
    prepared._found.clear()
    monkeypatch.setattr(prepared, "find", never)
    _, metrics = evaluate_run(run.path, ["scorer.k=2"], evidence=True)  # reads the images again
    assert metrics["groups"] == read_json(run.metrics)["groups"]


@pytest.mark.parametrize("group", ["auto", r"'(?P<part>[a-z]+\d+)_'"])
def test_a_run_of_a_sweep_that_goes_on_keeps_its_groups(group, found, tmp_path, monkeypatch):
    overrides = [*(one for one in found if "group" not in one), f"dataset.group={group}"]

    def go_on():
        cfg, hydra = configured(*overrides)
        make(cfg, Run(tmp_path / "run"), hydra, sweeping=True)
        return Run(tmp_path / "run")

    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["metrad.app.fit"], "fit_and_embed", stop)
        with pytest.raises(KeyboardInterrupt):
            go_on()
    before = read_json(Run(tmp_path / "run").split)
    prepared._found.clear()
    monkeypatch.setattr(prepared, "find", never)
    run = go_on()
    assert run.state == "finished"
    assert read_json(run.split) == before
    assert_apart(run)
