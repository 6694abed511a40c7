"""Tests of comparisons written out sign by sign and pair by pair, to compare the fast code with."""

import math
from itertools import permutations, product


def midranks(values: list[float]) -> list[float]:
    """The rank of each value, 1 the lowest, ties sharing the mean of theirs."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def wilcoxon_p(differences: list[float]) -> float:
    """Twice the share of all choices of signs whose positive rank sum is as far out as the one seen, zeros unsigned."""
    ranks = midranks([abs(d) for d in differences])
    signed = [(rank, d > 0) for rank, d in zip(ranks, differences, strict=True) if d != 0]
    seen = sum(rank for rank, up in signed if up)
    sums = [
        sum(rank for (rank, _), up in zip(signed, signs, strict=True) if up)
        for signs in product((False, True), repeat=len(signed))
    ]
    below, above = (sum(s <= seen for s in sums), sum(s >= seen for s in sums))
    return min(1.0, 2 * min(below, above) / len(sums))


def rank_biserial(differences: list[float]) -> float:
    """(W+ - W-) / (W+ + W-)."""
    ranks = midranks([abs(d) for d in differences])
    up = math.fsum(rank for rank, d in zip(ranks, differences, strict=True) if d > 0)
    down = math.fsum(rank for rank, d in zip(ranks, differences, strict=True) if d < 0)
    return (up - down) / (up + down) if up + down else 0.0


def cliffs_delta(values: list[float], others: list[float]) -> float:
    """Share of pairs in which the first is higher minus share in which it is lower."""
    return sum((a > b) - (a < b) for a in values for b in others) / (len(values) * len(others))


def holm(p_values: list[float]) -> list[float]:
    """The largest of (M - rank + 1) p over all p-values up to each, at most 1."""
    M = len(p_values)
    order = sorted(range(M), key=lambda i: p_values[i])
    return [min(1.0, max((M - j) * p_values[order[j]] for j in range(order.index(i) + 1))) for i in range(M)]


def friedman(figures: list[list[float]]) -> tuple[list[float], float, float]:
    """Mean ranks (1 the highest), chi-squared without correction for ties, and Iman and Davenport's F (Demšar 2006)."""
    N, k = len(figures), len(figures[0])
    ranks = [midranks([-x for x in row]) for row in figures]
    R = [math.fsum(row[j] for row in ranks) / N for j in range(k)]
    chi2 = 12 * N / (k * (k + 1)) * (math.fsum(r * r for r in R) - k * (k + 1) ** 2 / 4)
    return R, chi2, (N - 1) * chi2 / (N * (k - 1) - chi2)


def friedman_p(figures: list[list[float]]) -> float:
    """Share of all orders of the ranks in each row whose squared column sums reach the ones seen."""
    ranks = [midranks([-x for x in row]) for row in figures]

    def spread(rows: tuple[tuple[float, ...], ...]) -> float:
        return math.fsum(math.fsum(column) ** 2 for column in zip(*rows, strict=True))

    seen = spread(tuple(map(tuple, ranks)))
    spreads = [spread(rows) for rows in product(*(list(permutations(row)) for row in ranks))]
    return sum(each >= seen - 1e-9 for each in spreads) / len(spreads)


def mann_whitney_p(values: list[float], others: list[float]) -> float:
    """Twice the share of all orders of the values together whose first rank sum is as far out as the one seen."""
    ranks = midranks([*values, *others])
    n = len(values)
    seen = math.fsum(ranks[:n])
    sums = [math.fsum(order[:n]) for order in permutations(ranks)]
    below, above = (sum(s <= seen + 1e-9 for s in sums), sum(s >= seen - 1e-9 for s in sums))
    return min(1.0, 2 * min(below, above) / len(sums))
