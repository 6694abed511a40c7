"""Intervals and conformal thresholds written out pair by pair and resample by resample, to compare the fast code with.

A high score means anomalous; scores is (N,) and anomalous (N,) is true for the anomalous images.
"""

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tests.reference.evaluation.metrics import TWINS


def kernel(x: float, y: float) -> float:
    """ψ(x, y): 1 if the anomalous score x is the higher, 1/2 at a tie, else 0."""
    return 1.0 if x > y else 0.5 if x == y else 0.0


def delong(scores: ArrayLike, anomalous: ArrayLike) -> tuple[float, float]:
    """θ and S10 / m + S01 / n of DeLong, DeLong and Clarke-Pearson (1988), equations 3 to 5."""
    X, Y = _split(scores, anomalous)
    m, n = len(X), len(Y)
    V10 = [math.fsum(kernel(x, y) for y in Y) / n for x in X]
    V01 = [math.fsum(kernel(x, y) for x in X) / m for y in Y]
    theta = math.fsum(V10) / m
    S10 = math.fsum((v - theta) ** 2 for v in V10) / (m - 1)
    S01 = math.fsum((v - theta) ** 2 for v in V01) / (n - 1)
    return theta, S10 / m + S01 / n


def logit_interval(auroc: float, variance: float, level: float) -> tuple[float, float]:
    """log(θ / (1 - θ)) ± z √var / (θ (1 - θ)), turned back into an area."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = math.log(auroc / (1 - auroc))
    reach = z * math.sqrt(variance) / (auroc * (1 - auroc))
    return 1 / (1 + math.exp(reach - middle)), 1 / (1 + math.exp(-reach - middle))


def bootstrap(scores: ArrayLike, anomalous: ArrayLike, level: float, resamples: int, seed: int) -> dict[str, list]:
    """Percentile intervals from resamples drawn one after the other, the two kinds from a stream each."""
    positives, negatives = _split(scores, anomalous)
    normal_stream, anomalous_stream = np.random.default_rng(seed).spawn(2)
    truth = [False] * len(negatives) + [True] * len(positives)
    found = []
    for _ in range(resamples):
        drawn = [negatives[i] for i in normal_stream.integers(len(negatives), size=len(negatives))]
        drawn += [positives[i] for i in anomalous_stream.integers(len(positives), size=len(positives))]
        found.append({name: float(twin.library(truth, drawn)) for name, twin in TWINS.items()})
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {name: list(np.quantile([one[name] for one in found], tails)) for name in found[0]}


def conformal_threshold(calibration: ArrayLike, alpha: Fraction) -> float:
    """Smallest calibration score with at least (n + 1)(1 - α) calibration scores no higher than it."""
    values = sorted(np.asarray(calibration, dtype=np.float64).tolist())
    enough = (len(values) + 1) * (1 - alpha)
    return next(value for value in values if sum(other <= value for other in values) >= enough)


def conformal_p_value(calibration: ArrayLike, score: float) -> Fraction:
    """(1 + number of calibration scores at least as high) / (n + 1)."""
    values = np.asarray(calibration, dtype=np.float64).tolist()
    return Fraction(1 + sum(value >= score for value in values), len(values) + 1)


def grouped_p_value(calibration: ArrayLike, groups: ArrayLike, score: float) -> Fraction:
    """(1 + sum over groups of the share of the group's scores at least as high) / (G + 1)."""
    members: dict[int, list[float]] = {}
    for value, group in zip(
        np.asarray(calibration, dtype=np.float64).tolist(), np.asarray(groups).tolist(), strict=True
    ):
        members.setdefault(group, []).append(value)
    shares = [Fraction(sum(value >= score for value in group), len(group)) for group in members.values()]
    return (1 + sum(shares, Fraction(0))) / (len(members) + 1)


def confident_threshold(largest: ArrayLike, alpha: Fraction, confidence: Fraction) -> float:
    """Smallest order statistic that is above the (1 - α) quantile with at least this probability, by the binomial."""
    values = sorted(np.asarray(largest, dtype=np.float64).tolist())
    reached = Fraction(0)
    for below in range(len(values)):
        reached += math.comb(len(values), below) * (1 - alpha) ** below * alpha ** (len(values) - below)
        if reached >= confidence:
            return values[below]
    raise ValueError("too few")


def _split(scores: ArrayLike, anomalous: ArrayLike) -> tuple[list[float], list[float]]:
    """Scores of the anomalous and of the normal images."""
    pairs = list(zip(np.asarray(scores, dtype=np.float64).tolist(), np.asarray(anomalous).tolist(), strict=True))
    return [score for score, label in pairs if label], [score for score, label in pairs if not label]
