"""The curves over the number of good images that a scorer is fitted on."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from metrad.data.prepared import ImageRecord
from metrad.evaluation import good_images
from metrad.evaluation.embeddings import Embedded
from metrad.evaluation.evaluate import evaluate
from metrad.evaluation.good_images import DRAWS, curve, readable
from metrad.evaluation.measures import Settings
from metrad.scorers import KNN, Mahalanobis

SIZES = {"normal": 120, "calibration": 40, "test_normal": 30, "test_anomalous": 20}
SETTINGS = Settings(false_alarm_rates=[0.05], resamples=20)


def made(*, anomalous=20, classes=("good",)):
    """Return embeddings that vary along five axes; anomalous ones lie beside them."""
    generator = np.random.default_rng(0)
    sizes = {**SIZES, "test_anomalous": anomalous}
    arrays = {role: generator.normal(size=(count, 5)).astype(np.float32) for role, count in sizes.items()}
    arrays["test_anomalous"] += 2
    names = {role: [classes[i % len(classes)] for i in range(count)] for role, count in sizes.items()}
    records = {role: [ImageRecord(f"{i}.png", name, i) for i, name in enumerate(each)] for role, each in names.items()}
    return Embedded(arrays, records)


def rows_of(embedded, scorer=None, groups=None):
    scorer = KNN(metric="l2") if scorer is None else scorer
    return curve(scorer, embedded, evaluate(scorer, embedded, SETTINGS, groups=groups), groups)


def test_the_last_row_is_the_evaluation_itself_and_sizes_that_are_not_reached_are_left_out():
    embedded, scorer = made(), KNN(metric="l2")
    whole = evaluate(scorer, embedded, SETTINGS)
    rows = curve(scorer, embedded, whole)
    assert [(row["images"], row["draws"]) for row in rows] == [(20, DRAWS), (50, DRAWS), (100, DRAWS), (120, 1)]
    (entry,) = whole.metrics["thresholds"]
    last = {key: value for key, value in rows[-1].items() if not key.endswith(("_low", "_high"))}
    expected = (whole.metrics["auroc"], entry["test_false_alarm_rate"], entry["test_detection_rate"])
    assert tuple(last.values()) == (120, 1, *expected)


@pytest.fixture
def fitted(monkeypatch):
    """Collect the positions of the normal images that a scorer is fitted on, of three draws."""
    monkeypatch.setattr(good_images, "DRAWS", 3)
    everything, subsets, fit = made().arrays["normal"].tolist(), [], KNN.fit

    def noted(self, normal, *rest, **more):
        subsets.append([everything.index(one) for one in normal.tolist()])
        return fit(self, normal, *rest, **more)

    monkeypatch.setattr(KNN, "fit", noted)
    return subsets


def test_each_draw_fits_the_scorer_anew_to_some_of_the_normal_images(fitted):
    rows_of(made())
    assert [len(positions) for positions in fitted] == [120, *[20] * 3, *[50] * 3, *[100] * 3]
    subsets = [set(positions) for positions in fitted]
    assert [len(subset) for subset in subsets] == [len(positions) for positions in fitted]
    for draw in (1, 2, 3):
        assert subsets[draw] < subsets[draw + 3] < subsets[draw + 6]
    assert subsets[1] != subsets[2]


def test_the_same_call_gives_the_same_rows_and_means_lie_between_their_ends():
    rows = rows_of(made())
    assert rows == rows_of(made())
    for row in rows:
        for name in ("auroc", "false_alarms_at_0.05", "detected_at_0.05"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert rows[0]["auroc_low"] < rows[0]["auroc_high"]


def test_images_of_a_group_come_in_together(fitted):
    numbers = np.random.default_rng(1).permutation(np.repeat(np.arange(24), 5))
    rows_of(made(), groups=grouped(numbers))
    for positions in fitted[1:]:
        counts = np.bincount(numbers[positions], minlength=24)
        assert sorted(set(counts)) == [0, 5]
    assert len({frozenset(positions) for positions in fitted[1:4]}) == 3


def grouped(normal):
    """Return groups of two images in calibration and test; 20 to calibrate with, in no order."""
    numbers = {role: np.arange(count) // 2 for role, count in SIZES.items()}
    return {**numbers, "calibration": np.random.default_rng(2).permutation(numbers["calibration"]), "normal": normal}


@pytest.mark.parametrize("groups", [None, grouped(np.arange(120) // 3)], ids=["images", "groups"])
def test_a_draw_has_the_figures_of_an_evaluation_with_these_normal_images(groups, fitted, monkeypatch):
    monkeypatch.setattr(good_images, "DRAWS", 1)
    embedded = made()
    row = rows_of(embedded, groups=groups)[1]
    less = replace(embedded, arrays=embedded.arrays | {"normal": embedded.arrays["normal"][fitted[2]]})
    less.records["normal"] = [embedded.records["normal"][i] for i in fitted[2]]
    metrics = evaluate(KNN(metric="l2"), less, SETTINGS, groups=groups).metrics
    (entry,) = metrics["thresholds"]
    assert (row["images"], row["auroc"]) == (50, metrics["auroc"])
    assert row["false_alarms_at_0.05"] == entry["test_false_alarm_rate"]
    assert row["detected_at_0.05"] == entry["test_detection_rate"]


def test_without_anomalous_images_there_are_false_alarms_alone():
    row = rows_of(made(anomalous=0))[0]
    assert list(row)[2:] == [f"false_alarms_at_0.05{end}" for end in ("", "_low", "_high")]


def test_a_size_that_a_scorer_cannot_be_fitted_with_is_left_out_and_logged(caplog):
    with caplog.at_level(logging.WARNING):
        rows = rows_of(made(), KNN(k=30, metric="l2"))
    assert [row["images"] for row in rows] == [50, 100, 120]
    assert "20 good images are left out" in caplog.text


def test_a_class_that_a_subset_lacks_is_no_error():
    classes = ["a"] * 60 + ["b"]
    assert [row["images"] for row in rows_of(made(classes=classes))] == [20, 50, 100, 120]
    assert [row["images"] for row in rows_of(made(classes=("a", "b")), Mahalanobis())] == [20, 50, 100, 120]


def test_the_table_for_readers_has_each_figure_in_one_text():
    row = {"images": 20.0, "draws": 2.0, "auroc": 0.5, "auroc_low": 0.25, "auroc_high": 0.75}
    assert readable([row]) == [{"images": 20, "draws": 2, "auroc": "0.500 (0.250 to 0.750)"}]
