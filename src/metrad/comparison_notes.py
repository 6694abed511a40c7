"""What a comparison says in plain words: its conclusions, and what it cannot show."""

import math
from collections.abc import Iterator
from typing import Any

from scipy import stats

from metrad.comparison_tables import ALPHA, LOWER_IS_BETTER, Comparison
from metrad.paired import smallest_mann_whitney_p, smallest_wilcoxon_p

TOLD_IN_FULL = 12  # differences; of more, those that are shown
FEW = 10


def notes(comparison: Comparison) -> list[str]:
    """Return conclusions first and warnings after them, a sentence each."""
    return [
        *_of_pairs(comparison),
        *_of_ranks(comparison),
        *_of_few_runs(comparison),
        *_of_unfinished(comparison),
    ]


def _of_pairs(comparison: Comparison) -> Iterator[str]:
    rows = [row for row in comparison.pairs.to_dict("records") if not math.isnan(row["p"])]
    shown = [row for row in rows if row["p_holm"] <= ALPHA]
    for row in rows if len(rows) <= TOLD_IN_FULL else shown:
        yield _of_pair(comparison, row)
    if len(rows) > TOLD_IN_FULL:
        yield f"{len(shown)} of {len(rows)} differences are significant at {ALPHA:g} after Holm's correction."
    if len(shown) < len(rows):
        yield "A difference that is not shown is not shown to be zero: its interval says what remains possible."
    if any(row["p_holm"] > ALPHA and (row["low"] > 0 or row["high"] < 0) for row in rows):
        yield (
            "Intervals are of one comparison each, not corrected for there being several: one that leaves out zero "
            "beside a p above 0.05 is a hint and no result."
        )


def _of_pair(comparison: Comparison, row: dict[str, Any]) -> str:
    place = ", ".join(f"{key}={row[key]}" for key in comparison.conditions)
    one, other, difference = row[comparison.by], row["against"], row["difference"]
    interval = "" if math.isnan(row["low"]) else f"95 % interval {row['low']:.4f} to {row['high']:.4f}, "
    found = f"{interval}p = {row['p']:.2g}, {row['p_holm']:.2g} after Holm"
    start = f"{place}: " if place else ""
    if row["p_holm"] <= ALPHA:
        better = (difference > 0) != (comparison.metric in LOWER_IS_BETTER)
        verdict = "better" if better else "worse"
        return f"{start}{one} is {verdict} than {other} by {abs(difference):.4f} in {comparison.metric} ({found})."
    could = "none could have shown with so few runs"
    if math.isfinite(row["detectable"]):
        could = f"{row['detectable']:.4f} would have shown in four of five such comparisons"
    return (
        f"{start}no difference in {comparison.metric} is shown between {one} and {other} "
        f"(mean difference {difference:+.4f}, {found}; {could})."
    )


def _of_ranks(comparison: Comparison) -> Iterator[str]:
    if comparison.overall is None:
        return
    ranks = comparison.overall.sort_values("mean_rank", kind="stable")
    told = ", ".join(f"{row[comparison.by]} {row['mean_rank']:.2f}" for row in ranks.to_dict("records"))
    yield f"Over {comparison.ranked} conditions the mean ranks are {told}, 1 being the best."
    shows = "shows" if comparison.ranks_differ else "does not show"
    if comparison.friedman_p is None:
        yield from _of_two_ranks(comparison, shows)
    else:
        yield from _of_more_ranks(comparison, shows, list(ranks[comparison.by]))


def _of_two_ranks(comparison: Comparison, shows: str) -> Iterator[str]:
    yield (
        f"Friedman's test needs three values; with two, Wilcoxon's signed-rank test over the conditions {shows} "
        f"that they differ (p = {comparison.wilcoxon_p:.2g})."
    )
    smallest = smallest_wilcoxon_p(comparison.ranked)
    if smallest > ALPHA:
        yield f"With {comparison.ranked} conditions and two values p cannot be below {smallest:.2g}, whatever the runs."


def _of_more_ranks(comparison: Comparison, shows: str, order: list[str]) -> Iterator[str]:
    """Yield what Friedman's test shows of the values in the ``order`` of their ranks, and Nemenyi's where it may."""
    assert comparison.critical_difference is not None
    assert comparison.nemenyi is not None
    N, k, critical = comparison.ranked, len(order), comparison.critical_difference
    yield f"Friedman's test {shows} that the ranks differ (p = {comparison.friedman_p:.2g})."
    smallest = float(stats.chi2.sf(N * (k - 1), k - 1))
    if smallest > ALPHA:
        yield f"With {N} conditions and {k} values p cannot be below {smallest:.2g}, whatever the runs."
    if not comparison.ranks_differ:
        yield "Nemenyi's test of each two comes only after a difference that Friedman's shows, so it is left out."
        return
    if critical > k - 1:
        yield f"Nemenyi's critical difference is {critical:.2f}, which ranks of {k} values cannot be apart."
        return
    apart = [
        f"{one} from {other}"
        for i, one in enumerate(order)
        for other in order[i + 1 :]
        if comparison.nemenyi.loc[one, other] <= ALPHA
    ]
    yield f"Nemenyi's test, critical difference {critical:.2f}, tells apart {', '.join(apart) or 'no two of them'}."


def _of_few_runs(comparison: Comparison) -> Iterator[str]:
    tested = comparison.pairs[comparison.pairs["pairs"] > 0]
    if tested.empty:
        yield "No two finished runs can be compared: none share their condition and seed."
        return
    n, tests = int(tested["pairs"].min()), len(tested)
    if comparison.paired:
        name, what, smallest, needed = "Wilcoxon", "pairs", smallest_wilcoxon_p(n), _needed(smallest_wilcoxon_p, tests)
    else:
        name, what, smallest = "Mann-Whitney", "runs each", smallest_mann_whitney_p(n, n)
        needed = _needed(lambda m: smallest_mann_whitney_p(m, m), tests)
    if smallest > ALPHA:
        yield (
            f"With {n} {what} the two-sided {name} p cannot be below {smallest:.4g}: no difference, however large, "
            f"can be significant at {ALPHA:g}. For {tests} comparisons that takes {needed} {what}."
        )
    elif smallest * tests > ALPHA:
        yield (
            f"With {n} {what} the {name} p cannot be below {smallest:.4g}, nor after Holm's correction for {tests} "
            f"comparisons below {smallest * tests:.2g} unless others are as clear. {needed} {what} would do, or "
            "fewer comparisons, with a baseline."
        )
    if n < FEW:
        yield f"{n} {what} are few: spreads, intervals and the differences that could have shown are rough."
    if 1 < n <= 4:
        share = {2: 50, 3: 75, 4: 87}[n]
        yield f"The 95 % bootstrap interval of {n} {what} holds the truth in about {share} % of such comparisons."


def _needed(smallest: Any, tests: int) -> int:
    n = 1
    while smallest(n) * tests > ALPHA:
        n += 1
    return n


def _of_unfinished(comparison: Comparison) -> Iterator[str]:
    unfinished = int((comparison.runs["state"] != "finished").sum())
    if unfinished:
        yield f"{unfinished} of {len(comparison.runs)} runs did not finish and are left out of all figures."
    missing = sum(line.startswith("no run:") for line in comparison.holes)
    if missing:
        yield f"{missing} runs of the grid are missing, so not all values are measured over the same seeds."
