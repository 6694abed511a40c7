"""The schema agrees with the YAML files and the manual, and gives old runs the identities that they have."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from metrad.app.cli import manual
from metrad.evaluation.conformal import alarms
from metrad.evaluation.measures import Settings
from metrad.runs.config import checks, schema
from metrad.runs.config.schema import LATER, PARTS, SETTINGS, Config, EvaluationSettings
from metrad.runs.identity import differences, identity
from metrad.training.finetuning import Finetuning

ROOT = next(folder for folder in Path(__file__).parents if (folder / "conf").is_dir())
CONF = ROOT / "conf"
# Settings without others below them and without a class to build.
SINGLE = {key: setting for key, setting in SETTINGS.items() if not setting.group and key not in PARTS}
OWN = {key: setting for key, setting in SINGLE.items() if key.partition(".")[0] not in PARTS}
TILES = ["finetuning.ema=0.9", "whiten=true", "backbone=resnet18", "test_time_flip=true"]


@pytest.fixture(scope="module")
def demo():
    return composed("experiment=demo")


def composed(*overrides):
    checks.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The runs of the article, as an earlier version made them."""
    folder = tmp_path_factory.mktemp("article")
    with tarfile.open(ROOT / "docs/results/article/runs.tar.xz") as file:
        file.extractall(folder, filter="data")
    return sorted(path.parent for path in folder.glob("*/status.json"))


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def written(name):
    content = OmegaConf.to_container(OmegaConf.load(CONF / name), resolve=False)
    return dict(leaves({key: value for key, value in content.items() if key not in ("defaults", "hydra", "scorers")}))


def defaults(*leave_out):
    return {key: setting.default for key, setting in OWN.items() if not key.startswith(leave_out)}


def test_the_yaml_files_have_every_key_of_the_schema_with_its_default():
    assert written("config.yaml") == defaults("dataset.", "selection")
    chosen = {f"selection.{key}": value for key, value in written("selection/pseudo_anomaly.yaml").items()}
    expected = {key: value for key, value in defaults().items() if key.startswith("selection.")}
    assert {**chosen, "selection.scorers": {}} == expected


def test_the_defaults_for_python_are_those_of_the_schema():
    assert dataclasses.asdict(Settings()) == dataclasses.asdict(EvaluationSettings())
    assert dataclasses.asdict(Finetuning()) == dataclasses.asdict(schema.FinetuningSettings())


def test_the_defaults_keep_their_own_rules(demo):
    given = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Config), demo), resolve=True)
    Config(**given)
    for group in ("evaluation", "finetuning", "study", "sweep"):
        Config(**{key: value for key, value in given.items() if key != group})


def test_every_setting_is_described_in_the_manual_with_default_and_range():
    text = " ".join(manual().partition("Settings of every run")[2].split())
    missing = [key for key, setting in OWN.items() if not setting.description or f" {key}" not in text]
    assert missing == []
    for setting in OWN.values():
        assert setting.description in text
        assert "\n" not in setting.description
    assert (
        "seed=0 seed of the split, the order of the images and the initial weights (between 0 and 4294967295)" in text
    )
    assert "finetuning.ema=null decay" in text
    assert "(above 0 and below 1, or null)" in text
    assert "compile=auto whether to train with torch.compile" in text
    assert "(auto, true or false)" in text
    assert "paths.data=data folder" in text
    assert "???" not in text
    assert max(len(line) for line in manual().partition("Settings of every run")[2].splitlines()) <= 120


def test_the_schema_needs_no_torch_and_no_hydra():
    heavy = "{'torch', 'numpy', 'hydra', 'omegaconf', 'pytorch_lightning', 'faiss', 'matplotlib', 'pandas'}"
    code = f"import sys, metrad.runs.config.schema; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_setting_says_which_version_brought_it_and_what_older_runs_stand_for(archive):
    """A new setting fails here until its ``Key`` says ``since``, and then until it says ``before``."""
    first = dict(leaves(OmegaConf.to_container(OmegaConf.load(archive[0] / ".hydra/config.yaml"))))
    null = ("candidates", "classes", "normal_share", "scorers", "apply")  # all of selection at that time
    first |= {f"selection.{key}": None for key in null}
    aside = tuple(f"{key}." for key in schema.WITHOUT_IDENTITY)
    for key, setting in SINGLE.items():
        assert re.fullmatch(r"\d+\.\d+", setting.key.since)
        assert (setting.key.since == "0.1") == (key in first), f"{key} came later than 0.1: Key(since=…)"
        if key not in first and not f"{key}.".startswith(aside):
            assert key in LATER, f"{key} is new: Key(before=…) says which value older runs stand for"


def test_the_identities_of_the_article_s_runs_are_what_they_were(archive):
    assert len(archive) == 30
    for run in archive:
        noted = json.loads((run / "status.json").read_text())
        assert identity(OmegaConf.load(run / ".hydra/config.yaml")) == noted["identity"]


@pytest.mark.parametrize(
    ("overrides", "hashed"),  # by the version before there was a schema in one place
    [
        ([], "53e4918f5cbb10def1d524f39aecf875"),
        (["experiment=demo"], "f3b879f0868fb8639de773f4ed5e8904"),
        (["experiment=best", "seed=3"], "2ceee1df1521a6501a54414dab64759a"),
        (
            ["selection=pseudo_anomaly", "finetuning.distillation=1", "augmentation=all"],
            "6a2557e53e318236705d34616f37ff6c",
        ),
        (
            # without groups, since the dataset says its groups now: earlier runs had the photographs of a tile on both
            # sides of their split, so a run by tile is another run, and theirs is this one
            ["dataset=magnetic_tile", "dataset.group=null", *TILES],
            "a1fdc3539dcd1242178a36790ff74d3d",
        ),
        (["dataset=magnetic_tile", *TILES], "aea99623d2a695d29cc36dc103db9e95"),
        (
            ["experiment=demo", "dataset.test_share=1", "scheduler=cosine", "trainer=ddp"],
            "193d6d6137b1ca6087262b33a74a1b4e",
        ),
    ],
)
def test_the_identities_of_composed_configurations_are_what_they_were(overrides, hashed):
    assert identity(composed(*overrides)) == hashed


@pytest.mark.parametrize("key", [*LATER, "made_up", "backbone.made_up"])
def test_a_run_without_a_later_setting_is_the_run_with_the_value_it_stands_for(key, demo, monkeypatch):
    monkeypatch.setitem(LATER, "made_up", "plain")
    monkeypatch.setitem(LATER, "backbone.made_up", "plain")
    plain = OmegaConf.to_container(demo)
    if key.startswith("selection."):
        plain["selection"] = {"apply": True}
    with_it, without, other = (OmegaConf.create(plain) for _ in range(3))
    OmegaConf.update(with_it, key, LATER[key], force_add=True, merge=False)
    OmegaConf.update(other, key, "other", force_add=True, merge=False)
    group, _, name = key.rpartition(".")
    (OmegaConf.select(without, group) if group else without).pop(name, None)
    assert identity(with_it) == identity(without)
    assert differences(with_it, without) == []
    assert identity(other) != identity(without)


def test_the_alarms_of_the_article_s_runs_are_those_of_their_scores(archive):
    """Metrics and scores as an earlier version wrote them."""
    for run in archive:
        with (run / "scores.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        scores = np.array([row["score"] for row in rows], dtype=float)
        normal = np.array([row["role"] == "test_normal" for row in rows])
        for entry in json.loads((run / "metrics.json").read_text())["thresholds"]:
            for above in (alarms(scores, entry["threshold"]), alarms(scores.astype(np.float32), entry["threshold"])):
                assert above[normal].mean() == entry["test_false_alarm_rate"]
                assert above[~normal].mean() == entry["test_detection_rate"]
