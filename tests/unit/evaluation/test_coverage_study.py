"""Intervals and thresholds over many simulated sets of scores: do they keep what they promise?"""

import numpy as np
import pytest
from scipy.special import ndtri

from metrad.evaluation.conformal import conformal_p_values, conformal_threshold
from metrad.evaluation.intervals import bootstrap_intervals, delong_interval

# Chosen beforehand, and every one is used.
SEEDS = (0, 1, 2)
DRAWS = 2000
LONG = pytest.mark.long


def tied(generator, shape):
    return generator.poisson(1.5, size=shape)


def continuous(generator, shape):
    return generator.gamma(2.0, size=shape)


def false_alarm_rates(sample, n, alpha, seed):
    """Shares of 1,000 fresh normal scores above the threshold of n others, for each of DRAWS sets."""
    generator = np.random.default_rng(seed)
    thresholds = [conformal_threshold(scores, alpha) for scores in sample(generator, (DRAWS, n))]
    return (sample(generator, (DRAWS, 1000)) > np.array(thresholds)[:, None]).mean(axis=1)


@pytest.mark.parametrize("sample", [continuous, tied])
@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (99, 0.01), (100, 0.05), (250, 0.1), (500, 0.01)])
def test_the_threshold_keeps_its_false_alarm_rate(sample, n, alpha):
    rates = false_alarm_rates(sample, n, alpha, seed=0)
    assert rates.mean() <= alpha + 3 * rates.std() / DRAWS**0.5


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (99, 0.01), (100, 0.05), (250, 0.1), (500, 0.01)])
def test_the_threshold_of_continuous_scores_gives_nothing_away(n, alpha):
    rates = false_alarm_rates(continuous, n, alpha, seed=1)
    # The next lower rank would raise the rate by 1 / (n + 1), and beyond alpha.
    assert rates.mean() >= alpha - 1 / (n + 1) - 3 * rates.std() / DRAWS**0.5
    best = np.floor((n + 1) * alpha + 1e-9) / (n + 1)
    assert rates.mean() == pytest.approx(best, abs=4 * rates.std() / DRAWS**0.5)


@pytest.mark.parametrize("sample", [continuous, tied])
def test_p_values_of_normal_scores_are_no_smaller_than_uniform_ones(sample):
    generator = np.random.default_rng(0)
    p_values = np.concatenate([conformal_p_values(sample(generator, 30), sample(generator, 1)) for _ in range(20_000)])
    for alpha in (0.05, 0.1, 0.25, 0.5):
        assert (p_values <= alpha).mean() <= alpha + 3 * (alpha * (1 - alpha) / len(p_values)) ** 0.5


def binormal_sets(auroc, normal, anomalous, draws):
    """Draws of scores of unit spread whose true AUROC is the one given, for every seed."""
    truth = np.arange(normal + anomalous) >= normal
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        for _ in range(draws):
            yield generator.normal(size=len(truth)) + truth * 2**0.5 * ndtri(auroc), truth


@pytest.mark.parametrize("auroc", [pytest.param(0.7, marks=LONG), pytest.param(0.9, marks=LONG), 0.97])
@pytest.mark.parametrize(
    ("normal", "anomalous"), [(50, 50), pytest.param(200, 200, marks=LONG), pytest.param(300, 60, marks=LONG)]
)
def test_delong_intervals_hold_the_true_auroc_as_often_as_they_say(auroc, normal, anomalous):
    intervals = [delong_interval(*one) for one in binormal_sets(auroc, normal, anomalous, DRAWS)]
    coverage = np.mean([low <= auroc <= high for low, high in intervals])
    assert 0.93 <= coverage <= 0.97


@LONG
def test_bootstrap_intervals_hold_the_true_auroc_as_often_as_they_say():
    sets = binormal_sets(0.9, 200, 200, draws=500)
    intervals = [bootstrap_intervals(*one, resamples=400)["auroc"] for one in sets]
    coverage = np.mean([low <= 0.9 <= high for low, high in intervals])
    assert 0.93 <= coverage <= 0.97


FEW = [(10, 10, 0.95), pytest.param(5, 40, 0.97, marks=LONG), (1, 30, 0.8), pytest.param(30, 1, 0.99, marks=LONG)]


@pytest.mark.parametrize(("normal", "anomalous", "auroc"), FEW)
def test_intervals_of_few_images_hold_the_true_auroc_in_spite_of_perfect_draws(normal, anomalous, auroc):
    intervals = [delong_interval(*one) for one in binormal_sets(auroc, normal, anomalous, draws=1000)]
    assert np.mean([low <= auroc <= high for low, high in intervals]) >= 0.93
