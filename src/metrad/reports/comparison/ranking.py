"""Statistics of a comparison over several datasets: mean ranks, and which of them differ."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from metrad.reports.comparison.paired import DECIMALS


@dataclass(frozen=True)
class Ranking:
    """How k values rank over N datasets, 1 being the best.

    Attributes:
        mean_ranks: (k,).
        statistic: Friedman's chi-squared, corrected for ties; NaN for two values, which have no use for it.
        p: its p-value.
        critical_difference: Nemenyi's, at 0.05: mean ranks further apart differ.
        nemenyi: (k, k) p-values.
    """

    mean_ranks: np.ndarray
    statistic: float
    p: float
    critical_difference: float
    nemenyi: np.ndarray


def ranking(figures: np.ndarray, *, higher_is_better: bool = True, alpha: float = 0.05) -> Ranking:
    """Rank the k values of ``figures`` (N, k) in each of N datasets, and test whether they differ at all and in pairs.

    Source:
        Friedman 1937, Journal of the American Statistical Association 32(200), doi:10.1080/01621459.1937.10503522;
        Nemenyi 1963; Demšar 2006, Journal of Machine Learning Research 7, jmlr.org/papers/v7/demsar06a.html.
    """
    from scikit_posthocs import posthoc_nemenyi_friedman  # takes seconds to import

    N, k = figures.shape
    figures = np.round(figures, DECIMALS) * (-1 if higher_is_better else 1)
    statistic, p = math.nan, math.nan
    if k > 2:
        tied = (figures == figures[:, :1]).all()
        statistic, p = (0.0, 1.0) if tied else map(float, stats.friedmanchisquare(*figures.T))
    nemenyi = np.asarray(posthoc_nemenyi_friedman(figures))
    return Ranking(
        stats.rankdata(figures, axis=1).mean(axis=0), statistic, p, critical_difference(k, N, alpha), nemenyi
    )


def critical_difference(values: int, datasets: int, alpha: float = 0.05) -> float:
    """Return the difference of mean ranks over ``datasets`` from which Nemenyi's test tells two of ``values`` apart."""
    q = stats.studentized_range.isf(alpha, values, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(values * (values + 1) / (6 * datasets)))
