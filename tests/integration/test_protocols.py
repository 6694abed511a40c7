"""Protocols over all classes: pairs, one against the rest, all but one; and runs without reference classes."""

import numpy as np
import pytest

from metrad.files import read_json
from metrad.reports.comparison import tables as comparison_tables
from metrad.reports.comparison.compare import compare
from metrad.reports.comparison.plots import pictures
from metrad.runs.directory import Run
from tests.helpers.runs import rows

DIGITS = ["dataset=digits", "backbone=convnet", "backbone.channels=[4]", "image_size=8", "trainer.precision=32-true"]
ALONE = ["dataset.reference=[]", "dataset.sizes.reference=160"]  # a size that a dataset's YAML may have


@pytest.fixture
def sweep(metrad, tmp_path):
    """Make a sweep on the digits and return its finished runs by folder name."""

    def call(*overrides):
        result = metrad("train", "-m", *DIGITS, "trainer.max_epochs=1", *overrides, "sweep=x")
        assert (result.code, result.err) == (0, "")
        runs = [Run.finished(path.parent) for path in sorted(tmp_path.glob("multirun/x/*/status.json"))]
        return {run.path.name: run for run in runs}

    return call


def classes(run):
    return read_json(run.split)["classes"]


def test_all_pairs_of_two_classes_are_compared_pair_by_pair(sweep, tmp_path):
    two = ["hydra.sweeper.pairs=2", "head=softmax,arcface", "dataset.sizes.reference=100"]
    runs = sweep("experiment=all_pairs", *two, "seed=4")
    pairs = [(0, 1), (1, 0)]
    names = {f"{head}-digits-4-normal={a}-anomalous={b}-" for head in ("softmax", "arcface") for a, b in pairs}
    assert {name[: name.index("backbone")] for name in runs} == names
    for name, run in runs.items():
        found = classes(run)
        assert f"normal={found['normal'][0]}-anomalous={found['anomalous'][0]}-" in name
        assert len(found["reference"]) == 8
    result = compare(tmp_path / "multirun/x")
    assert result.conditions == ["dataset", "dataset.normal", "dataset.anomalous"]
    assert (result.averaged, result.ranked, result.holes) == (2, 1, [])
    told = comparison_tables.report(result)
    assert "All 2 conditions share images or draw them from one pool, so they are one block." in told
    assert "mean ranks" not in told
    assert "dataset=digits, dataset.normal=1, dataset.anomalous=0: " in told
    assert "nan" not in told
    assert set(pictures(result)) == {"seeds", "differences", "classes"}


def test_one_against_the_rest_takes_features_as_they_are(sweep):
    runs = sweep("experiment=one_vs_rest", "dataset.normal=3,5", "trainer.max_epochs=0")
    assert len(runs) == 2
    for run in runs.values():
        found, metrics = classes(run), read_json(run.metrics)
        assert (len(found["normal"]), found["reference"], len(found["anomalous"])) == (1, [], 9)
        assert metrics["sizes"]["reference"] == 0
        assert metrics["training"] == {}
        assert {row["class"] for row in rows(run.scores)} == {str(i) for i in range(10)}


@pytest.mark.long
def test_one_against_the_rest_can_learn_from_turned_images(sweep):
    (run,) = sweep("experiment=one_vs_rest", "dataset.normal=3", "dataset.rotations=true", "head=adacos").values()
    split = read_json(run.split)
    assert split["head_classes"] == ["3", "3 at 90°", "3 at 180°", "3 at 270°"]
    assert 0.25 < float(rows(run.epochs)[0]["accuracy"]) <= 1
    assert "classes to tell apart: 4" in run.log.read_text()


@pytest.mark.long
def test_all_but_one_are_told_apart(sweep):
    (run,) = sweep("experiment=leave_one_out", "dataset.anomalous=8").values()
    found = read_json(run.split)
    assert found["classes"] == {"reference": [], "normal": list("012345679"), "anomalous": ["8"]}
    assert found["head_classes"] == list("012345679")
    assert len(found["images"]["normal"]) > 700
    assert {row["class"] for row in rows(run.scores) if row["role"] == "test_normal"} == set("012345679")


@pytest.mark.parametrize("scorer", ["knn", "mahalanobis", "gmm", "lof"])
def test_runs_without_reference_are_scored_again(scorer, train, metrad):
    run = train(*DIGITS, *ALONE, "dataset.normal=[1,2,7]", "trainer.max_epochs=1", f"scorer={scorer}")
    again = metrad("evaluate", run.path, "scorer=centre", "--evidence")
    assert (again.code, again.err) == (0, "")
    assert np.isfinite(read_json(next(run.evaluations.iterdir()) / "metrics.json")["auroc"])


def test_turned_images_train_a_scorer_that_asks_the_head(train, metrad):
    run = train(*DIGITS, *ALONE, "dataset.rotations=true", "trainer.max_epochs=2", "scorer=head", "study.epochs=true")
    assert float(rows(run.study)[-1]["auroc"]) == read_json(run.metrics)["auroc"]
    again = metrad("evaluate", run.path, "scorer=head", "scorer.variant=cosine")
    assert (again.code, again.err) == (0, "")


def test_turned_images_resume(train, comparable):
    turned = [*DIGITS, *ALONE, "dataset.rotations=true"]
    whole = train(*turned, "trainer.max_epochs=2", name="whole")
    half = train(*turned, "trainer.max_epochs=1", name="half")
    resumed = train(*turned, "trainer.max_epochs=2", f"ckpt_path={half.last_checkpoint}", name="resumed")
    assert comparable(resumed) == comparable(whole)
    assert resumed.scores.read_bytes() == whole.scores.read_bytes()


def test_one_class_makes_no_pair(refused):
    said = refused("train", "experiment=all_pairs", "dataset=digits", "hydra.sweeper.pairs=1", words=("at least 2",))
    assert said.startswith("error: hydra.sweeper.pairs must be a number of classes of at least 2, or list them, got 1")
    assert "GridSweeper" not in said
