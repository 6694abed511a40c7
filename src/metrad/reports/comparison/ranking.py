"""Statistics of a comparison over several datasets: mean ranks, and tests of their differences."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from scipy import stats

from metrad.reports.comparison.paired import DECIMALS

# Largest number of datasets, by number of values, up to which Friedman's test is exact; above it is chi-squared.
EXACT_DATASETS = {3: 20, 4: 10, 5: 6, 6: 3, 7: 2, 8: 2}


@dataclass(frozen=True)
class Ranking:
    """The ranks of k values over N datasets; rank 1 is the best.

    Attributes:
        mean_ranks: mean rank of each value, (k,).
        statistic: Friedman's chi-squared, corrected for ties; NaN for two values, for which the test is undefined.
        p: p-value of Friedman's test, exact up to ``EXACT_DATASETS``; NaN for two values.
        critical_difference: Nemenyi's critical difference; mean ranks further apart differ significantly.
        nemenyi: p-values of Nemenyi's test, (k, k).
    """

    mean_ranks: np.ndarray
    statistic: float
    p: float
    critical_difference: float
    nemenyi: np.ndarray


def ranking(metrics: np.ndarray, *, higher_is_better: bool = True, alpha: float = 0.05) -> Ranking:
    """Rank k values in each of N datasets by their metrics (N, k), and test their differences, jointly and in pairs.

    Source:
        Friedman 1937, Journal of the American Statistical Association 32(200), doi:10.1080/01621459.1937.10503522;
        Nemenyi 1963; Demšar 2006, Journal of Machine Learning Research 7, jmlr.org/papers/v7/demsar06a.html.
    """
    from scikit_posthocs import posthoc_nemenyi_friedman  # takes seconds to import

    N, k = metrics.shape
    metrics = np.round(metrics, DECIMALS) * (-1 if higher_is_better else 1)
    ranks = stats.rankdata(metrics, axis=1)
    statistic, p = _friedman(ranks) if k > 2 else (math.nan, math.nan)
    nemenyi = np.asarray(posthoc_nemenyi_friedman(metrics))
    return Ranking(ranks.mean(axis=0), statistic, p, critical_difference(k, N, alpha), nemenyi)


def _friedman(ranks: np.ndarray) -> tuple[float, float]:
    """Return Friedman's chi-squared of the ranks (N, k), corrected for ties, and its p-value."""
    if (ranks == ranks[:, :1]).all():
        return 0.0, 1.0
    statistic, p = map(float, stats.friedmanchisquare(*ranks.T))
    N, k = ranks.shape
    if EXACT_DATASETS.get(k, 0) < N:
        return statistic, p
    doubled = np.round(2 * ranks).astype(int)  # ranks of ties can end in one half
    squares, chances = _rank_sum_chances(tuple(sorted(tuple(sorted(row)) for row in doubled.tolist())))
    return statistic, min(1.0, float(chances[squares >= (doubled.sum(axis=0) ** 2).sum()].sum()))


@lru_cache(maxsize=64)
def _rank_sum_chances(rows: tuple[tuple[int, ...], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of squares that the rank sums of the values can have, and the probability of each.

    Every order of the ranks in each of ``rows``, one for a dataset, is equally likely. Friedman's statistic rises with
    the sum of squares. Values are exchangeable, so rank sums are kept in rising order, and the first row in its own.
    """
    k = len(rows[0])
    powers = (1 + 2 * k * len(rows)) ** np.arange(k, dtype=np.int64)  # a number for each vector of rank sums
    sums: np.ndarray = np.array([rows[0]])
    chances: np.ndarray = np.ones(1)
    for row in rows[1:]:
        orders = np.array(sorted(set(permutations(row))))
        grown = np.sort((sums[:, None] + orders).reshape(-1, k), axis=1)
        _, first, places = np.unique(grown @ powers, return_index=True, return_inverse=True)
        chances = np.bincount(places, np.repeat(chances / len(orders), len(orders)))
        sums = grown[first]
    return (sums**2).sum(axis=1), chances


def smallest_friedman_p(values: int, datasets: int) -> float:
    """Return the smallest possible p-value of Friedman's test: that of one order of the values in all datasets."""
    if datasets > EXACT_DATASETS.get(values, 0):
        return float(stats.chi2.sf(datasets * (values - 1), values - 1))
    return float(math.factorial(values)) ** (1 - datasets)


def critical_difference(values: int, datasets: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of the mean ranks of ``values`` values over ``datasets`` datasets."""
    q = stats.studentized_range.isf(alpha, values, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(values * (values + 1) / (6 * datasets)))
