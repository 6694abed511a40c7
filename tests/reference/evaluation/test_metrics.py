"""Metrics against slow twins and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from metrad.evaluation.metrics import roc_curve, summary
from tests.reference.evaluation import metrics as slow

GENERATOR = np.random.default_rng(0)

# Scores on a grid, so that ties are common.
cases = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.integers(-20, 20).map(lambda v: v / 4)),
        hnp.arrays(bool, n).filter(lambda truth: truth.any() and not truth.all()),
    )
)


@given(cases)
@settings(deadline=None, max_examples=100)
def test_figures_equal_twins_and_scikit_learn(case):
    scores, truth = case
    figures = summary(scores, truth)
    assert figures["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert figures["auroc"] == pytest.approx(slow.auroc(scores, truth), abs=1e-6)
    assert figures["average_precision"] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    assert figures["average_precision"] == pytest.approx(slow.average_precision(scores, truth), abs=1e-6)
    assert figures["fpr_at_95_tpr"] == pytest.approx(slow.fpr_at_tpr(scores, truth), abs=1e-6)
    assert figures["partial_auroc"] == pytest.approx(roc_auc_score(truth, scores, max_fpr=0.1), abs=1e-6)
    assert figures["partial_auroc"] == pytest.approx(slow.partial_auroc(scores, truth), abs=1e-6)


@given(cases)
@settings(deadline=None, max_examples=50)
def test_figures_do_not_change_with_scale_or_shift_of_the_scores(case):
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
