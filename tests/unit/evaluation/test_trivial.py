"""Trivial properties beside a detector: their AUROC in the better direction, and the sentence on a detector."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from metrad.data.properties import PLACES, unknown
from metrad.evaluation.trivial import not_beyond, trivial

ANOMALOUS = np.arange(40) >= 20


def table(**columns: object) -> np.ndarray:
    values = unknown(40)
    for name, column in columns.items():
        values[:, PLACES[name]] = column
    return values


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=40)


def test_each_property_has_its_auroc_in_the_better_direction():
    darker = noise(0) - 1.5 * ANOMALOUS
    found = trivial(noise(1), ANOMALOUS, table(grey_mean=darker, grey_spread=noise(2), width=32), 0.95)
    assert list(found["trivial"]) == ["grey_mean", "grey_spread"]
    assert found["trivial"]["grey_mean"] == pytest.approx(1 - roc_auc_score(ANOMALOUS, darker))
    assert min(found["trivial"].values()) >= 0.5
    assert found["beyond_trivial"]["property"] == "grey_mean"


def test_a_kind_counts_by_the_one_that_tells_most_whatever_its_number():
    kinds = np.where(np.arange(40) < 10, 9.0, np.where(ANOMALOUS, 5.0, 1.0))  # in between, the anomalous ones
    assert trivial(noise(0), ANOMALOUS, table(camera=kinds), 0.95)["trivial"] == {"camera": 1.0}


def test_a_property_that_only_some_files_have_tells_them():
    known = np.where(ANOMALOUS, np.nan, -3.0)
    assert trivial(noise(0), ANOMALOUS, table(exposure=known), 0.95)["trivial"] == {"exposure": 1.0}


def test_a_detector_that_is_no_better_is_told_the_property():
    values, scores = table(grey_mean=noise(0) + 2 * ANOMALOUS), noise(3) + 2 * ANOMALOUS
    metrics = {"auroc": roc_auc_score(ANOMALOUS, scores), **trivial(scores, ANOMALOUS, values, 0.95)}
    line = not_beyond(metrics)
    assert line is not None
    assert "mean grey" in line
    assert f"{metrics['trivial']['grey_mean']:.4f}" in line
    assert "\n" not in line


def test_a_detector_that_is_clearly_better_is_told_nothing():
    scores = noise(3) + 4 * ANOMALOUS
    metrics = {"auroc": 1.0, **trivial(scores, ANOMALOUS, table(grey_mean=noise(0)), 0.95)}
    assert metrics["beyond_trivial"]["interval"][0] > 0
    assert not_beyond(metrics) is None


def test_two_that_are_both_perfect_are_alike():
    metrics = {"auroc": 1.0, **trivial(ANOMALOUS * 1.0, ANOMALOUS, table(grey_mean=ANOMALOUS * 5.0), 0.95)}
    assert metrics["beyond_trivial"]["interval"] == [0, 0]
    assert not_beyond(metrics) is not None


def test_groups_widen_the_interval():
    scores, values, groups = noise(3) + ANOMALOUS, table(grey_mean=noise(0)), np.arange(40) // 5
    alone, grouped = (trivial(scores, ANOMALOUS, values, 0.95, each) for each in (None, groups))
    assert alone["trivial"] == grouped["trivial"]
    assert alone["beyond_trivial"]["interval"] != grouped["beyond_trivial"]["interval"]


def test_without_anomalous_images_and_in_older_runs_nothing_is_said():
    assert trivial(noise(0), np.zeros(40, dtype=bool), table(grey_mean=noise(1)), 0.95) == {}
    assert not_beyond({"auroc": None}) is None
    assert not_beyond({"auroc": 0.9}) is None


def test_images_that_differ_in_nothing_have_no_best_property():
    found = trivial(noise(0), ANOMALOUS, table(width=3), 0.95)
    assert found == {"trivial": {}}
    assert not_beyond({"auroc": 0.9, **found}) is None


def test_a_single_anomalous_image_has_an_auroc_and_no_interval():
    found = trivial(noise(0), np.arange(40) == 3, table(grey_mean=noise(1)), 0.95)
    assert found["trivial"].keys() == {"grey_mean"}
    assert not_beyond({"auroc": 0.9, **found}) is None
