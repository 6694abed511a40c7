"""Confidence intervals of metrics and false-alarm rates.

Higher scores are more anomalous. Only the order of the scores matters, so a monotonically increasing transformation
changes no interval. Intervals say nothing about another seed or training. Groups of images, such as several
photographs of one part, count as independent draws; without groups, each image does.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special, stats

from metrad.evaluation.metrics import RocCurves, by_name, ranked

# Largest product of resamples and distinct scores in a block: eight arrays of this size take about 16 MiB.
BLOCK = 2**18


def delong_variance(scores: np.ndarray, anomalous: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the AUROC of ``scores`` (N,) and DeLong's estimate of its variance; ``anomalous`` (N,) is the truth.

    A tie counts one half. The midrank form takes O(N log N) time. With the group number of each image, ``groups`` (N,),
    the images of a group may depend on each other, normal and anomalous ones too.

    Raises:
        ValueError: as in ``metrics.summary``, or there are fewer than two groups of normal or of anomalous images.

    Source:
        DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44(3); Sun and Xu 2014, IEEE Signal Processing Letters 21(11);
        for groups Obuchowski 1997, Biometrics 53(2).
    """
    return _mean_and_variance(*structural_components(scores, anomalous), anomalous, groups)


def delong_interval(
    scores: np.ndarray, anomalous: np.ndarray, level: float = 0.95, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the lower and upper end of a confidence interval for the AUROC, inside [0, 1].

    The interval is normal on the logit scale, with DeLong's variance transformed by the delta method. Its coverage was
    simulated over 20,000 draws of binormal scores of equal variance, with AUROC 0.7 to 0.97 and 50 + 50, 200 + 200 or
    300 + 60 images. A 95 % interval covers the truth in 93.4 to 95.5 %, the plain normal interval in 87.6 to 94.9 %.
    The coverage is too low where a few outliers decide: with anomalous scores of twice the standard deviation and
    300 + 60 images it is 89 % at AUROC 0.97 and 80 % at 0.99.

    The variance is zero if the scores separate the two kinds perfectly (either way round) or are all tied. It is
    undefined with one image of a kind. The interval is then [q A, 1 - q (1 - A)]. A is the AUROC, k the smaller number
    of groups of a kind, and q the lower Clopper-Pearson bound for k successes in k trials: k disjoint pairs of a normal
    and an anomalous group that all agree. With k = 1 it holds by Markov's inequality. It holds for all distributions,
    so it can be wider than the interval of scores with one pair out of order.

    ``groups`` (N,) are the group numbers of the images, as in ``delong_variance``.

    Raises:
        ValueError: as in ``metrics.summary``, or ``level`` is outside (0, 1).

    Source:
        Pepe 2003, The Statistical Evaluation of Medical Tests, section 5.2 (logit scale); Birnbaum and McCarty 1958,
        Annals of Mathematical Statistics 29(2) (disjoint pairs); Clopper and Pearson 1934, Biometrika 26(4).
    """
    tail = _tail(level)
    V10, V01 = structural_components(scores, anomalous)
    kinds = _groups_by_kind(anomalous, groups)
    auroc, fewest = float(V10.mean()), min(len(np.unique(kind)) for kind in kinds)
    variance = _variance(V10, V01, *kinds) if fewest > 1 else 0.0
    if variance == 0:
        q = exact_interval(fewest, fewest, level)[0]
        return q * auroc, 1 - q * (1 - auroc)
    reach = special.ndtri(1 - tail) * math.sqrt(variance) / (auroc * (1 - auroc))
    centre = special.logit(auroc)
    return float(special.expit(centre - reach)), float(special.expit(centre + reach))


def delong_difference(
    first: np.ndarray,
    second: np.ndarray,
    anomalous: np.ndarray,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> tuple[float, float, float, float]:
    """Return the difference of the AUROCs of two scores of the same images, ``first`` less ``second``.

    Args:
        first: scores (N,).
        second: other scores of the same images, (N,).
        anomalous: the truth, (N,) booleans.
        level: confidence level of the interval.
        groups: group number of each image, (N,), as in ``delong_variance``.

    Returns:
        the difference, the lower and upper end of its normal interval, and the two-sided p-value of no difference.
        Without any variance, as for scores in the same order, the interval has no width, and the p-value is 1 if the
        difference is 0 and else 0.

    Raises:
        ValueError: as for ``delong_variance``.

    Source:
        DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44(3); for groups Obuchowski 1997, Biometrics 53(2).
    """
    tail = _tail(level)
    pairs = zip(structural_components(first, anomalous), structural_components(second, anomalous), strict=True)
    V10, V01 = (one - other for one, other in pairs)
    difference, variance = _mean_and_variance(V10, V01, anomalous, groups)
    if variance <= 0:
        return difference, difference, difference, float(difference == 0)
    reach = float(special.ndtri(1 - tail)) * math.sqrt(variance)
    p_value = 2 * float(special.ndtr(-abs(difference) / math.sqrt(variance)))
    return difference, difference - reach, difference + reach, p_value


def _mean_and_variance(
    V10: np.ndarray, V01: np.ndarray, anomalous: np.ndarray, groups: np.ndarray | None
) -> tuple[float, float]:
    """Return the AUROC of structural components, or its difference of their differences, and DeLong's variance of it.

    Raises:
        ValueError: there are fewer than two groups of normal or of anomalous images.
    """
    kinds = _groups_by_kind(anomalous, groups)
    normal, positive = (len(np.unique(kind)) for kind in kinds)
    if min(normal, positive) < 2:
        raise ValueError(
            f"DeLong's variance needs two images of each kind, got {normal} normal and {positive} anomalous"
        )
    return float(V10.mean()), _variance(V10, V01, *kinds)


def structural_components(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return V10 of each anomalous and V01 of each normal image: the share of its pairs that are in the right order."""
    normal, positive = _by_kind(scores, anomalous)
    return _placements(positive, normal), 1 - _placements(normal, positive)


def _placements(ranks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of ``others`` below each of ``ranks``, ties counting one half: a difference of midranks."""
    others = np.sort(others)
    twice_below = np.searchsorted(others, ranks, side="left") + np.searchsorted(others, ranks, side="right")
    return np.asarray(twice_below / (2 * len(others)))


def _groups_by_kind(anomalous: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the group numbers of the normal and of the anomalous images; without groups each image has its own."""
    anomalous = np.asarray(anomalous, dtype=bool)
    numbers = np.arange(len(anomalous)) if groups is None else np.asarray(groups)
    if numbers.shape != anomalous.shape:
        raise ValueError(f"groups must have one entry an image, {anomalous.shape}, got {numbers.shape}")
    return numbers[~anomalous], numbers[anomalous]


def _variance(V10: np.ndarray, V01: np.ndarray, normal: np.ndarray, positive: np.ndarray) -> float:
    """Return the variance of the AUROC from the components and the group numbers of the images of each kind."""
    if len(np.unique(normal)) + len(np.unique(positive)) == len(np.union1d(normal, positive)) == len(V10) + len(V01):
        return _variance_of_mean(V10) + _variance_of_mean(V01)  # each image is alone: DeLong's own formula
    everyone, places = np.unique(np.concatenate([positive, normal]), return_inverse=True)
    in_anomalous, in_normal = places[: len(positive)], places[len(positive) :]
    sums = [
        np.bincount(where, V - V.mean(), len(everyone)) / len(V) for where, V in ((in_anomalous, V10), (in_normal, V01))
    ]
    count10, count01, both = len(np.unique(positive)), len(np.unique(normal)), len(everyone)
    own = sum(float((s**2).sum()) * n / (n - 1) for s, n in zip(sums, (count10, count01), strict=True))
    return own + 2 * float((sums[0] * sums[1]).sum()) * both / (both - 1)


def _variance_of_mean(components: np.ndarray) -> float:
    return float(components.var(ddof=1)) / len(components)


def bootstrap_intervals(
    scores: np.ndarray,
    anomalous: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """Return a stratified bootstrap interval for each of ``metrics.METRICS``, by name.

    Normal and anomalous images are resampled separately, so each resample has as many of each kind as the data. With
    the group number of each image, ``groups`` (N,), whole groups are resampled: each resample has as many groups. The
    ends are percentiles of the resampled metrics. Perfectly separated scores are so in every resample: their interval
    has width zero, which is too narrow. ``delong_interval`` has a valid one for the AUROC. ``Metric.covers`` gives the
    coverage of the intervals.

    Raises:
        ValueError: as in ``metrics.summary``, ``level`` is outside (0, 1), or ``resamples`` is below 1.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    tail = _tail(level)
    drawn = _resampled(scores, anomalous, resamples, seed, groups)
    return {name: _middle(values, tail) for name, values in drawn.items()}


def bootstrap_differences(
    first: np.ndarray,
    second: np.ndarray,
    anomalous: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """Return an interval for the difference of each metric, ``first`` less ``second``, two scores of the same images.

    Each resample draws the same images for both, as ``bootstrap_intervals`` draws them, so what makes an image easy or
    hard for both falls out of the difference. The other arguments, and the errors, are those of
    ``bootstrap_intervals``.
    """
    tail = _tail(level)
    one, other = (_resampled(scores, anomalous, resamples, seed, groups) for scores in (first, second))
    return {name: _middle(one[name] - other[name], tail) for name in one}


def _middle(values: np.ndarray, tail: float) -> tuple[float, float]:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(
    scores: np.ndarray, anomalous: np.ndarray, resamples: int, seed: int, groups: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return every metric of each resample, (resamples,) by name.

    Which images are drawn depends on the seed, the truth and the groups alone, not on the scores.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    kinds = _by_kind(scores, anomalous)
    levels, places = np.unique(np.concatenate(kinds), return_inverse=True)
    normal, positive = np.split(places, [len(kinds[0])])
    # Each kind has its own random stream, so that the draws do not depend on the size of the blocks.
    normal_stream, anomalous_stream = np.random.default_rng(seed).spawn(2)
    rows = max(1, BLOCK // len(levels))
    drawings = [
        _drawing(*kind, len(levels))
        for kind in zip((normal, positive), _groups_by_kind(anomalous, groups), strict=True)
    ]
    blocks = [
        _resampled_metrics(
            drawings[0](normal_stream, min(rows, resamples - start)),
            drawings[1](anomalous_stream, min(rows, resamples - start)),
        )
        for start in range(0, resamples, rows)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _drawing(places: np.ndarray, groups: np.ndarray, levels: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Return a function that draws the counts of a number of resamples of one kind, by group where there are groups."""
    everyone, numbers = np.unique(groups, return_inverse=True)
    if len(everyone) == len(groups):
        return lambda generator, rows: _resampled_counts(generator, places, rows, levels)
    counts = np.zeros((len(everyone), levels), dtype=np.int64)
    np.add.at(counts, (numbers, places), 1)
    return lambda generator, rows: _resampled_groups(generator, counts, rows)


def _resampled_counts(generator: np.random.Generator, places: np.ndarray, rows: int, levels: int) -> np.ndarray:
    """Return how often each distinct score is drawn in each resample, (rows, levels), the highest score first."""
    drawn = places[generator.integers(len(places), size=(rows, len(places)))]
    cells = drawn + levels * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * levels).reshape(rows, levels)[:, ::-1].astype(np.float64)


def _resampled_groups(generator: np.random.Generator, counts: np.ndarray, rows: int) -> np.ndarray:
    """Return the same as ``_resampled_counts`` with groups drawn as a whole.

    ``counts`` (groups, levels) tells how often each distinct score stands in each group.
    """
    drawn = generator.integers(len(counts), size=(rows, len(counts)))
    times = np.stack([np.bincount(row, minlength=len(counts)) for row in drawn])
    found: np.ndarray = (times @ counts)[:, ::-1].astype(np.float64)
    return found


def _resampled_metrics(normal: np.ndarray, anomalous: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric (R,) of R resamples, from their counts as ``RocCurves.from_counts`` takes them."""
    curves = RocCurves.from_counts(normal, anomalous)
    return {name: metric.of_samples(curves) for name, metric in by_name().items()}


def exact_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval for the rate behind ``successes`` in ``trials``.

    Raises:
        ValueError: ``trials`` is below 1, ``successes`` is outside [0, ``trials``], or ``level`` is outside (0, 1).

    Source:
        Clopper and Pearson 1934, Biometrika 26(4).
    """
    _tail(level)
    interval = stats.binomtest(successes, trials).proportion_ci(confidence_level=level, method="exact")
    return float(interval.low), float(interval.high)


def grouped_interval(successes: np.ndarray, groups: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return an interval for the rate behind ``successes`` (N,), booleans, of images in ``groups`` (N,).

    It is the Clopper-Pearson interval of the observed rate for as many trials as there are groups, with Beta
    distributions for a number of successes that is no whole number. It is safe: it takes the images of a group to be
    all alike, and is too wide where they differ.

    Raises:
        ValueError: there are no images, the lengths differ, or ``level`` is outside (0, 1).

    Source:
        Clopper and Pearson 1934, Biometrika 26(4); Korn and Graubard 1998, Survey Methodology 24(2), with the largest
        possible design effect.
    """
    _tail(level)
    successes, groups = np.asarray(successes, dtype=bool), np.asarray(groups)
    if successes.shape != groups.shape or not successes.size:
        raise ValueError(f"successes and groups must be vectors of one length, got {successes.shape}, {groups.shape}")
    return share_interval(float(successes.mean()), len(np.unique(groups)), level)


def share_interval(share: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval for the rate behind a ``share`` of ``trials``, which need be no whole number.

    Raises:
        ValueError: ``trials`` is below 1, ``share`` is outside [0, 1], or ``level`` is outside (0, 1).
    """
    tail = _tail(level)
    if trials < 1 or not 0 <= share <= 1:
        raise ValueError(f"share must lie from 0 to 1 and trials be at least 1, got {share} and {trials}")
    hits = share * trials
    low = float(stats.beta.ppf(tail, hits, trials - hits + 1)) if share > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, trials - hits)) if share < 1 else 1.0
    return low, high


def _by_kind(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks of the normal and of the anomalous scores; raise what ``metrics.ranked`` raises."""
    ranks, target = ranked(scores, anomalous)
    return ranks[~target], ranks[target]


def _tail(level: float) -> float:
    """Return the probability outside the interval on each side."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, ends excluded, got {level}")
    return (1 - level) / 2
