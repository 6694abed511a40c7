"""The tables of a comparison: summaries over seeds, differences of values, mean ranks, and holes in the grid."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from metrad.errors import InputError
from metrad.evaluation.metrics import by_name
from metrad.reports.comparison import paired as statistic
from metrad.reports.comparison.blocks import Cell, Place, block_means, blocks
from metrad.reports.comparison.input import RunTable, require_metric
from metrad.reports.comparison.ranking import ranking
from metrad.runs.contents import UNMEASURED

ALPHA = 0.05
MANY = 12  # with more conditions, tables and pictures of each condition are folded or left out


class NothingMeasuredError(InputError):
    """No run of a comparison has anomalous test images, so that no metric can be measured."""


@dataclass(frozen=True)
class Comparison:
    """The results of runs that differ in one choice.

    Attributes:
        runs: a row for each run: folder (absolute path as text; empty from a CSV), run (its name), state, error, seed,
            the conditions, the compared choice, every metric and seconds. Numbers are NaN if the run did not finish or
            lacks the metric.
        by: the compared choice, such as head.
        metric: the name of the compared metric, such as auroc.
        baseline: the value that all other values are compared with; None compares all pairs of values.
        conditions: the columns of ``runs`` that make a condition, apart from ``by`` and the seed.
        summary: a row for each condition and value: conditions, by, runs, unfinished, mean, median, std, low, high
            (ends of Student's 95 % interval for the mean over seeds, cut to [0, 1], the range of all metrics).
        pairs: a row for each condition and pair of values: conditions, by, against, pairs, difference (mean of by minus
            against), low, high (of its 95 % bootstrap interval), p, p_holm (over all rows), effect (rank-biserial
            correlation), wins, ties, losses, detectable (the smallest difference that is significant with a probability
            of 80 % at the first step of Holm's procedure; infinite if there is none, NaN without a standard deviation).
        overall: a row for each value: by, mean_rank (1 is best) over the blocks of conditions that share images, in
            each of which the conditions with runs of every value are averaged; None for fewer than two such blocks.
        holes: a line for each missing or unfinished run of the grid.
        notes: conclusions and warnings, a sentence each.
        paired: whether tests and differences are over pairs of runs of one seed. If not, ``pairs`` is the number of
            runs in the smaller group, and wins, ties and losses count all pairs of runs from both groups.
        friedman_p: p-value of Friedman's test over the blocks; None without ``overall`` or with two values.
        wilcoxon_p: p-value of Wilcoxon's test over the blocks, for two values; None otherwise.
        critical_difference: Nemenyi's critical difference at 0.05, valid if Friedman's test is significant; None
            without ``overall`` or with two values.
        nemenyi: p-values of Nemenyi's test, with a row and a column for each value; None without ``overall`` or with
            two values.
        ranked: number of blocks that can be ranked.
        averaged: number of conditions in these blocks.
    """

    runs: pd.DataFrame
    by: str
    metric: str
    baseline: str | None
    conditions: list[str]
    summary: pd.DataFrame
    pairs: pd.DataFrame
    overall: pd.DataFrame | None
    holes: list[str]
    notes: list[str] = field(default_factory=list)
    paired: bool = True
    friedman_p: float | None = None
    wilcoxon_p: float | None = None
    critical_difference: float | None = None
    nemenyi: pd.DataFrame | None = None
    ranked: int = 0
    averaged: int = 0

    @property
    def units(self) -> str:
        """The name of what is ranked: conditions, or blocks of them if some share images."""
        return "conditions" if self.averaged == self.ranked else "blocks of conditions that share images"

    @property
    def compared(self) -> list[str]:
        """The values of the compared choice."""
        return list(self.runs[self.by].unique())

    @property
    def many(self) -> bool:
        """Whether there are more than ``MANY`` conditions."""
        return len(self.by_condition) > MANY

    @property
    def by_condition(self) -> pd.DataFrame:
        """The means: a row for each condition, a column for each value."""
        rows: dict[Place, dict[str, Any]] = {}
        for row in self.summary.to_dict("records"):
            place = {key: row[key] for key in self.conditions}
            rows.setdefault(tuple(place.values()), place)[row[self.by]] = row["mean"]
        return pd.DataFrame(rows.values())

    @property
    def ranks_differ(self) -> bool:
        """Whether the test over the conditions is significant, without which no ranks are compared in pairs."""
        p = self.wilcoxon_p if self.friedman_p is None else self.friedman_p
        return p is not None and p <= ALPHA

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values of the metric are better."""
        return by_name()[self.metric].higher_is_better

    @property
    def measured(self) -> pd.DataFrame:
        """The compared rows of ``runs``: finished runs that have the metric."""
        return _measured(self.runs, self.metric)


def tabulate(table: RunTable, *, baseline: str | None, metric: str, unpaired: bool) -> Comparison:
    """Return the comparison of ``table``, without notes.

    Raises:
        NothingMeasuredError: no finished run has anomalous test images.
        InputError: the metric or baseline is unknown, there are fewer than two values, two runs have the same place in
            the grid, or no finished run has the metric.
    """
    _require(table, baseline, metric)
    higher, paired = by_name()[metric].higher_is_better, table.paired and not unpaired
    cells = _cells(table, metric)
    values = list(table.runs[table.by].unique())
    against = [(value, baseline) for value in values if value != baseline] if baseline else combinations(values, 2)
    pairs = _pairs(table, cells, list(against), paired=paired, higher=higher)
    overall = _overall(table, cells, values, paired=paired, higher=higher)
    return Comparison(
        runs=table.runs,
        by=table.by,
        metric=metric,
        baseline=baseline,
        conditions=table.conditions,
        summary=_summary(table, cells, values),
        pairs=pairs,
        holes=list(_holes(table, values, metric)),
        paired=paired,
        **overall,
    )


def _require(table: RunTable, baseline: str | None, metric: str) -> None:
    runs, by = table.runs, table.by
    require_metric(metric)
    values = list(runs[by].unique())
    if len(values) < 2:
        raise InputError(f"{by} has one value here, {values[0]}; a comparison takes two")
    if baseline is not None and baseline not in values:
        raise InputError(f"baseline {by}={baseline} is not among the runs; choose one of {', '.join(values)}")
    if not (runs["state"] == "finished").any():
        raise InputError(f"none of the {len(runs)} runs is finished, so there is nothing to compare")
    finished = runs[runs["state"] == "finished"]
    if (finished["error"] == UNMEASURED).all():
        raise NothingMeasuredError(
            f"none of the {len(finished)} finished runs has anomalous test images (dataset.anomalous=[]), so {metric} "
            "cannot be measured"
        )
    if _measured(runs, metric).empty:
        raise InputError(_nowhere(runs, metric))
    twice = runs.duplicated([*table.conditions, by, "seed"], keep=False)
    if twice.any():
        first, second = runs[twice].sort_values([*table.conditions, by, "seed"], kind="stable").iloc[:2].itertuples()
        place = {key: runs.loc[first.Index, key] for key in (*table.conditions, by, "seed")}
        raise InputError(f"{first.run} and {second.run} are both the run of {_listed(place)}; leave one out")


def _measured(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    return runs[(runs["state"] == "finished") & runs[metric].notna()]


def _nowhere(runs: pd.DataFrame, metric: str) -> str:
    """Return a message that no finished run has ``metric``, with the metrics that the runs have."""
    finished = int((runs["state"] == "finished").sum())
    there = [name for name in by_name() if not _measured(runs, name).empty]
    since = f"metrics.json has it since metrad {by_name()[metric].since}"
    return f"none of the {finished} finished runs has {metric} ({since}); choose one of {', '.join(there)}"


def _listed(place: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in place.items())


def _cells(table: RunTable, metric: str) -> dict[Place, dict[str, Cell]]:
    """Return the metric of the measured runs by condition, value and seed; a condition may have no runs."""
    cells: dict[Place, dict[str, Cell]] = {}
    for row in table.runs.to_dict("records"):
        members = cells.setdefault(tuple(row[key] for key in table.conditions), {})
        if row["state"] == "finished" and not math.isnan(row[metric]):
            members.setdefault(row[table.by], {})[row["seed"]] = row[metric]
    return cells


def _summary(table: RunTable, cells: dict[Place, dict[str, Cell]], values: list[str]) -> pd.DataFrame:
    counts = table.runs[table.runs["state"] != "finished"].groupby([*table.conditions, table.by]).size()
    rows = []
    for place, members in cells.items():
        for value in values:
            found = pd.Series(members.get(value, {}), dtype=float)
            low, high = np.clip(statistic.seed_interval(found.to_numpy()), 0, 1)
            key = (*place, value)
            unfinished = int(counts.get(key if len(key) > 1 else value, 0))
            head = {**dict(zip(table.conditions, place, strict=True)), table.by: value}
            middle = {"mean": found.mean(), "median": found.median(), "std": found.std()}
            rows.append({**head, "runs": len(found), "unfinished": unfinished, **middle, "low": low, "high": high})
    return pd.DataFrame(rows)


def _pairs(
    table: RunTable,
    cells: dict[Place, dict[str, Cell]],
    against: list[tuple[str, str]],
    *,
    paired: bool,
    higher: bool,
) -> pd.DataFrame:
    two = _paired_row if paired else _unpaired_row
    comparisons = [
        ({**dict(zip(table.conditions, place, strict=True)), table.by: one, "against": other}, members, one, other)
        for place, members in cells.items()
        for one, other in against
    ]
    groups = [(members.get(one, {}), members.get(other, {})) for _, members, one, other in comparisons]
    tests = sum(bool(one.keys() & other.keys() if paired else one and other) for one, other in groups)
    rows = [two(one, other, alpha=ALPHA / max(1, tests), higher=higher) for one, other in groups]
    frame = pd.DataFrame([{**head, **row} for (head, *_), row in zip(comparisons, rows, strict=True)])
    frame.insert(frame.columns.get_loc("p") + 1, "p_holm", holm(frame["p"].to_numpy(dtype=float)))
    return frame


def _paired_row(one: Cell, other: Cell, *, alpha: float, higher: bool) -> dict[str, Any]:
    differences = np.array([one[seed] - other[seed] for seed in one if seed in other])
    if not len(differences):
        return _row(0, math.nan, (math.nan, math.nan), math.nan, math.nan, (0, 0, 0), math.nan)
    return _row(
        len(differences),
        float(differences.mean()),
        statistic.paired_bootstrap(differences),
        statistic.wilcoxon_p(differences),
        statistic.rank_biserial(differences),
        statistic.win_tie_loss(differences, higher_is_better=higher),
        statistic.detectable_difference(differences, alpha=alpha),
    )


def _unpaired_row(one: Cell, other: Cell, *, alpha: float, higher: bool) -> dict[str, Any]:
    values, others = np.array(list(one.values())), np.array(list(other.values()))
    if not (len(values) and len(others)):
        return _row(0, math.nan, (math.nan, math.nan), math.nan, math.nan, (0, 0, 0), math.nan)
    return _row(
        min(len(values), len(others)),
        float(values.mean() - others.mean()),
        statistic.unpaired_bootstrap(values, others),
        statistic.mann_whitney_p(values, others),
        statistic.unpaired_rank_biserial(values, others),
        statistic.win_tie_loss(values[:, None] - others, higher_is_better=higher),
        statistic.unpaired_detectable_difference(values, others, alpha=alpha),
    )


def _row(
    pairs: int,
    difference: float,
    interval: tuple[float, float],
    p: float,
    effect: float,
    record: tuple[int, int, int],
    detectable: float,
) -> dict[str, Any]:
    low, high = interval
    wins, ties, losses = record
    ends = {"difference": difference, "low": low, "high": high}
    counts = {"wins": wins, "ties": ties, "losses": losses}
    return {"pairs": pairs, **ends, "p": p, "effect": effect, **counts, "detectable": detectable}


def _overall(
    table: RunTable, cells: dict[Place, dict[str, Cell]], values: list[str], *, paired: bool, higher: bool
) -> dict[str, Any]:
    """Return the mean ranks of ``values`` over the blocks of conditions that share images, and their tests."""
    places = [tuple(row) for row in table.runs[table.conditions].itertuples(index=False)]
    means, averaged = block_means(cells, blocks(places, table.origins), values, paired=paired)
    found: dict[str, Any] = {"overall": None, "ranked": len(means), "averaged": averaged}
    if len(means) < 2:
        return found
    ranks = ranking(means, higher_is_better=higher, alpha=ALPHA)
    found["overall"] = pd.DataFrame({table.by: values, "mean_rank": ranks.mean_ranks})
    if len(values) == 2:  # for two values Nemenyi's test is a normal approximation; Wilcoxon's is exact
        return {**found, "wilcoxon_p": statistic.wilcoxon_p(np.diff(means)[:, 0])}
    return {
        **found,
        "friedman_p": ranks.p,
        "critical_difference": ranks.critical_difference,
        "nemenyi": pd.DataFrame(ranks.nemenyi, index=values, columns=values),
    }


def _holes(table: RunTable, values: list[str], metric: str) -> Iterator[str]:
    """Yield a line for each place of the grid without a finished run that has the metric, with the reason."""
    runs, keys = table.runs, [*table.conditions, table.by, "seed"]
    for row in runs[runs["state"] != "finished"].to_dict("records"):
        reason = f" ({row['error']})" if row["error"] else ""
        yield f"{row['state']}: {_listed({key: row[key] for key in keys})}{reason}"
    for row in runs[(runs["state"] == "finished") & runs[metric].isna()].to_dict("records"):
        reason = f" ({row['error']})" if row["error"] else ""
        yield f"no {metric}: {_listed({key: row[key] for key in keys})}{reason}"
    if not table.paired:
        return
    there = {tuple(row) for row in runs[keys].itertuples(index=False)}
    places = dict.fromkeys(key[:-2] for key in there)
    for place in sorted(places, key=str):
        for value in values:
            for seed in sorted(runs["seed"].unique(), key=lambda one: (str(type(one)), one)):
                if (*place, value, seed) not in there:
                    yield f"no run: {_listed(dict(zip(keys, (*place, value, seed), strict=True)))}"


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return ``p_values`` (M,) corrected by Holm's step-down procedure; NaN stays NaN and is not counted.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6(2), jstor.org/stable/4615733.
    """
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known])]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected
