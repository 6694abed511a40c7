"""Trivial properties beside a detector, from a run's images to its metrics, messages, report and comparison."""

import os

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from metrad.app.messages import log_trivial
from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.runs import rows


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return good and anomalous images that differ in nothing but their light, and in the order they were written."""
    generator, root = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for place in range(60):
        kind, level = ("good", 150) if place < 40 else ("bad", 110)
        pixels = generator.normal(level + generator.normal(0, 12), 30, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        path = root / kind / f"{place:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        os.utime(path, (1e9 + place, 1e9 + place))
    return root


@pytest.fixture(scope="module")
def settings(folders):
    roles = ("dataset.normal=[good]", "dataset.anomalous=[bad]", "dataset.test_share=0.4")
    return ("dataset=image_folder", f"dataset.source.root={folders}", *roles, "trainer.max_epochs=0")


def test_a_run_says_what_one_number_tells_and_its_evaluations_agree(train, small, settings, folders, metrad, caplog):
    run = train(*small, *settings)
    metrics, saved = read_json(run.metrics), rows(run.properties)
    tested = [row for row in saved if row["role"].startswith("test_")]
    assert [row["image"] for row in tested] == [row["image"] for row in rows(run.scores)]
    means = [np.asarray(Image.open(folders / row["image"])).mean() for row in tested]
    auroc = roc_auc_score([row["role"] == "test_normal" for row in tested], means)
    assert auroc > 0.9
    assert metrics["trivial"]["grey_mean"] == pytest.approx(auroc)
    assert "width" not in metrics["trivial"]  # all are as wide
    assert "file_time" not in metrics["trivial"]  # all were written in a minute
    best = metrics["beyond_trivial"]
    assert best["auroc"] == max(metrics["trivial"].values()) == metrics["trivial"][best["property"]]
    assert best["difference"] == pytest.approx(metrics["auroc"] - best["auroc"])
    assert best["interval"][0] < 0
    log_trivial(metrics)
    assert caplog.messages[-1].startswith("the detector is not clearly better than a trivial property: the ")
    assert f"AUROC {best['auroc']:.4f}" in caplog.messages[-1]
    folders.rename(folders.with_name("away"))
    result = metrad("evaluate", run.path, "--name", "again")
    folders.with_name("away").rename(folders)
    assert result.code == 0
    assert caplog.messages[-1] in result.out.splitlines()[-1]
    again = read_json(run.evaluations / "again/metrics.json")
    assert (again["trivial"], again["beyond_trivial"]) == (metrics["trivial"], best)
    assert metrad("report", run.path).code == 0
    page = (run.path / "report.html").read_text()
    assert "What one trivial number an image tells" in page
    assert "not clearly better than a trivial property" in page
    without = Run(run.path)
    without.properties.unlink()
    assert "properties.csv" in metrad("evaluate", run.path, "--name", "without").err


def test_a_comparison_has_the_best_property_beside_each_choice(train, small, settings, metrad):
    for head in ("adacos", "arcface"):
        train(*small, *settings, f"head={head}", "trainer.max_epochs=1", "dataset.rotations=true", name=f"sweep/{head}")
    result = metrad("compare", "sweep")
    assert result.code == 0
    assert "best_property" in result.out
    text = next(Run("sweep").path.rglob("comparison.md")).read_text()
    assert "## Trivial" in text
    assert text.count("| background level (median grey of the border) |") + text.count("| mean grey |") == 2


def test_a_run_without_anomalous_images_says_nothing_of_properties(train, small, settings):
    run = train(*small, *settings, "dataset.anomalous=[]")
    assert read_json(run.metrics).keys().isdisjoint({"trivial", "beyond_trivial"})
