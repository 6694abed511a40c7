"""Metrics against slow twins and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from metrad.evaluation.metrics import by_name, roc_curve, summary
from tests.reference.evaluation.metrics import TWINS

GENERATOR = np.random.default_rng(0)

# Scores on a grid, so that ties are common.
cases = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.integers(-20, 20).map(lambda v: v / 4)),
        hnp.arrays(bool, n).filter(lambda truth: truth.any() and not truth.all()),
    )
)


@given(cases)
@settings(deadline=None, max_examples=60)
def test_metrics_equal_twins_and_scikit_learn(case):
    scores, truth = case
    found = summary(scores, truth)
    assert list(found) == list(by_name()) == list(TWINS), "every metric needs a twin"
    for name, twin in TWINS.items():
        assert found[name] == pytest.approx(twin.library(truth, scores), abs=1e-9), name
        assert found[name] == pytest.approx(twin.by_hand(scores, truth), abs=1e-9), name


@given(cases)
@settings(deadline=None, max_examples=30)
def test_metrics_do_not_change_with_scale_or_shift_of_the_scores(case):
    scores, truth = case
    assert summary(100 * scores, truth) == summary(scores, truth) == summary(scores + 1000, truth)


def test_scores_outside_0_to_1_keep_their_order():
    truth = GENERATOR.random(2000) < 0.5
    scores = GENERATOR.random(2000) + 0.3 * truth
    assert summary(1e4 * scores, truth)["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)


def test_the_roc_curve_rises_from_0_to_1():
    truth = np.array([False, True, False, True])
    false_positive_rate, true_positive_rate = roc_curve(np.array([0.1, 0.4, 0.35, 0.8]), truth)
    np.testing.assert_allclose(false_positive_rate, [0, 0, 0, 0.5, 1])
    np.testing.assert_allclose(true_positive_rate, [0, 0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([1.0, np.nan], [True, False], "not finite"),
        ([1.0, 2.0], [True, True], "both normal and anomalous"),
        ([1.0, 2.0, 3.0], [True, False], "one length"),
    ],
)
def test_scores_that_cannot_be_measured_are_refused(scores, truth, message):
    with pytest.raises(ValueError, match=message):
        summary(np.array(scores), np.array(truth))
