"""The notes of a comparison: its conclusions and its warnings, in sentences."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from metrad.evaluation.metrics import by_name
from metrad.reports.comparison.paired import smallest_mann_whitney_p, smallest_wilcoxon_p
from metrad.reports.comparison.ranking import smallest_friedman_p
from metrad.reports.comparison.statistics import ALPHA, Comparison
from metrad.runs.contents import UNMEASURED

MOST_DIFFERENCES = 12  # number of differences with a note each; of more, only significant ones have a note
FEW = 10  # runs or pairs; fewer give a warning
# Coverage, in percent, of 95 % bootstrap intervals: 1, by number of pairs; 2, by number of runs in the smaller group.
HELD = {1: {2: 50, 3: 75, 4: 87}, 2: {2: 68, 3: 88, 4: 93}}
ONE_POOL = (
    "Seeds that draw their images from one pool, as those of one dataset do, are less independent than the tests take "
    "them for, and no p says anything about images outside this pool."
)
NAMED = 3  # largest number of comparisons or runs that a note names


class _Test(NamedTuple):
    """A comparison of two values: its name, the sizes of its groups (or the number of pairs), its smallest p-value."""

    name: str
    sizes: tuple[int, ...]
    smallest: float


def notes(comparison: Comparison) -> list[str]:
    """Return conclusions, then warnings, one sentence each."""
    return [
        *_of_pairs(comparison),
        *_of_seeds(comparison),
        *_of_ranks(comparison),
        *_of_few_runs(comparison),
        *_of_unfinished(comparison),
        *_of_older_runs(comparison),
    ]


def _of_pairs(comparison: Comparison) -> Iterator[str]:
    rows = [row for row in comparison.pairs.to_dict("records") if not math.isnan(row["p"])]
    shown = [row for row in rows if row["p_holm"] <= ALPHA]
    for row in rows if len(rows) <= MOST_DIFFERENCES else shown:
        yield _of_pair(comparison, row)
    if len(rows) > MOST_DIFFERENCES:
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
        better = (difference > 0) == comparison.higher_is_better
        verdict = "better" if better else "worse"
        return f"{start}{one} is {verdict} than {other} by {abs(difference):.4f} in {comparison.metric} ({found})."
    return (
        f"{start}no difference in {comparison.metric} is shown between {one} and {other} "
        f"(mean difference {difference:+.4f}, {found}; {_detectable(comparison, row)})."
    )


def _detectable(comparison: Comparison, row: dict[str, Any]) -> str:
    if math.isinf(row["detectable"]) or (comparison.paired and row["pairs"] == 1):
        return "none could have shown with so few runs"
    if math.isnan(row["detectable"]):
        return "no spread was measured that would tell what could have shown"
    return f"{row['detectable']:.4f} would have shown in four of five such comparisons"


def _of_seeds(comparison: Comparison) -> Iterator[str]:
    if (comparison.pairs["pairs"] > 1).any():
        yield ONE_POOL


def _of_ranks(comparison: Comparison) -> Iterator[str]:
    """Yield the mean ranks and the results of the tests over blocks of conditions that share images."""
    conditions, N = comparison.averaged, comparison.ranked
    if comparison.overall is None:
        if conditions > N:
            yield (
                f"All {conditions} conditions share images or draw them from one pool, so they are one block. Ranks "
                "and tests over conditions are left out; they take two datasets or more."
            )
        return
    if conditions > N:
        yield f"Conditions that share images are one block and are averaged: {conditions} conditions make {N} blocks."
    ranks = comparison.overall.sort_values("mean_rank", kind="stable")
    told = ", ".join(f"{row[comparison.by]} {row['mean_rank']:.2f}" for row in ranks.to_dict("records"))
    yield f"Over {_counted(comparison)} the mean ranks are {told}, 1 being the best."
    shows = "shows" if comparison.ranks_differ else "does not show"
    if comparison.friedman_p is None:
        yield from _of_two_ranks(comparison, shows)
    else:
        yield from _of_more_ranks(comparison, shows, list(ranks[comparison.by]))


def _unit(comparison: Comparison) -> str:
    return "conditions" if comparison.averaged == comparison.ranked else "blocks"


def _counted(comparison: Comparison) -> str:
    return f"{comparison.ranked} {_unit(comparison)}"


def _of_two_ranks(comparison: Comparison, shows: str) -> Iterator[str]:
    over = f"over the {_unit(comparison)}"
    yield (
        f"Friedman's test needs three values; with two, Wilcoxon's signed-rank test {over} {shows} "
        f"that they differ (p = {comparison.wilcoxon_p:.2g})."
    )
    smallest = smallest_wilcoxon_p(comparison.ranked)
    if smallest > ALPHA:
        yield f"With {_counted(comparison)} and two values p cannot be below {smallest:.2g}, whatever the runs."


def _of_more_ranks(comparison: Comparison, shows: str, order: list[str]) -> Iterator[str]:
    """Yield the results of Friedman's test and, if it is significant, of Nemenyi's test; ``order`` is by rank."""
    assert comparison.critical_difference is not None
    assert comparison.nemenyi is not None
    N, k, critical = comparison.ranked, len(order), comparison.critical_difference
    yield f"Friedman's test {shows} that the ranks differ (p = {comparison.friedman_p:.2g})."
    smallest = smallest_friedman_p(k, N)
    if smallest > ALPHA:
        yield f"With {_counted(comparison)} and {k} values p cannot be below {smallest:.2g}, whatever the runs."
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
    tested = _tested(comparison)
    if not tested:
        yield "No two finished runs can be compared: none share their condition and seed."
        return
    tests = len(tested)
    hopeless = [test for test in tested if test.smallest > ALPHA]
    weak = [test for test in tested if test.smallest * tests > ALPHA >= test.smallest]
    name, needed = "Wilcoxon" if comparison.paired else "Mann-Whitney", _needed(comparison.paired, tests)
    for_all = "one comparison" if tests == 1 else f"{tests} comparisons"
    if hopeless:
        smallest = min(test.smallest for test in hopeless)
        below = f"{_sizes(hopeless)} the two-sided {name} p cannot be below {smallest:.4g}"
        nothing = f"no difference, however large, can be significant at {ALPHA:g}"
        yield (
            f"With {below}: {nothing}. For {for_all} that takes {needed}."
            if len(hopeless) == tests
            else f"In {_some(hopeless, tests)} {nothing}: with {below}. For {for_all} that takes {needed}."
        )
    if weak:
        smallest = min(test.smallest for test in weak)
        some = "with" if len(weak) == tests else f"in {_some(weak, tests)}, with"
        yield (
            f"{some[0].upper()}{some[1:]} {_sizes(weak)} the {name} p cannot be below {smallest:.4g}, nor after Holm's "
            f"correction for {for_all} below {smallest * tests:.2g} unless others are as clear. {needed} would do, or "
            "fewer comparisons, with a baseline."
        )
    yield from _of_rough_figures(tested)


def _tested(comparison: Comparison) -> list[_Test]:
    runs = comparison.summary.set_index([*comparison.conditions, comparison.by])["runs"].to_dict()
    tests = []
    for row in comparison.pairs[comparison.pairs["pairs"] > 0].to_dict("records"):
        place = [row[key] for key in comparison.conditions]
        one, other = row[comparison.by], row["against"]
        name = ", ".join([*(f"{key}={row[key]}" for key in comparison.conditions), f"{one} and {other}"])
        if comparison.paired:
            tests.append(_Test(name, (row["pairs"],), smallest_wilcoxon_p(row["pairs"])))
        else:
            sizes = [int(runs[(*place, value) if place else value]) for value in (one, other)]
            tests.append(_Test(name, tuple(sorted(sizes)), smallest_mann_whitney_p(*sizes)))
    return tests


def _sizes(tests: Sequence[_Test]) -> str:
    """Return the numbers of runs in ``tests`` in words, from the fewest to the most."""
    fewest, most = min(test.sizes for test in tests), max(test.sizes for test in tests)
    if len(fewest) == 1:
        return f"{fewest[0]} pairs" if fewest == most else f"{fewest[0]} to {most[0]} pairs"
    if fewest == most:
        return f"{fewest[0]} runs each" if fewest[0] == fewest[1] else f"{fewest[0]} and {fewest[1]} runs"
    return f"{fewest[0]} and {fewest[1]} to {most[0]} and {most[1]} runs"


def _some(tests: Sequence[_Test], of: int) -> str:
    """Return in words the number of ``tests`` out of all, and which of them have the fewest runs."""
    least = [test.name for test in tests if test.sizes == min(test.sizes for test in tests)]
    named = "; ".join(least[:NAMED]) + (f" and {len(least) - NAMED} more" if len(least) > NAMED else "")
    fewest = "" if len(least) == len(tests) else "the fewest runs: "
    return f"{len(tests)} of {of} comparisons ({fewest}{named})"


def _needed(paired: bool, tests: int) -> str:
    """Return the number of runs, in words, with which ``tests`` p-values can all be significant after Holm."""
    n = 1
    while (smallest_wilcoxon_p(n) if paired else smallest_mann_whitney_p(n, n)) * tests > ALPHA:
        n += 1
    return f"{n} pairs" if paired else f"{n} runs each"


def _of_rough_figures(tested: Sequence[_Test]) -> Iterator[str]:
    rough = [test for test in tested if test.sizes[0] < FEW]
    if rough:
        some = "" if len(rough) == len(tested) else f", as in {len(rough)} of {len(tested)} comparisons,"
        yield f"{_sizes(rough)}{some} are few: spreads, intervals and the differences that could have shown are rough."
    fewest = [test for test in tested if test.sizes == min(test.sizes for test in tested)]
    share = HELD[len(fewest[0].sizes)].get(fewest[0].sizes[0])
    if share is not None:
        what = _sizes(fewest)
        yield f"The 95 % bootstrap interval of {what} holds the truth in about {share} % of such comparisons."


def _of_unfinished(comparison: Comparison) -> Iterator[str]:
    unfinished = int((comparison.runs["state"] != "finished").sum())
    if unfinished:
        yield f"{unfinished} of {len(comparison.runs)} runs did not finish and are left out of all figures."
    missing = sum(line.startswith("no run:") for line in comparison.holes)
    if missing:
        yield f"{missing} runs of the grid are missing, so not all values are measured over the same seeds."


def _of_older_runs(comparison: Comparison) -> Iterator[str]:
    """Yield a note for each metric that finished runs lack because an older version made them.

    Only runs with a directory count, because a CSV may lack any metric.
    """
    runs = comparison.runs[(comparison.runs["state"] == "finished") & (comparison.runs["folder"] != "")]
    runs = runs[runs["error"] != UNMEASURED]
    for name, metric in by_name().items():
        lacking = list(runs.loc[runs[name].isna(), "run"])
        if lacking:
            named = ", ".join(lacking[:NAMED]) + (f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else "")
            which = f" ({named})" if len(lacking) < len(runs) else ""
            effect = "they are left out" if name == comparison.metric else "nothing else depends on it"
            yield (
                f"{len(lacking)} of {len(runs)} finished runs have no {name}{which}: metrics.json has it since "
                f"metrad {metric.since}; {effect}."
            )
