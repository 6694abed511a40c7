"""Runs without anomalous images: what is measured is measured, and the rest is said to be unmeasurable, everywhere."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metrad.app import cli
from metrad.app.evaluate import evaluate_run
from metrad.app.train import recorded
from metrad.errors import InputError
from metrad.evaluation.intervals import exact_interval
from metrad.evaluation.metrics import by_name
from metrad.files import read_json, write_json
from metrad.reports.cells import scores_of
from metrad.reports.report import write_run_report
from metrad.runs.directory import Run
from metrad.sweeps.table import collect, summarise
from tests.helpers.commands import SMALL, isolated, trained
from tests.helpers.runs import rows
from tests.helpers.stored import without_manifest

LONG = pytest.mark.long
PARTS, ODD = 45, "part7_view0"
FROZEN = ["experiment=inspect", *SMALL[:3], "image_size=8"]


def photograph(folder: Path, generator: np.random.Generator, parts: int, name: str = "part") -> None:
    """Write pictures of parts, one or two of each, alike but for noise."""
    folder.mkdir(parents=True)
    for part in range(parts):
        for view in range(1 + part % 2):
            pixels = generator.integers(90, 110, (8, 8, 3)) + np.arange(3) * 20
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}{part}_view{view}.png")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Good parts, one picture of which shows a defect."""
    folder, generator = tmp_path_factory.mktemp("line") / "good", np.random.default_rng(0)
    photograph(folder, generator, PARTS)
    Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{ODD}.png")
    return folder


def data(good, *others):
    group = r"dataset.group='(?P<part>part\d+)_'"
    return [f"dataset.source.root={good}", "dataset.normal=[good]", group, *others]


@pytest.fixture(scope="module")
def made(good, tmp_path_factory):
    with isolated(tmp_path_factory.mktemp("cwd")):
        return trained(tmp_path_factory.mktemp("made") / "run", *FROZEN, *data(good))


@pytest.fixture
def run(made, tmp_path):
    return Run(shutil.copytree(made.path, tmp_path / "run"))


def test_what_takes_anomalies_is_null_and_false_alarms_are_measured(made):
    metrics = read_json(made.metrics)
    assert [metrics[name] for name in by_name()] == [None] * len(by_name())
    assert metrics["intervals"] == {"level": 0.95, "auroc_delong": None, "bootstrap": {}}
    assert metrics["groups"] == {"reference": 0, "normal": 17, "calibration": 19, "test_normal": 9, "test_anomalous": 0}
    (threshold,) = metrics["thresholds"]
    assert threshold["false_alarm_rate"] == 0.05
    assert (threshold["test_detection_rate"], threshold["test_detection_interval"]) == (None, None)
    table = rows(made.scores)
    share = np.mean([float(row["score"]) > threshold["threshold"] for row in table])
    assert threshold["test_false_alarm_rate"] == share
    if share in (0, 1):
        assert threshold["test_false_alarm_interval"] == list(exact_interval(round(9 * share), 9))
    assert {row["role"] for row in table} == {"test_normal"}


def test_a_run_leaves_the_unusual_good_images_and_no_picture_of_what_is_not_there(made):
    there = {path.name for path in made.path.glob("*.*")}
    assert {"unusual.csv", "unusual.png", "neighbours.png", "scores.png"} <= there
    assert not {"roc.png", "hardest.png"} & there
    assert {"unusual.csv", "unusual.png"} <= read_json(made.manifest)["files"].keys()


def test_the_defect_among_the_good_images_is_the_most_unusual(made):
    split = read_json(made.split)["images"]
    table = rows(made.unusual)
    assert table[0]["image"] == f"{ODD}.png"
    distances = [float(row["distance"]) for row in table]
    assert distances == sorted(distances, reverse=True)
    assert {row["image"]: row["role"] for row in table} == {
        name: role for role in ("normal", "calibration", "test_normal") for name in split[role]
    }
    part = re.compile(r"part\d+")
    assert all(part.match(row["image"])[0] != part.match(row["nearest"])[0] for row in table)


@LONG
def test_the_defect_is_found_in_whatever_role_it_has(good, tmp_path):
    roles = set()
    for seed in range(1, 6):
        other = trained(tmp_path / str(seed), *FROZEN, *data(good), f"seed={seed}")
        first = rows(other.unusual)[0]
        assert first["image"] == f"{ODD}.png"
        roles.add(first["role"])
    assert len(roles) > 1


def test_the_report_says_what_cannot_be_measured(made, tmp_path):
    page = write_run_report(made.path, tmp_path / "report.html").read_text()
    assert "no anomalous test images, so no AUROC" in page
    assert "neither AUROC nor another metric can be measured" in page
    assert "not measured" in page
    assert "Most unusual good images" in page
    assert "Normal test images of run with the highest scores" in page
    assert 'id="roc"' not in page
    assert "nan" not in re.sub(r'src="[^"]*"', "", page).lower().replace("nominal", "")


def test_evaluations_and_their_table_have_false_alarms_alone(metrad, run):
    result = metrad("evaluate", run.path, "scorer=knn,lof,mahalanobis", "--evidence")
    assert (result.code, result.err) == (0, "")
    assert "no anomalous test images, so no AUROC" in result.out
    (heading,) = re.findall(r"^run +changes .*$", result.out, re.MULTILINE)
    assert "false_alarms_at_0.05" in heading
    for folder in run.evaluations.iterdir():
        assert not {"roc.png", "hardest.png"} & {path.name for path in folder.iterdir()}
        assert read_json(folder / "metrics.json")["auroc"] is None


def test_scores_again_are_the_same(run):
    folder, metrics = evaluate_run(run.path, [], "again")
    assert (folder / "scores.csv").read_bytes() == run.scores.read_bytes()
    assert metrics["thresholds"] == read_json(run.metrics)["thresholds"]


@pytest.mark.parametrize(
    "change",
    [
        {"auroc": 0.9},
        {"average_precision": 0.5},
        {"sizes": {"test_anomalous": 3}},
        {"sizes": {}},
        {"intervals": {"level": 0.95, "auroc_delong": [0.1, 0.2], "bootstrap": {}}},
    ],
    ids=str,
)
def test_metrics_are_null_without_anomalous_images_and_only_then(run, change):
    without_manifest(run)
    write_json(run.metrics, {**read_json(run.metrics), **change})
    with pytest.raises(InputError, match=r"metrics\.json"):
        run.measured()


def test_a_detection_rate_without_anomalous_images_is_refused(run):
    without_manifest(run)
    metrics = read_json(run.metrics)
    metrics["thresholds"][0]["test_detection_rate"] = 1.0
    write_json(run.metrics, metrics)
    with pytest.raises(InputError, match=r"thresholds\.test_detection_rate must be null"):
        run.measured()


def test_metrics_of_a_run_with_anomalous_images_may_not_be_null(finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.path, tmp_path / "digits"))
    without_manifest(run)
    write_json(run.metrics, {**read_json(run.metrics), "auroc": None})
    with pytest.raises(InputError, match="auroc must be a number from 0 to 1, got None"):
        run.measured()


def test_scores_of_anomalous_images_that_the_metrics_do_not_know_are_refused(run):
    without_manifest(run)
    text = run.scores.read_text().splitlines(keepends=True)
    run.scores.write_text("".join([*text[:-1], text[-1].replace("test_normal", "test_anomalous")]))
    with pytest.raises(InputError, match="does not hold finite scores of normal images"):
        scores_of(run)


@pytest.fixture(scope="module")
def sweep(good, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with isolated(folder):
        cli.train(["-m", *FROZEN, *data(good), "scorer=knn,centre", "sweep=line"])
    return folder / "multirun/line"


def test_the_table_of_a_sweep_counts_its_runs_as_finished(sweep):
    table = collect(sweep)
    assert {row["error"] for row in table} == {"no anomalous test images, so no AUROC"}
    means = summarise(table)
    assert [(row["runs"], row["unfinished"], row["auroc_mean"]) for row in means] == [(1, 0, None)] * 2
    for row in means:
        own = [one["false_alarms_at_0.05"] for one in table if one["scorer"] == row["scorer"]]
        assert row["false_alarms_at_0.05_mean"] == pytest.approx(np.mean(own))
    assert (sweep / "runs.csv").exists()


def test_a_comparison_says_what_cannot_be_compared_and_shows_the_false_alarms(metrad, sweep):
    result = metrad("compare", sweep, "--by", "scorer")
    assert (result.code, result.err) == (0, "")
    assert "none of the 2 finished runs has anomalous test images" in result.out
    assert re.search(r"centre +0\.05 +- +1", result.out)
    assert not (sweep / "comparison").exists()


@LONG
def test_the_same_sweep_again_finds_its_runs_finished(sweep, good, capfd):
    before = {path: path.read_bytes() for path in sweep.glob("*/status.json")}
    with isolated(sweep.parents[1]):
        cli.train(["-m", *FROZEN, *data(good), "scorer=knn,centre", "sweep=line"])
    assert {path: path.read_bytes() for path in sweep.glob("*/status.json")} == before


@LONG
def test_a_sweep_in_which_some_runs_have_anomalous_images_compares_those(good, metrad, tmp_path):
    photograph(tmp_path / "line/good", np.random.default_rng(1), 40)
    photograph(tmp_path / "line/cut", np.random.default_rng(2), 8, name="cut")
    settings = [f"dataset.source.root={tmp_path / 'line'}", "dataset.normal=[good]", "scorer=knn,centre", "seed=0,1"]
    cli.train(["-m", *FROZEN, *settings, "dataset.anomalous=[],[cut]", "sweep=mixed"])
    result = metrad("compare", "multirun/mixed", "--by", "scorer")
    assert (result.code, result.err) == (0, "")
    assert "4 runs, such as" in result.out
    assert "have no anomalous test images" in result.out
    assert "since metrad" not in result.out
    result = metrad("compare", "--csv", "multirun/mixed/runs.csv", "--by", "scorer")
    assert (result.code, result.err) == (0, "")


def test_a_study_notes_the_rank_alone(train, good, tmp_path):
    photograph(tmp_path / "line/other", np.random.default_rng(3), 12)
    shutil.copytree(good, tmp_path / "line/good")
    root = [f"dataset.source.root={tmp_path / 'line'}", "dataset.normal=[good]", "dataset.reference=[other]"]
    run = train("dataset=good_folder", *root, *SMALL, "head=arcface", "study.epochs=true")
    table = rows(run.study)
    assert [row["auroc"] for row in table] == ["", ""]
    assert all(float(row["effective_rank"]) >= 1 for row in table)
    assert "so no AUROC" in write_run_report(run.path).read_text()


@LONG
def test_a_selection_goes_by_stand_ins_and_needs_no_anomalous_images(train, good, tmp_path):
    for number, name in enumerate(("one", "two")):
        photograph(tmp_path / "line" / name, np.random.default_rng(number), 12, name=name)
    shutil.copytree(good, tmp_path / "line/good")
    root = [f"dataset.source.root={tmp_path / 'line'}", "dataset.normal=[good]", "dataset.reference=[one,two]"]
    run = train("dataset=good_folder", *root, *SMALL, "head=arcface", "selection=pseudo_anomaly")
    metrics = read_json(run.metrics)
    assert metrics["auroc"] is None
    assert 0 <= metrics["selection"]["pseudo_anomaly_auroc"] <= 1


def test_a_logger_gets_the_false_alarms(made):
    metrics = read_json(made.metrics)
    assert recorded(metrics) == {"false_alarms_at_0.05": metrics["thresholds"][0]["test_false_alarm_rate"]}
    assert recorded({**metrics, "thresholds": []}) == {}


@LONG
def test_every_logger_takes_a_run_without_thresholds(train, good):
    run = train(*FROZEN, *data(good), "dataset.sizes.calibration=0", "logger=tensorboard")
    assert read_json(run.metrics)["thresholds"] == []


def test_one_class_trains_no_head_and_the_way_out_is_told(turned_down, good):
    line = turned_down(
        *("dataset=good_folder", *data(good), *SMALL), words=("got 1", "experiment=frozen", "experiment=inspect")
    )
    assert "AdaCos" in line


@LONG
def test_rotations_of_one_class_can_be_told_apart(train, good):
    run = train("dataset=good_folder", *data(good), *SMALL, "dataset.rotations=true")
    assert read_json(run.split)["head_classes"] == ["good", "good at 90°", "good at 180°", "good at 270°"]


def test_the_log_names_false_alarms_with_their_interval(made):
    assert not re.search("anomalous test images$", made.log.read_text())
    assert json.dumps(read_json(made.metrics))  # no NaN
