"""One run from configuration to its directory: what it leaves, that it repeats, resumes, and survives being killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from metrad.files import read_json, unsealed
from metrad.runs.artifacts import load_detector
from tests.helpers.backbones import DROPPING
from tests.helpers.runs import rows
from tests.reference.evaluation.metrics import TWINS

ROOT = Path(__file__).parents[2]


def embeddings(run, names):
    """Embed digits as the run's saved model does, one image at a time and without metrad's data module."""
    embedder = load_detector(run).backend.embedder
    pixels = np.round(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    with torch.inference_mode():
        return np.concatenate([embedder(torch.from_numpy(pixels[int(name)][None])).numpy() for name in names])


def test_a_run_leaves_exactly_the_files_of_a_run_directory(finished_run):
    found = {path.relative_to(finished_run.path).as_posix() for path in finished_run.path.rglob("*") if path.is_file()}
    assert found == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        ".lock",
        "checkpoints/last.ckpt",
        "embeddings/checksums.json",
        "embeddings/embeddings.safetensors",
        "embeddings/images.csv",
        "environment.json",
        "epochs.csv",
        "hardest.png",
        "head.png",
        "logs/hparams.yaml",
        "logs/metrics.csv",
        "manifest.json",
        "metrics.json",
        "model/calibration.safetensors",
        "model/detector.json",
        "model/embedder.safetensors",
        "model/head.safetensors",
        "model/index.faiss",
        "model/fitted.safetensors",
        "model/normal.json",
        "model/scorer.json",
        "model/scorer.safetensors",
        "neighbours.png",
        "properties.csv",
        "roc.png",
        "run.log",
        "scores.csv",
        "scores.png",
        "split.json",
        "status.json",
    }
    assert read_json(finished_run.status)["state"] == "finished"


def test_the_saved_configuration_is_whole(finished_run, digits):
    saved = OmegaConf.load(finished_run.config)
    overrides = OmegaConf.load(finished_run.config.with_name("overrides.yaml"))
    assert [item for item in overrides if not item.startswith("hydra.")] == digits
    assert saved.backbone.channels == [8, 16]
    assert saved.head._target_ == "metrad.models.heads.AdaCos"
    assert not OmegaConf.missing_keys(saved)


def test_the_environment_names_versions_device_and_commit(finished_run):
    environment = read_json(finished_run.environment)
    assert environment["packages"]["torch"] == metadata.version("torch")
    assert environment["device"] == "cpu"
    assert environment["precision"] == "32-true"
    assert len(environment["git_commit"].rstrip("+")) == 40


def test_the_pictures_show_something(finished_run):
    from PIL import Image

    later = ("study", "selection", "unusual", "good_images", "envelope", "synthetic")
    for path in (path for name, path in finished_run.pictures.items() if name not in later):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) >= 200
        assert pixels.std() > 5


def test_metrics_are_those_of_the_scores(finished_run):
    metrics, scores = read_json(finished_run.metrics), rows(finished_run.scores)
    truth = [row["role"] == "test_anomalous" for row in scores]
    values = [float(row["score"]) for row in scores]
    for name, twin in TWINS.items():
        assert metrics[name] == pytest.approx(twin.library(truth, values), abs=1e-6), name


def test_metrics_hold_sizes_and_times(finished_run):
    metrics, split = read_json(finished_run.metrics), read_json(finished_run.split)
    sizes, seconds = metrics["sizes"], metrics["seconds"]
    assert sizes == {role: len(names) for role, names in split["images"].items()}
    assert sizes["reference"] == 160
    assert sizes["test_normal"] == sizes["test_anomalous"] == 40
    assert metrics["split"] == split["hash"]
    assert metrics["copies_left_out"] == metrics["corrupt_left_out"] == 0
    assert set(seconds) == {"prepare", "train", "embed", "fit", "score", "measure", "total"}
    assert sum(seconds.values()) - seconds["total"] <= seconds["total"] + 0.01
    trained = sizes["reference"] + sizes["normal"]
    assert metrics["images_per_second"]["train"] == pytest.approx(trained / seconds["train"], rel=0.05)
    assert np.isfinite(metrics["training"]["loss"])


def test_the_split_is_disjoint_and_of_the_right_classes(finished_run):
    split, target = read_json(finished_run.split), load_digits().target
    images = split["images"]
    everything = [name for names in images.values() for name in names]
    assert len(everything) == len(set(everything))
    assert {target[int(name)] for name in images["reference"]} == set(range(10)) - {7, 9}
    assert {target[int(name)] for role in ("normal", "calibration", "test_normal") for name in images[role]} == {7}
    assert {target[int(name)] for name in images["test_anomalous"]} == {9}
    assert split["head_classes"] == ["0", "1", "2", "3", "4", "5", "6", "8", "7"]


def test_scores_have_one_row_a_test_image_and_its_nearest_normal_image(finished_run):
    scores, images = rows(finished_run.scores), read_json(finished_run.split)["images"]
    by_role = {
        role: sorted(row["image"] for row in scores if row["role"] == role)
        for role in ("test_normal", "test_anomalous")
    }
    assert by_role == {role: sorted(images[role]) for role in by_role}
    assert {row["nearest"] for row in scores} <= set(images["normal"])
    assert all(row["nearest"] == row["nearest_index"] for row in scores)  # digits are named by their position
    assert {row["class"] for row in scores if row["role"] == "test_normal"} == {"7"}


def test_the_index_holds_exactly_the_normal_embeddings(finished_run):
    index = faiss.read_index(str(finished_run.model / "index.faiss"))
    normal = embeddings(finished_run, read_json(finished_run.split)["images"]["normal"])
    assert index.ntotal == read_json(finished_run.metrics)["sizes"]["normal"]
    unit = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    np.testing.assert_allclose(index.reconstruct_n(0, index.ntotal), unit, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "metric", "reduce"),
    [(3, "cosine", "mean"), (3, "cosine", "max"), (3, "cosine", "min"), (2, "l2", "mean")],
)
def test_k_metric_and_reduce_change_the_scores_as_scikit_learn_says(k, metric, reduce, train, digits):
    run = train(*digits, f"scorer.k={k}", f"scorer.metric={metric}", f"scorer.reduce={reduce}")
    scores = rows(run.scores)
    normal = read_json(run.split)["images"]["normal"]
    nearest = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(embeddings(run, normal))
    distances, positions = nearest.kneighbors(embeddings(run, [row["image"] for row in scores]))
    expected = getattr(distances, reduce)(axis=1)
    np.testing.assert_allclose([float(row["score"]) for row in scores], expected, atol=2e-5)
    agree = np.mean([row["nearest"] == normal[first] for row, first in zip(scores, positions[:, 0], strict=True)])
    assert agree > 0.95  # the others are ties within rounding


def test_the_same_seed_repeats_and_another_seed_differs(train, digits, finished_run, comparable):
    torch.rand(5)
    np.random.seed(3)  # noqa: NPY002 - other code's global state must not matter
    same, other = train(*digits, name="same"), train(*digits, "seed=1", name="other")
    assert comparable(same) == comparable(finished_run)
    assert same.scores.read_bytes() == finished_run.scores.read_bytes()
    assert same.split.read_bytes() == finished_run.split.read_bytes()
    assert same.embedder.read_bytes() == finished_run.embedder.read_bytes()
    assert read_json(other.split)["hash"] != read_json(same.split)["hash"]
    assert read_json(other.split)["images"]["normal"] != read_json(same.split)["images"]["normal"]
    assert comparable(other)["auroc"] != comparable(same)["auroc"]


def test_a_run_says_once_that_its_embeddings_are_out_of_the_reach_of_its_head(train, digits):
    said = train(*digits, "head=magface", "trainer.max_epochs=2").log.read_text()
    assert said.count("head.lengths=[10.0, 110.0] were out of reach: 100% of the embeddings were at most 10 long") == 1
    assert said.count("lengths of the embeddings in training: ") == 1


def test_the_environment_has_what_the_last_digits_depend_on(finished_run):
    made = read_json(finished_run.environment)
    assert made["instructions"][0] == torch.backends.cpu.get_cpu_capability()
    assert (made["gpu"], made["threads"], made["ranks"], made["speed"]["compiled"]) == (None, 1, 1, False)
    assert made["packages"]["torch"] == metadata.version("torch")


def assert_resuming_repeats(train, comparable, overrides):
    whole = train(*overrides, "trainer.max_epochs=2", name="whole")
    half = train(*overrides, "trainer.max_epochs=1", name="half")
    resumed = train(*overrides, "trainer.max_epochs=2", f"ckpt_path={half.last_checkpoint}", name="resumed")
    expected, found = load_file(whole.embedder), load_file(resumed.embedder)
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert not all(torch.equal(expected[key], other) for key, other in load_file(half.embedder).items())
    assert comparable(resumed) == comparable(whole)
    assert resumed.scores.read_bytes() == whole.scores.read_bytes()


def test_a_resumed_run_equals_an_uninterrupted_one(train, digits, comparable):
    stateful = ["scheduler=step", "scheduler.step_size=1", "optimizer=sgd", "optimizer.lr=0.01", "head=arcface"]
    assert_resuming_repeats(train, comparable, [*digits, *stateful])


def test_resuming_repeats_what_is_random_inside_the_model(train, digits, comparable):
    assert_resuming_repeats(train, comparable, [*digits, *DROPPING])


@pytest.mark.long
def test_resuming_repeats_the_blocks_that_efficientnet_drops_at_random(train, digits, comparable):
    model = ["backbone=torchvision", "backbone.name=efficientnet_b0", "backbone.weights=null", "image_size=32"]
    overrides = [item for item in digits if not item.startswith("backbone")]
    assert_resuming_repeats(train, comparable, [*overrides, *model])


def test_augmentation_repeats_and_resumes_and_trains_another_model(train, digits, finished_run, comparable):
    overrides = [*digits, "augmentation=all"]
    assert_resuming_repeats(train, comparable, overrides)
    one, two = train(*overrides, name="one"), train(*overrides, name="two")
    assert comparable(one) == comparable(two)
    assert one.embedder.read_bytes() == two.embedder.read_bytes() != finished_run.embedder.read_bytes()
    assert one.scores.read_bytes() == two.scores.read_bytes() != finished_run.scores.read_bytes()
    assert one.split.read_bytes() == finished_run.split.read_bytes()


def test_augmentation_takes_no_part_in_embedding(train, digits):
    untrained = [*digits, "trainer.max_epochs=0"]
    plain, augmented = train(*untrained, name="plain"), train(*untrained, "augmentation=all", name="augmented")
    for name in ("embeddings/embeddings.safetensors", "scores.csv", "model/embedder.safetensors"):
        assert (plain.path / name).read_bytes() == (augmented.path / name).read_bytes()
    trained = train(*digits, "augmentation=all", name="trained")
    kept = load_file(trained.embeddings / "embeddings.safetensors")["test_normal"].numpy()
    names = [row["image"] for row in rows(trained.embeddings / "images.csv") if row["role"] == "test_normal"]
    np.testing.assert_allclose(kept, embeddings(trained, names), atol=1e-5)


@pytest.mark.long
def test_resuming_repeats_where_images_are_streamed(train, small, comparable, image_folders, tmp_path):
    root = image_folders(tmp_path / "images")
    data = ["dataset=image_folder", f"dataset.source.root={root}", "dataset.normal=[a]", "dataset.anomalous=[b]"]
    limits = ["dataset.memory_limit_gib=0", "dataset.disk_limit_gib=0", "batch_size=8"]
    assert_resuming_repeats(train, comparable, [*small, *data, *limits])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_trains(precision, train, digits):
    run = train(*digits, f"trainer.precision={precision}")
    assert read_json(run.metrics)["auroc"] > 0.8
    assert read_json(run.environment)["precision"] == precision


def test_other_arguments_of_lightnings_trainer_are_reachable(train, digits):
    run = train(*digits, "trainer.max_steps=2", "+trainer.min_steps=2", "trainer.gradient_clip_val=1")
    assert torch.load(run.last_checkpoint, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "none"])
def test_loggers_write_into_the_run_directory(logger, train, digits):
    run = train(*digits, f"logger={logger}")
    logs = sorted(path.name for path in run.path.glob("logs/*"))
    if logger == "csv":
        assert "loss" in rows(run.path / "logs/metrics.csv")[0]
    elif logger == "tensorboard":
        assert any(name.startswith("events.out.tfevents") for name in logs)
    else:
        assert not (run.path / "logs").exists()


def test_several_normal_and_anomalous_classes(train, digits):
    run = train(*digits, "dataset.normal=[7,8]", "dataset.anomalous=[9,1]", "dataset.reference=[0,2,3]")
    split = read_json(run.split)
    assert split["head_classes"] == ["0", "2", "3", "7", "8"]
    assert {row["class"] for row in rows(run.scores)} == {"7", "8", "9", "1"}


def test_a_size_left_to_the_weights_is_that_size_told(train, digits):
    left = train(*digits, "image_size=null", name="left")
    size = unsealed(left.model / "detector.json")["embedder"]["image_size"]
    told = train(*digits, f"image_size={size}", name="told")
    assert told.embedder.read_bytes() == left.embedder.read_bytes()
    assert told.scores.read_bytes() == left.scores.read_bytes()


@contextlib.contextmanager
def taking_ctrl_c():
    """Let processes started here take Ctrl-C, which all that stems from the background of a shell ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "state"),
    [
        pytest.param(signal.SIGKILL, "running", id="killed"),
        pytest.param(signal.SIGINT, "interrupted", id="Ctrl-C", marks=pytest.mark.long),
    ],
)
def test_a_stopped_run_does_not_look_finished_and_can_go_on(number, state, metrad, digits, tmp_path):
    run = tmp_path / "run"
    overrides = [*digits, "trainer.max_epochs=100000", f"hydra.run.dir={run}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "train.py", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with taking_ctrl_c(), subprocess.Popen(command, **pipes) as process:
        until = time.monotonic() + 100
        while not (run / "checkpoints/last.ckpt").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert b"Traceback" not in errors
    said = b"stopped by Ctrl-C; go on with ckpt_path=" in errors
    assert said == (number == signal.SIGINT)
    assert read_json(run / "status.json")["state"] == state
    assert not (run / "metrics.json").exists()
    assert not (run / "model").exists()
    refusal = metrad("evaluate", run)
    assert refusal.code == 2
    assert "interrupted, not finished" in refusal.err
