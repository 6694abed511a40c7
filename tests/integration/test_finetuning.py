"""Runs whose backbone is held back: resumed, evaluated again, and the settings that are refused."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from metrad.files import read_json
from metrad.models.whitening import within_class_whitening
from metrad.runs.identity import identity
from tests.helpers.runs import rows

HELD = [
    "finetuning.layer_decay=0.8",
    "finetuning.batch_norm=false",
    "finetuning.distillation=0.5",
    "finetuning.ema=0.9",
]


def embeddings(run):
    return load_file(run.embeddings / "embeddings.safetensors")


def test_a_resumed_run_equals_an_unbroken_one(train, digits):
    held = [*digits, *HELD, "augmentation=crop", "study.epochs=true"]
    whole = train(*held, "trainer.max_epochs=2", name="whole")
    half = train(*held, "trainer.max_epochs=1", name="half")
    resumed = train(*held, "trainer.max_epochs=2", f"ckpt_path={half.last_checkpoint}", name="resumed")
    for part in ("embedder", "head", "scores", "study"):
        assert getattr(resumed, part).read_bytes() == getattr(whole, part).read_bytes(), part


def test_the_average_is_what_is_kept_scored_and_studied(train, digits):
    run = train(*digits, "finetuning.ema=0.9", "study.epochs=true")
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    kept = load_file(run.embedder)
    for key, value in kept.items():
        np.testing.assert_array_equal(value, state[f"average.module.{key}"].numpy())
    assert any(not np.array_equal(value, state[f"embedder.{key}"].numpy()) for key, value in kept.items())
    last = run.study.read_text().splitlines()[-1].split(",")
    assert float(last[1]) == read_json(run.metrics)["auroc"]


def test_the_average_moves_once_a_step(train, digits):
    run = train(*digits, "finetuning.ema=0.9", "trainer.accumulate_grad_batches=2")
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    assert checkpoint["state_dict"]["average.n_averaged"].item() == checkpoint["global_step"] > 1


def test_training_that_is_done_is_scored_with_the_average_again(train, digits):
    held = [*digits, "finetuning.ema=0.9"]
    run = train(*held, name="run")
    again = train(*held, f"ckpt_path={run.last_checkpoint}", name="again")
    assert again.embedder.read_bytes() == run.embedder.read_bytes()
    assert again.scores.read_bytes() == run.scores.read_bytes()


@pytest.mark.parametrize("setting", HELD)
def test_each_setting_makes_another_model(setting, train, digits):
    plain, held = train(*digits, name="plain"), train(*digits, setting, name="held")
    assert not np.array_equal(embeddings(plain)["normal"], embeddings(held)["normal"])


def test_strong_distillation_leaves_the_embeddings_where_they_were(train, digits):
    def moved(*overrides, name):
        run = embeddings(train(*digits, "finetuning.batch_norm=false", *overrides, name=name))["normal"]
        cosines = (run * first).sum(1) / np.linalg.norm(run, axis=1) / np.linalg.norm(first, axis=1)
        return 1 - cosines.mean()

    first = embeddings(train(*digits, "trainer.max_epochs=0", name="first"))["normal"]
    assert moved("finetuning.distillation=100", name="held") < 0.5 * moved(name="free")


def test_joined_layers_train_and_are_evaluated_again_from_the_images(train, metrad, small, comparable):
    backbone = ["backbone=mobilenet_v2", "backbone.weights=null", "backbone.layers=[features.3,features.6]"]
    demo = ["dataset=digits", "dataset.sizes.reference=160", *(s for s in small if "backbone" not in s), *backbone]
    run = train(*demo)
    assert embeddings(run)["normal"].shape[1] == 24 + 32
    np.testing.assert_allclose(np.linalg.norm(embeddings(run)["normal"], axis=1), np.sqrt(2), rtol=1e-5)
    before = embeddings(run)
    shutil.rmtree(run.embeddings)
    assert metrad("evaluate", run.path, "scorer.k=2").code == 0
    for role, values in embeddings(run).items():
        np.testing.assert_allclose(values, before[role], rtol=1e-5, atol=1e-6)


def test_whitened_embeddings_are_those_of_the_training_images_map(train, digits):
    digits = [*digits, "scorer=contrast", "scorer.k=5"]  # which keeps the reference embeddings
    plain, run = train(*digits, name="plain"), train(*digits, "whiten=true", "study.epochs=true", name="whitened")
    kept = load_file(run.embedder)
    trained = np.concatenate([embeddings(plain)[role] for role in ("reference", "normal")])
    described = rows(plain.embeddings / "images.csv")
    labels = [row["class_name"] for role in ("reference", "normal") for row in described if row["role"] == role]
    centre, whitening = within_class_whitening(trained, np.array(labels))
    np.testing.assert_allclose(kept["centre"], centre, rtol=1e-3, atol=1e-5 * np.abs(centre).max())
    np.testing.assert_allclose(kept["whitening"], whitening, atol=1e-3 * np.abs(whitening).max())
    assert len(embeddings(plain)) == 5
    for role, values in embeddings(plain).items():
        expected = (values - kept["centre"]) @ kept["whitening"].T
        np.testing.assert_allclose(embeddings(run)[role], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    last = run.study.read_text().splitlines()[-1].split(",")
    assert float(last[1]) == read_json(run.metrics)["auroc"]


def test_a_whitened_run_is_evaluated_again_from_the_images(train, metrad, digits):
    run = train(*digits, "whiten=true")
    before = embeddings(run)
    shutil.rmtree(run.embeddings)
    assert metrad("evaluate", run.path, "scorer=mahalanobis").code == 0
    for role, values in embeddings(run).items():
        np.testing.assert_allclose(values, before[role], rtol=1e-4, atol=1e-4)
    assert "whitened" in metrad("evaluate", run.path, "scorer=head").err


def test_flips_are_part_of_a_run_and_of_what_is_embedded_again(train, metrad, digits):
    run = train(*digits, "test_time_flip=true", "whiten=true")
    plain = run.load_config()
    plain.test_time_flip = False
    assert identity(run.load_config()) != identity(plain)
    before = embeddings(run)
    shutil.rmtree(run.embeddings)
    assert metrad("evaluate", run.path).code == 0
    for role, values in embeddings(run).items():
        np.testing.assert_allclose(values, before[role], rtol=1e-4, atol=1e-4)


def test_settings_that_hold_nothing_back_make_no_other_run(train, digits):
    cfg = train(*digits).load_config()
    older = cfg.copy()
    del older["finetuning"]
    assert identity(older) == identity(cfg)
    older = cfg.copy()
    older.finetuning.ema = 0.5
    assert identity(older) != identity(cfg)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("finetuning.layer_decay=2", ("finetuning.layer_decay", "between 0 and 1", "2")),
        ("finetuning.distillation=-1", ("finetuning.distillation", "at least 0")),
        ("finetuning.distillation=nan", ("finetuning.distillation", "at least 0")),
        ("finetuning.ema=1", ("finetuning.ema", "above 0 and below 1")),
        ("finetuning.emma=0.9", ("finetuning.emma", "did you mean ema?")),
        ("finetuning.batch_norm=frozen", ("finetuning.batch_norm",)),
        ("+backbone.layers=[a]", ("backbone.layers",)),
        ("whiten=maybe", ("whiten",)),
        ("test_time_flip=maybe", ("test_time_flip",)),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(setting, words, turned_down, digits):
    turned_down(*digits, setting, words=words)


def test_a_layer_that_is_not_there_is_one_line(turned_down, small):
    backbone = ["backbone=mobilenet_v2", "backbone.weights=null", "backbone.layers=[features.33]"]
    overrides = [*(s for s in small if "backbone" not in s), "dataset=digits", *backbone]
    turned_down(*overrides, words=("backbone.layers", "features.33", "features.18"))
