"""A run whose images come in groups: its split, thresholds and evaluation go by group."""

import json

import numpy as np
import pytest
from PIL import Image

from metrad.app.evaluate import evaluate_run
from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.commands import trained


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
