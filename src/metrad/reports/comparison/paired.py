"""Statistics of a comparison of two values over seeds: intervals, tests and effect sizes.

A difference is the metric of one value minus the metric of the other. Differences are rounded to 12 decimals before
they are ranked or counted, so that 0.94 - 0.92 and 0.93 - 0.91 are tied.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import stats

DECIMALS = 12
EXACT_PAIRS = 50  # up to this number the distribution of the signed-rank sum is exact, above it is normal
DRAWS = 4000  # simulated experiments for a detectable difference; the standard error of the power is 0.006
LARGEST_EFFECT = 20.0  # upper end of the search for a detectable effect, in standard deviations


def seed_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of Student's interval for the mean of ``values`` (N,) over seeds; NaN for a single value.

    It assumes independent draws from a normal distribution. It is about new seeds, not about new images.

    Source:
        Student 1908, Biometrika 6(1), doi:10.1093/biomet/6.1.1.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    reach = stats.t.isf((1 - level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return float(values.mean() - reach), float(values.mean() + reach)


def paired_bootstrap(
    differences: np.ndarray, *, level: float = 0.95, resamples: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """Return the ends of a bootstrap interval for the mean of ``differences`` (N,); NaN for a single difference.

    Pairs are drawn with replacement. The ends are percentiles of the resampled means, expanded as in Student's
    interval, because plain percentiles are too narrow for few pairs. Over 3,000 draws of normal differences the
    coverage of a 95 % interval is 76 % with 3 pairs, 87 % with 4, 92 % with 5, 94 % with 7 and 95 % from 10 on. It is
    low for few pairs because the interval cannot leave the range of the differences.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; Hesterberg 2015, The American
        Statistician 69(4), arXiv 1411.5279, section 5.3 (expanded percentiles).
    """
    if len(differences) < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    return _expanded(_resampled_means(differences, resamples, generator), len(differences), level)


def unpaired_bootstrap(
    values: np.ndarray, others: np.ndarray, *, level: float = 0.95, resamples: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """Return the ends of a bootstrap interval for the mean of ``values`` (N,) minus that of ``others`` (M,).

    Both groups are resampled separately. The percentiles are expanded as in ``paired_bootstrap``, with the smaller of N
    and M. The ends are NaN if a group has a single value.
    """
    fewest = min(len(values), len(others))
    if fewest < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    means = _resampled_means(values, resamples, generator) - _resampled_means(others, resamples, generator)
    return _expanded(means, fewest, level)


def _resampled_means(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    return np.asarray(values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1))


def _expanded(means: np.ndarray, n: int, level: float) -> tuple[float, float]:
    reach = math.sqrt(n / (n - 1)) * stats.t.isf((1 - level) / 2, n - 1)
    low, high = np.quantile(means, [stats.norm.sf(reach), stats.norm.cdf(reach)])
    return float(low), float(high)


def wilcoxon_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of the Wilcoxon signed-rank test that ``differences`` (N,) are symmetric about zero.

    Zeros have ranks but no sign (Pratt), and ties share ranks. Up to 50 pairs the test is exact, with ties too, which
    scipy's is not; above, it is scipy's normal approximation. The p-value is 1 if all differences are zero.

    Source:
        Wilcoxon 1945, Biometrics Bulletin 1(6), doi:10.2307/3001968; Pratt 1959, Journal of the American Statistical
        Association 54(287), doi:10.1080/01621459.1959.10501526.
    """
    differences = np.round(differences, DECIMALS)
    signed = np.sign(differences) * stats.rankdata(np.abs(differences))
    signed = signed[signed != 0]
    if not len(signed):
        return 1.0
    if len(differences) > EXACT_PAIRS:
        return float(stats.wilcoxon(differences, zero_method="pratt", method="asymptotic").pvalue)
    doubled = np.round(2 * signed).astype(int)  # ranks of ties can end in one half
    chances = _rank_sum_chances(tuple(np.abs(doubled).tolist()))
    positive = int(doubled[doubled > 0].sum())
    return float(min(1.0, 2 * min(chances[: positive + 1].sum(), chances[positive:].sum())))


@lru_cache(maxsize=256)
def _rank_sum_chances(ranks: tuple[int, ...]) -> np.ndarray:
    """Return the probability of each sum of the ranks with a positive sign, if all signs are fair coin tosses."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1
    for rank in ranks:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    return chances


def smallest_wilcoxon_p(pairs: int) -> float:
    """Return the smallest possible two-sided p-value for ``pairs`` pairs: that of differences of one sign."""
    return min(1.0, 2.0 ** (1 - pairs))


def mann_whitney_p(values: np.ndarray, others: np.ndarray) -> float:
    """Return the two-sided p-value of the Mann-Whitney test that ``values`` (N,) and ``others`` (M,) are drawn alike.

    Without ties it is exact as scipy decides: if a group has up to 8 values. With ties it is an exact permutation test
    for N + M up to 14. Otherwise it is scipy's normal approximation with a correction for ties.

    Source:
        Mann and Whitney 1947, Annals of Mathematical Statistics 18(1), doi:10.1214/aoms/1177730491.
    """
    values, others = np.round(values, DECIMALS), np.round(others, DECIMALS)
    together = np.concatenate([values, others])
    if len(np.unique(together)) == 1:
        return 1.0
    few_with_ties = len(together) <= 14 and len(np.unique(together)) < len(together)
    method = stats.PermutationMethod() if few_with_ties else "auto"
    return float(stats.mannwhitneyu(values, others, method=method).pvalue)


def smallest_mann_whitney_p(first: int, second: int) -> float:
    """Return the smallest possible two-sided p-value of the Mann-Whitney test, for groups of these sizes."""
    return min(1.0, 2 / math.comb(first + second, first))


def rank_biserial(differences: np.ndarray) -> float:
    """Return the matched-pairs rank-biserial correlation of ``differences`` (N,), an effect size in [-1, 1].

    It is the share of the rank sum with a positive sign minus the share with a negative sign: 1 if every difference is
    positive, 0 if the shares are equal.

    Source:
        Kerby 2014, Comprehensive Psychology 3, doi:10.2466/11.IT.3.1.
    """
    differences = np.round(differences, DECIMALS)
    signed = np.sign(differences) * stats.rankdata(np.abs(differences))
    total = np.abs(signed).sum()
    return float(signed.sum() / total) if total else 0.0


def unpaired_rank_biserial(values: np.ndarray, others: np.ndarray) -> float:
    """Return the rank-biserial correlation of two groups (N,) and (M,), which is Cliff's delta, in [-1, 1].

    It is the share of all N M pairs of runs in which the first is higher minus the share in which it is lower.

    Source:
        Cliff 1993, Psychological Bulletin 114(3), doi:10.1037/0033-2909.114.3.494.
    """
    return float(np.sign(np.round(values[:, None] - others, DECIMALS)).mean())


def win_tie_loss(differences: np.ndarray, *, higher_is_better: bool = True) -> tuple[int, int, int]:
    """Return the numbers of ``differences`` (of any shape) in which the value was better, tied and worse."""
    differences = np.round(differences, DECIMALS) * (1 if higher_is_better else -1)
    return int((differences > 0).sum()), int((differences == 0).sum()), int((differences < 0).sum())


def detectable_difference(differences: np.ndarray, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true mean difference that is significant with probability ``power`` for N pairs.

    It is significant if p <= ``alpha`` in the Wilcoxon test. Differences are taken as normal, with the standard
    deviation of the measured ``differences`` (N,). The result is infinite if no p-value is that small (5 pairs at
    0.05). It is NaN for a single pair or equal differences, whose standard deviation is unknown or zero. The standard
    deviation is an estimate, with a typical error of a fifth for 10 pairs.

    Source:
        simulation; Cohen 1988, Statistical Power Analysis, chapter 1, for the idea.
    """
    if len(differences) < 2:
        return math.nan
    return _times(float(np.std(differences, ddof=1)), detectable_effect(len(differences), alpha, power))


def unpaired_detectable_difference(
    values: np.ndarray, others: np.ndarray, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Return ``detectable_difference`` of the Mann-Whitney test for groups (N,) and (M,) of one standard deviation."""
    n, m = len(values), len(others)
    if min(n, m) < 2:
        return math.nan
    pooled = math.sqrt(((n - 1) * np.var(values, ddof=1) + (m - 1) * np.var(others, ddof=1)) / (n + m - 2))
    return _times(pooled, unpaired_detectable_effect(n, m, alpha, power))


def _times(spread: float, effect: float) -> float:
    if math.isinf(effect):
        return effect
    return spread * effect if round(spread, DECIMALS) else math.nan


@lru_cache(maxsize=256)
def detectable_effect(pairs: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return ``detectable_difference`` in standard deviations of the differences."""
    if smallest_wilcoxon_p(pairs) > alpha:
        return math.inf
    if pairs > EXACT_PAIRS:  # the test needs π/3 times as many pairs as a test of the mean
        return float((stats.norm.isf(alpha / 2) + stats.norm.ppf(power)) / math.sqrt(pairs * 3 / math.pi))
    chances = _rank_sum_chances(tuple(range(1, pairs + 1)))
    critical = int((2 * chances.cumsum() <= alpha).sum()) - 1
    noise = np.random.default_rng(0).standard_normal((DRAWS, pairs))

    def shown(effect: float) -> float:
        drawn = noise + effect
        ranks = np.abs(drawn).argsort(axis=1).argsort(axis=1) + 1
        positive = (ranks * (drawn > 0)).sum(axis=1)
        return float((np.minimum(positive, ranks.sum(axis=1) - positive) <= critical).mean())

    return _smallest(shown, power)


@lru_cache(maxsize=256)
def unpaired_detectable_effect(first: int, second: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return ``unpaired_detectable_difference`` in standard deviations of one group."""
    if smallest_mann_whitney_p(first, second) > alpha:
        return math.inf
    generator = np.random.default_rng(0)
    noise, others = generator.standard_normal((DRAWS, first)), generator.standard_normal((DRAWS, second))

    def shown(effect: float) -> float:
        return float((stats.mannwhitneyu(noise + effect, others, axis=1).pvalue <= alpha).mean())

    return _smallest(shown, power)


def _smallest(shown: Callable[[float], float], power: float) -> float:
    """Return, by bisection, the smallest effect for which the probability ``shown`` reaches ``power``."""
    low, high = 0.0, LARGEST_EFFECT
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) >= power else (middle, high)
    return high
