"""Scoring a finished run again: from its own files alone, beside the old results, and never on other data."""

import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.numpy import load_file

from metrad.app import evaluate
from metrad.app.evaluate import evaluate_run
from metrad.errors import InputError
from metrad.files import read_json, sealed, sha256
from metrad.runs.config.catalogue import choices
from metrad.runs.directory import Run
from tests.helpers.runs import rows
from tests.helpers.stored import without_manifest


@pytest.fixture
def run(finished_run, tmp_path):
    return Run(shutil.copytree(finished_run.path, tmp_path / "run"))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_before_version_0_2(run):
    """Give a run the files that runs had before their detectors were bundles."""
    without_manifest(run)
    (run.model / "detector.json").unlink()
    (run.model / "normal.json").unlink()
    names = ("embedder.safetensors", "head.safetensors", "calibration.safetensors", "scorer.json")
    files = {name: sha256(run.model / name) for name in names}
    cfg = run.load_config()
    scorer = OmegaConf.to_container(cfg.scorer, resolve=True)
    for key in ("whiten", "test_time_flip", "finetuning", "selection", "augmentation"):  # which came later still
        del cfg[key]
    OmegaConf.save(cfg, run.config)
    record = {"files": files, "split": sha256(run.split), "scorer": scorer}
    (run.model / "checksums.json").write_text(sealed(record), encoding="utf-8")


@pytest.mark.parametrize("changes", [[], ["scorer=lof"], ["scorer=head"]], ids=str)
def test_a_run_from_before_detectors_were_bundles_is_evaluated_alike(changes, metrad, run, finished_run):
    assert metrad("evaluate", run.path, *changes, "--name", "now").code == 0
    as_before_version_0_2(run)
    result = metrad("evaluate", run.path, *changes, "--name", "before", "--evidence")
    assert (result.code, result.err) == (0, "")
    now, before = (run.evaluations / name for name in ("now", "before"))
    assert "unverified" in result.out
    assert (before / "scores.csv").read_bytes() == (now / "scores.csv").read_bytes()
    assert read_json(before / "metrics.json")["thresholds"] == read_json(now / "metrics.json")["thresholds"]


@pytest.mark.parametrize("name", ["embedder.safetensors", "head.safetensors", "scorer.json", "index.faiss"])
def test_a_changed_file_of_a_run_from_before_is_refused(name, refused, run):
    as_before_version_0_2(run)
    content = bytearray((run.model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.model / name).write_bytes(content)
    refused("evaluate", run.path, words=(name, "checksum"))


def test_without_overrides_the_scores_repeat_bit_for_bit(metrad, run, comparable):
    result = metrad("evaluate", run.path)
    again = Run(run.evaluations / "repeated")
    assert (result.code, result.err) == (0, "")
    assert f"AUROC {read_json(run.metrics)['auroc']:.4f}" in result.out
    assert again.scores.read_bytes() == run.scores.read_bytes()
    assert comparable(again) == {key: value for key, value in comparable(run).items() if key != "training"}


def test_after_an_edit_of_the_configuration_thresholds_are_of_what_is_scored(metrad, run):
    without_manifest(run)
    metrad("evaluate", run.path, "scorer.k=9", "--name", "asked")
    run.config.write_text(run.config.read_text().replace("\n  k: 1\n", "\n  k: 9\n"))
    metrad("evaluate", run.path, "--name", "edited")
    asked, edited = (read_json(run.evaluations / name / "metrics.json") for name in ("asked", "edited"))
    assert edited["thresholds"] == asked["thresholds"]


def test_embeddings_are_made_anew_at_the_size_that_the_weights_were_trained_at(metrad, run):
    before = load_file(run.embeddings / "embeddings.safetensors")
    shutil.rmtree(run.embeddings)
    without_manifest(run)
    run.config.write_text(run.config.read_text().replace("\nimage_size: 16\n", "\nimage_size: null\n"))
    assert OmegaConf.load(run.config).image_size is None
    assert metrad("evaluate", run.path).code == 0
    again = load_file(run.embeddings / "embeddings.safetensors")
    assert all(np.array_equal(again[role], embeddings) for role, embeddings in before.items())


def test_another_k_is_written_beside_and_changes_nothing(metrad, run):
    before = contents(run.path)
    result = metrad("evaluate", run.path, "scorer.k=3", "scorer.reduce=max")
    written = Run(run.evaluations / "scorer.k=3-scorer.reduce=max")
    assert result.code == 0
    assert contents(run.path).items() >= before.items()
    assert {path.name for path in written.path.iterdir()} == {
        *("metrics.json", "scores.csv", "config.yaml", "roc.png", "scores.png")
    }
    assert OmegaConf.load(written.path / "config.yaml").scorer.k == 3
    old, new = rows(run.scores), rows(written.scores)
    assert [row["image"] for row in old] == [row["image"] for row in new]
    assert all(float(a["score"]) <= float(b["score"]) for a, b in zip(old, new, strict=True))
    assert [row["nearest"] for row in old] == [row["nearest"] for row in new]


def test_fewer_good_images_give_a_curve_for_each_scorer_in_its_folder_and_in_the_report(metrad, run, pictures):
    result = metrad("evaluate", run.path, "scorer=knn,head", "--good-images")
    assert (result.code, result.err) == (0, "")
    total = len(run.saved_split()["images"]["normal"])
    for name in ("knn", "head"):
        folder = Run(run.evaluations / f"scorer={name}")
        table, metrics = rows(folder.good_images), read_json(folder.metrics)
        assert [int(row["images"]) for row in table] == [*(size for size in (20, 50, 100, 300) if size < total), total]
        assert float(table[-1]["auroc"]) == metrics["auroc"]
        assert float(table[-1]["detected_at_0.05"]) == metrics["thresholds"][0]["test_detection_rate"]
        with Image.open(folder.pictures["good_images"]) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    assert result.out.count("images  draws  auroc") == 2
    assert "detected_at_0.05" in result.out.split("\n\n")[-1]
    assert metrad("report", run.path).code == 0
    assert (run.path / "report.html").read_text().count("<h3>scorer=") == 2


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
    monkeypatch.setattr(evaluate, "folder", lambda: tmp_path / "conf")
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
    refused("evaluate", run.path, "--evidence", words=("changed",))
    (root / name).unlink()
    refused("evaluate", run.path, "--evidence", words=(name,))
    (root / name).write_bytes(original)
    refused("evaluate", run.path, "--evidence", "dataset.source.root=nowhere", words=("nowhere",))
    assert not run.evaluations.exists()


def test_new_images_and_another_place_change_nothing(folder_run, metrad, tmp_path):
    root, run = folder_run
    (root / "0 a new class").mkdir()
    paint(root / "0 a new class/0.png", "blue")
    paint(root / "a/00.png", "green")
    moved = root.rename(tmp_path / "moved")
    result = metrad("evaluate", run.path, f"dataset.source.root={moved}", "--evidence", "--name", "again")
    assert (run.evaluations / "again/neighbours.png").exists()
    assert (result.code, result.err) == (0, "")
    old, new = rows(run.scores), rows(run.evaluations / "again/scores.csv")
    assert [row["image"] for row in old] == [row["image"] for row in new]
    np.testing.assert_array_equal([row["score"] for row in old], [row["score"] for row in new])


def test_the_images_are_not_needed_any_more(folder_run, metrad):
    root, run = folder_run
    shutil.rmtree(root)
    assert metrad("evaluate", run.path).code == 0
    assert Run(run.evaluations / "repeated").scores.read_bytes() == run.scores.read_bytes()


def test_lost_embeddings_are_made_again(metrad, run):
    before = contents(run.embeddings)
    shutil.rmtree(run.embeddings)
    assert metrad("evaluate", run.path).code == 0
    assert Run(run.evaluations / "repeated").scores.read_bytes() == run.scores.read_bytes()
    assert contents(run.embeddings) == before


def test_reference_images_are_embedded_when_a_scorer_first_needs_them(metrad, run, train, digits):
    before, described = load_file(run.embeddings / "embeddings.safetensors"), rows(run.embeddings / "images.csv")
    result = metrad("evaluate", run.path, "scorer=contrast")
    assert (result.code, result.err) == (0, "")
    assert "no embeddings of reference images were kept" in result.out
    kept = load_file(run.embeddings / "embeddings.safetensors")
    assert kept.keys() == {*before, "reference"}
    assert all(np.array_equal(kept[role], embeddings) for role, embeddings in before.items())
    assert len(kept["reference"]) == len(read_json(run.split)["images"]["reference"])
    reference = [row["image"] for row in rows(run.embeddings / "images.csv")[len(described) :]]
    assert reference == read_json(run.split)["images"]["reference"]
    assert "computing" not in metrad("evaluate", run.path, "scorer=contrast", "scorer.k=3").out
    # As in a run that is trained with this scorer, which has its index saved.
    trained = train(*digits, "scorer=contrast", name="trained")
    first = run.evaluations / "scorer=contrast"
    assert (first / "scores.csv").read_bytes() == trained.scores.read_bytes()
    assert load_file(trained.embeddings / "embeddings.safetensors").keys() == kept.keys()
    assert metrad("evaluate", trained.path).code == 0
    assert (trained.evaluations / "repeated/scores.csv").read_bytes() == trained.scores.read_bytes()


SCORERS = sorted(choices()["scorer"])


def test_all_scorers_at_once_end_in_a_table(metrad, run):
    result = metrad("evaluate", run.path, "scorer=glob(*)")
    assert (result.code, result.err) == (0, "")
    assert {path.name for path in run.evaluations.iterdir()} == {f"scorer={name}" for name in SCORERS}
    table = result.out.split("\n\n")[-1].splitlines()
    assert "false_alarms_at_0.05" in table[0]
    for name, line in zip(SCORERS, table[1:], strict=True):
        metrics = read_json(run.evaluations / f"scorer={name}/metrics.json")
        assert f"scorer={name} " in line
        assert f"{metrics['auroc']:.4f}" in line


def test_of_several_evaluations_one_that_fails_is_told(metrad, run):
    result = metrad("evaluate", run.path, "scorer=knn,gmm", "scorer.k=3")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "scorer=gmm scorer.k=3 failed" in result.err
    assert [path.name for path in run.evaluations.iterdir()] == ["scorer=knn-scorer.k=3"]


def test_a_run_that_cannot_be_written_to_or_read_stops_no_other(metrad, run, tmp_path):
    sweep = {name: Run(shutil.copytree(run.path, tmp_path / "sweep" / name)) for name in ("a", "b", "c")}
    sweep["a"].evaluations.touch()
    sweep["b"].config.write_text(sweep["b"].config.read_text().replace("\n  k: 1\n", "\n  k: ${nothing}\n"))
    result = metrad("evaluate", "sweep", "scorer.reduce=max")
    assert result.code == 1
    assert [line.split(":")[0] for line in result.err.splitlines()] == [
        f"{name} scorer.reduce=max failed" for name in ("a", "b")
    ]
    assert (sweep["c"].evaluations / "scorer.reduce=max/metrics.json").exists()


def test_a_run_is_called_by_its_folder_from_inside_too(metrad, run, monkeypatch):
    monkeypatch.chdir(run.path)
    result = metrad("evaluate", ".", "scorer=knn,lof,gmm", "scorer.k=3")
    assert result.err.startswith("run scorer=gmm scorer.k=3 failed")
    assert [line.split()[0] for line in result.out.split("\n\n")[-1].splitlines()] == ["run", "run", "run"]


def test_rows_that_differ_stand_in_one_table(metrad, run):
    result = metrad("evaluate", run.path, "evaluation.false_alarm_rates=[],[0.1],[0.2]", "evaluation.level=0.5,0.95")
    assert (result.code, result.err) == (0, "")
    table = [line.split("  ") for line in result.out.split("\n\n")[-1].splitlines()]
    head = [cell.strip() for cell in table[0] if cell.strip()]
    assert {"false_alarms_at_0.1", "false_alarms_at_0.2", "interval_0.5", "interval_0.95"} <= set(head)
    assert len(table) == 7
    for line in table[1:]:
        cells = dict(zip(head, [cell.strip() for cell in line if cell.strip()], strict=True))
        assert (cells["false_alarms_at_0.1"] == "-") != ("[0.1]" in cells["changes"])
        assert (cells["interval_0.5"] == "-") != ("level=0.5" in cells["changes"].split("evaluation.")[-1].split())


def test_the_thresholds_are_told(metrad, run):
    (entry,) = read_json(run.metrics)["thresholds"]
    share = 100 * entry["test_false_alarm_rate"]
    told = f"threshold {entry['threshold']:.4g} for 5 % false alarms: above it {share:.1f} %"
    assert told in metrad("evaluate", run.path).out


def test_two_evaluations_at_once_both_keep_their_results(metrad, run, monkeypatch):
    quicker = iter(["scorer=lof"])
    save = evaluate.write_all

    def meanwhile(*arguments):
        for name in quicker:
            (run.evaluations / name).mkdir()
            (run.evaluations / name / "of the other").touch()
        return save(*arguments)

    monkeypatch.setattr(evaluate, "write_all", meanwhile)
    assert metrad("evaluate", run.path, "scorer=lof").code == 0
    assert (run.evaluations / "scorer=lof/of the other").exists()
    assert (run.evaluations / "scorer=lof-2/metrics.json").exists()
    assert {path.name for path in run.evaluations.iterdir()} == {"scorer=lof", "scorer=lof-2"}


def test_a_choice_comes_before_its_settings_in_any_order(metrad, run):
    assert metrad("evaluate", run.path, "scorer.k=2,3", "scorer=lof").code == 0
    metrics = {path.name: OmegaConf.load(path / "config.yaml").scorer for path in run.evaluations.iterdir()}
    assert {name: (cfg._target_, cfg.k) for name, cfg in metrics.items()} == {
        f"scorer.k={k}-scorer=lof": ("metrad.scorers.LOF", k) for k in (2, 3)
    }


def test_a_sweep_is_evaluated_run_by_run(metrad, digits, tmp_path):
    metrad("train", "-m", *digits, "seed=0,1", "scorer.k=500,1", "hydra.sweep.dir=sweep")
    result = metrad("evaluate", "sweep", "scorer=centre")
    assert (result.code, result.err) == (0, "")
    assert result.out.count("left out: ") == 2
    assert len(list(tmp_path.glob("sweep/*/evaluations/scorer=centre/metrics.json"))) == 2
    for folder in tmp_path.glob("sweep/*k=500*"):
        shutil.rmtree(folder)
    for run in tmp_path.glob("sweep/*"):
        (run / "status.json").write_text('{"state": "running"}') if run.is_dir() else None
    assert "none of the 2 runs in sweep is finished" in metrad("evaluate", "sweep").err


def test_thresholds_come_from_the_calibration_images_alone(metrad, run):
    metrad("evaluate", run.path, "evaluation.false_alarm_rates=[0.05,0.2]", "--name", "rates")
    metrics, scores = read_json(run.evaluations / "rates/metrics.json"), rows(run.evaluations / "rates/scores.csv")
    calibration = load_file(run.model / "calibration.safetensors")["scores"]
    assert len(calibration) == metrics["sizes"]["calibration"] == 21
    values = np.array([float(row["score"]) for row in scores])
    truth = np.array([row["role"] == "test_anomalous" for row in scores])
    for entry, rank in zip(metrics["thresholds"], (21, 18), strict=True):
        assert entry["threshold"] == np.sort(calibration)[rank - 1]
        assert entry["test_false_alarm_rate"] == np.mean(values[~truth] > entry["threshold"])
        assert entry["test_detection_rate"] == np.mean(values[truth] > entry["threshold"])
        low, high = entry["test_detection_interval"]
        assert 0 <= low <= entry["test_detection_rate"] <= high <= 1
    expected = [(1 + np.sum(calibration >= np.float32(value))) / 22 for value in values]
    np.testing.assert_allclose([float(row["p_value"]) for row in scores], expected)


def test_without_calibration_images_there_are_scores_but_no_thresholds(train, digits):
    run = train(*digits, "dataset.sizes.calibration=0")
    assert read_json(run.metrics)["thresholds"] == []
    assert {row["p_value"] for row in rows(run.scores)} == {""}
    assert "no threshold for 5 % false alarms, which takes 19 calibration images and not 0" in run.log.read_text()


def test_frozen_features_are_scored_without_training(train, small, refused):
    frozen = ["experiment=frozen", *small[:-3], *small[-2:], "dataset=digits"]
    run = train(*frozen)
    assert read_json(run.metrics)["training"] == {}
    assert not run.pictures["head"].exists()
    assert metrad_scores_vary(run)
    refused("train", *frozen, "scorer=head", words=("scorer=head", "trainer.max_epochs=0"))
    refused("evaluate", run.path, "scorer=head", words=("scorer=head", "trainer.max_epochs=0"))


def metrad_scores_vary(run):
    return len({row["score"] for row in rows(run.scores)}) > 10


def test_the_head_scores_as_it_does_in_the_checkpoint(metrad, run):
    assert metrad("evaluate", run.path, "scorer=head", "scorer.variant=cosine", "--name", "cosine").code == 0
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    embedded = load_file(run.embeddings / "embeddings.safetensors")
    test = np.concatenate([embedded["test_normal"], embedded["test_anomalous"]]).astype(np.float64)
    normal = state["head.weight"].double().numpy()[-1]  # the last of the head's classes
    cosine = test @ normal / np.linalg.norm(test, axis=1) / np.linalg.norm(normal)
    scores = [float(row["score"]) for row in rows(run.evaluations / "cosine/scores.csv")]
    np.testing.assert_allclose(scores, 1 - cosine, atol=1e-5)


def test_an_evaluation_is_not_written_through_a_link_that_leads_out_of_the_run(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(run.evaluations, ignore_errors=True)
    run.evaluations.symlink_to(elsewhere)
    with pytest.raises(InputError, match="evaluations"):
        evaluate_run(run.path, ["scorer.k=2"])
    assert not any(elsewhere.iterdir())
