"""Statistics of a comparison over several datasets: mean ranks, and tests of their differences."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from metrad.reports.comparison.paired import DECIMALS


@dataclass(frozen=True)
class Ranking:
    """The ranks of k values over N datasets; rank 1 is the best.

    Attributes:
        mean_ranks: mean rank of each value, (k,).
        statistic: Friedman's chi-squared, corrected for ties; NaN for two values, for which the test is undefined.
        p: p-value of Friedman's test; NaN for two values.
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
    statistic, p = math.nan, math.nan
    if k > 2:
        tied = (metrics == metrics[:, :1]).all()
        statistic, p = (0.0, 1.0) if tied else map(float, stats.friedmanchisquare(*metrics.T))
    nemenyi = np.asarray(posthoc_nemenyi_friedman(metrics))
    return Ranking(
        stats.rankdata(metrics, axis=1).mean(axis=0), statistic, p, critical_difference(k, N, alpha), nemenyi
    )


def critical_difference(values: int, datasets: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of the mean ranks of ``values`` values over ``datasets`` datasets."""
    q = stats.studentized_range.isf(alpha, values, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(values * (values + 1) / (6 * datasets)))
