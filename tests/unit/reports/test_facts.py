"""The head of a run's report: dataset, classes, numbers of images, scorer, and whether there was a head."""

import re

import pytest
from omegaconf import OmegaConf

from metrad.data.splits import ROLES
from metrad.files import read_json, write_json
from metrad.reports.report import write_run_report
from tests.helpers.runs import finished_run


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "run")


def put(run, **settings):
    cfg = OmegaConf.load(run.config)
    for key, value in settings.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    OmegaConf.save(cfg, run.config)


def facts(run):
    page = write_run_report(run.path).read_text(encoding="utf-8")
    header = re.search(r"<header>(.*?)</header>", page, re.DOTALL)[1]
    return re.findall(r"<li>(.*?)</li>", header)


def test_the_dataset_its_classes_and_numbers_of_images_stand_above_the_fold(run):
    classes = {"normal": ["7"], "anomalous": ["9"], "reference": [str(i) for i in range(12)]}
    images = {role: [] for role in ROLES}
    split = {"hash": "", "head_classes": [], "copies_left_out": 0, "corrupt_left_out": [], "images": images}
    write_json(run.split, {**split, "classes": classes})
    sizes = {"reference": 1200, "normal": 100, "calibration": 21, "test_normal": 60, "test_anomalous": 70}
    write_json(run.metrics, {**read_json(run.metrics), "sizes": sizes})
    put(run, dataset__source={"_target_": "metrad.data.sources.ImageFolder", "root": "parts"})
    found = facts(run)
    assert "dataset digits (parts): normal 7; anomalous 9; reference 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more" in found
    assert "images: 1,200 reference, 100 normal, 21 calibration; tested on 60 normal, 70 anomalous" in found


def test_the_scorer_and_the_backbone_stand_above_the_fold_with_their_settings(run):
    put(run, scorer={"_target_": "metrad.scorers.KNN", "k": 5, "metric": "cosine", "nlist": None})
    put(run, backbone={"_target_": "metrad.models.backbones.resnet18", "weights": "imagenet"})
    found = facts(run)
    assert "scorer KNN: k 5, metric cosine" in found
    assert "backbone resnet18: weights imagenet" in found


def test_a_run_that_trained_names_its_head(run):
    put(run, trainer={"max_epochs": 3})
    assert facts(run)[0].startswith("head AdaCos, seed 0: AUROC ")


def test_a_run_without_training_names_no_head(run):
    put(run, trainer={"max_epochs": 0}, head={"_target_": "metrad.models.heads.Softmax"})
    assert facts(run)[0].startswith("features as the weights come, no head, seed 0: AUROC ")
    page = (run.path / "report.html").read_text()
    assert "head Softmax" not in page
    assert "frozen, AUROC" in page


def test_a_run_that_kept_little_has_fewer_facts(run):
    run.config.with_name("hydra.yaml").unlink()
    found = facts(run)
    assert len(found) == 3
    assert "unverified" in found[2]
    assert found[1].startswith("dataset: normal &lt;script&gt;")


def test_references_to_other_settings_of_the_run_are_followed_and_no_resolver_is_called(run, monkeypatch):
    monkeypatch.setenv("SECRET_PLACE", "/secret")
    put(run, dataset__category="screw", mine={"k": 5, "place": "/parts"})
    put(run, dataset__source={"_target_": "metrad.data.layouts.MVTec", "root": "${mine.place}/mvtec"})
    put(run, dataset__source__category="${dataset.category}", scorer={"_target_": "metrad.scorers.KNN"})
    put(run, scorer__k="${mine.k}", scorer__metric="${.k}", scorer__nlist=None)
    found = facts(run)
    assert any(re.match(r"dataset digits screw \(/parts/mvtec\)", line) for line in found)
    assert "scorer KNN: k 5, metric 5" in found
    put(run, dataset__source__root="${mine.place}/mvtec", mine__place="${oc.env:SECRET_PLACE}")
    assert any(re.match(r"dataset digits screw(:|$)", line) for line in facts(run))
    assert "secret" not in run.path.joinpath("report.html").read_text()
