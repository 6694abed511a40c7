"""Metrics of each anomalous class: each against all normal images."""

import numpy as np
import pytest

from metrad.evaluation.metrics import by_class, by_name, summary

SCORES = np.array([0.1, 0.2, 0.3, 0.25, 0.8, 0.9, 0.05])
TRUTH = np.array([False, False, False, True, True, True, True])


def test_each_anomalous_class_is_measured_against_all_normal_images():
    found = by_class(SCORES, TRUTH, ["good", "fine", "good", "scratch", "dent", "scratch", "dent"])
    assert list(found) == ["scratch", "dent"]
    for name, rows in (("scratch", [0, 1, 2, 3, 5]), ("dent", [0, 1, 2, 4, 6])):
        assert found[name] == {"images": 2, **summary(SCORES[rows], TRUTH[rows])}
        assert list(found[name]) == ["images", *by_name()]


def test_the_auroc_is_the_mean_over_classes_by_their_images():
    found = by_class(SCORES, TRUTH, ["good", "fine", "good", "scratch", "dent", "dent", "dent"])
    mean = sum(entry["auroc"] * entry["images"] for entry in found.values()) / 4
    assert mean == pytest.approx(summary(SCORES, TRUTH)["auroc"])


def test_a_single_anomalous_class_has_no_figures_of_its_own():
    assert by_class(SCORES, TRUTH, ["a", "b", "c", *["scratch"] * 4]) == {}


def test_a_normal_class_of_the_same_name_stays_normal():
    found = by_class(SCORES, TRUTH, ["dent", "dent", "dent", "scratch", "dent", "scratch", "dent"])
    assert found["dent"]["images"] == 2
    assert found["dent"] == by_class(SCORES, TRUTH, ["x", "x", "x", "scratch", "dent", "scratch", "dent"])["dent"]
