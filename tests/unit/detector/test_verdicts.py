"""Alarms and thresholds: those of the conformal functions, by name, and refused where too few images support them."""

import numpy as np
import pytest

from metrad.detector.verdicts import Verdicts, threshold
from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration, confident_threshold, conformal_p_values, conformal_threshold
from tests.helpers.detectors import noise, small_detector

SCORES = np.random.default_rng(0).normal(size=80)


def test_alarms_are_the_scores_with_a_p_value_of_at_most_the_rate():
    detector = small_detector(calibration=40)
    verdicts = detector.score(noise(60, 1))
    for rate in (0.05, 0.1, 0.5):
        assert np.array_equal(verdicts.anomalous(rate), verdicts.p_values <= rate)
        assert np.array_equal(verdicts.anomalous(rate), verdicts.scores > detector.threshold(rate))
    expected = conformal_p_values(detector.calibration.scores, verdicts.scores)
    assert np.array_equal(verdicts.p_values, expected)


def test_thresholds_are_those_of_the_conformal_functions():
    calibration = Calibration(SCORES)
    assert threshold(calibration, 0.05) == conformal_threshold(SCORES, 0.05)
    assert threshold(calibration, 0.05, 0.95) == confident_threshold(SCORES, 0.05, 0.95)


def test_the_default_thresholds_are_named_and_only_those_with_enough_images():
    detector = small_detector()
    detector.calibration = Calibration(np.sort(SCORES))
    assert list(detector.thresholds) == ["rate 0.05", "rate 0.05 with confidence 0.95"]
    assert {name: one.value for name, one in detector.thresholds.items()} == {
        "rate 0.05": detector.threshold(0.05),
        "rate 0.05 with confidence 0.95": detector.threshold(0.05, 0.95),
    }
    detector.calibration = Calibration(np.sort(SCORES), np.arange(80) // 4)
    assert list(detector.thresholds) == ["rate 0.05"]
    detector.calibration = Calibration(np.empty(0))
    assert detector.thresholds == {}


@pytest.mark.parametrize(
    ("rate", "confidence", "groups", "words"),
    [
        (0.01, None, None, "takes 99 calibration images, and this detector has 80"),
        (0.01, 0.95, None, "with confidence 0.95 takes 299 calibration images, and this detector has 80"),
        (0.05, 0.95, np.arange(80) // 2, "takes 59 calibration groups of images, and this detector has 40"),
        (0, None, None, "rate must lie between 0 and 1, ends excluded, got 0"),
        (float("nan"), None, None, "rate must lie between 0 and 1"),
        (0.05, 1, None, "confidence must lie between 0 and 1, ends excluded, got 1"),
    ],
)
def test_a_rate_that_cannot_be_promised_is_refused_with_the_number_needed(rate, confidence, groups, words):
    with pytest.raises(InputError, match=words):
        threshold(Calibration(SCORES, groups), rate, confidence)


def test_without_calibration_images_there_are_scores_and_no_p_values():
    verdicts = small_detector(calibration=0).score(noise(3, 1))
    assert np.isfinite(verdicts.scores).all()
    assert np.isnan(verdicts.p_values).all()
    with pytest.raises(InputError, match="takes 19 calibration images, and this detector has 0"):
        verdicts.anomalous()


def test_a_table_has_a_row_for_each_image():
    verdicts = small_detector().score([noise(1, 1)[0], "gone.png"])
    table = verdicts.to_pandas()
    assert isinstance(verdicts, Verdicts)
    assert len(verdicts) == len(table) == 2
    assert table["image"].tolist() == ["0", "gone.png"]
    assert np.array_equal(table["score"], verdicts.scores, equal_nan=True)
    assert table["error"].tolist() == verdicts.errors


def test_verdicts_are_described_in_one_line():
    verdicts = small_detector().score([*noise(3, 1), "gone.png"])
    assert repr(verdicts) == "Verdicts(4 images, 1 with errors, 30 calibration images)"
