"""Scoring a finished run again: from its own files alone, beside the old results, and never on other data."""

import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from metrad import prediction
from metrad.prediction import evaluate_run
from metrad.runs import Run, read_json
from tests.integration.test_run import rows


@pytest.fixture
def run(finished_run, tmp_path):
    return Run(shutil.copytree(finished_run.path, tmp_path / "run"))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_overrides_the_scores_repeat_bit_for_bit(metrad, run, comparable):
    result = metrad("evaluate", run.path)
    again = Run(run.evaluations / "repeated")
    assert (result.code, result.err) == (0, "")
    assert f"AUROC {read_json(run.metrics)['auroc']:.4f}" in result.out
    assert again.scores.read_bytes() == run.scores.read_bytes()
    assert comparable(again) | {"training": None} == comparable(run) | {"training": None}


def test_another_k_is_written_beside_and_changes_nothing(metrad, run):
    before = contents(run.path)
    result = metrad("evaluate", run.path, "scorer.k=3", "scorer.reduce=max")
    written = Run(run.evaluations / "scorer.k=3-scorer.reduce=max")
    assert result.code == 0
    assert contents(run.path).items() >= before.items()
    assert {path.name for path in written.path.iterdir()} == {
        *("metrics.json", "scores.csv", "config.yaml", "roc.png", "scores.png", "neighbours.png")
    }
    assert OmegaConf.load(written.path / "config.yaml").scorer.k == 3
    old, new = rows(run.scores), rows(written.scores)
    assert [row["image"] for row in old] == [row["image"] for row in new]
    assert all(float(a["score"]) <= float(b["score"]) for a, b in zip(old, new, strict=True))
    assert [row["nearest"] for row in old] == [row["nearest"] for row in new]


def test_nothing_is_ever_overwritten(metrad, refused, run):
    assert metrad("evaluate", run.path, "--name", "mine").code == 0
    before = contents(run.path)
    refused("evaluate", run.path, "scorer.k=2", "--name", "mine", words=("mine", "--name"))
    assert contents(run.path) == before
    for _ in range(2):
        assert metrad("evaluate", run.path).code == 0
    assert {path.name for path in run.evaluations.iterdir()} == {"mine", "repeated", "repeated-2"}
    assert contents(run.path).items() >= before.items()


@pytest.mark.parametrize("override", ["paths.data=a/../c", f"paths.data={'x' * 300}", "paths.data=/", "paths.data=.."])
def test_any_override_makes_a_folder_inside_evaluations(override, metrad, run):
    result = metrad("evaluate", run.path, override)
    assert (result.code, result.err) == (0, "")
    assert [path.parent.parent for path in run.path.parent.rglob("evaluations/**/metrics.json")] == [run.evaluations]


def test_the_run_needs_neither_todays_conf_nor_the_weights_it_began_with(train, digits, tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    begun = train(*digits, name="begun")
    state = torch.load(begun.last_checkpoint, weights_only=True)["state_dict"]
    prefix = "embedder.backbone."
    torch.save({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, weights)
    run = train(*digits, f"backbone.weights={weights}", "scorer.metric=l2")
    weights.unlink()
    (tmp_path / "conf").mkdir()
    monkeypatch.setattr(prediction, "folder", lambda: tmp_path / "conf")
    folder, _ = evaluate_run(run.path, [])
    assert Run(folder).scores.read_bytes() == run.scores.read_bytes()


def test_a_run_can_be_moved(metrad, run, tmp_path):
    moved = Run(run.path.rename(tmp_path / "moved to = ü"))
    assert metrad("evaluate", moved.path).code == 0
    assert Run(moved.evaluations / "repeated").scores.read_bytes() == moved.scores.read_bytes()


@pytest.fixture
def folder_run(train, small, image_folders, tmp_path):
    root = image_folders(tmp_path / "images")
    roles = ["dataset.normal=[a]", "dataset.anomalous=[b]"]
    return root, train(*small, "dataset=image_folder", f"dataset.source.root={root}", *roles)


def paint(path, color):
    Image.new("RGB", (16, 16), color).save(path)


def test_changed_and_missing_images_are_refused(folder_run, refused):
    root, run = folder_run
    name = read_json(run.split)["images"]["test_normal"][0]
    original = (root / name).read_bytes()
    paint(root / name, "red")
    refused("evaluate", run.path, words=("changed",))
    (root / name).unlink()
    refused("evaluate", run.path, words=(name,))
    (root / name).write_bytes(original)
    refused("evaluate", run.path, "dataset.source.root=nowhere", words=("nowhere",))
    assert not run.evaluations.exists()


def test_new_images_and_another_place_change_nothing(folder_run, metrad, tmp_path):
    root, run = folder_run
    (root / "0 a new class").mkdir()
    paint(root / "0 a new class/0.png", "blue")
    paint(root / "a/00.png", "green")
    moved = root.rename(tmp_path / "moved")
    result = metrad("evaluate", run.path, f"dataset.source.root={moved}", "--name", "again")
    assert (result.code, result.err) == (0, "")
    old, new = rows(run.scores), rows(run.evaluations / "again/scores.csv")
    assert [row["image"] for row in old] == [row["image"] for row in new]
    np.testing.assert_array_equal([row["score"] for row in old], [row["score"] for row in new])
