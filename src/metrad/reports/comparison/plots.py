"""Plots of a comparison: functions that turn its tables into matplotlib figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metrad.evaluation.metrics import by_name
from metrad.evaluation.plots import ANOMALOUS, NORMAL, style
from metrad.reports.comparison.statistics import ALPHA, Comparison

Tables = Mapping[str, Sequence[pd.DataFrame]]  # by choice: a table for each run, with a row for each epoch
Styles = Mapping[str, dict[str, Any]]
STUDIED = {"auroc": "AUROC", "effective_rank": "effective rank"}
# Limits of a plot: a larger one cannot be read, nor saved by matplotlib. The tables are complete.
MOST_PANELS = 40
MOST_ROWS = 80
MOST_WRITTEN = 12 * 12  # largest number of cells with their values written in
CLASSES = ("dataset.normal", "dataset.anomalous")
LIGHT, DARK = "#fdfdfd", "#111111"  # not white and black, which a report replaces by the colours of the page


def pictures(comparison: Comparison) -> dict[str, Figure]:
    """Return the plots by name: ``seeds``, ``differences`` and, with several conditions, ``ranks``.

    If the conditions are pairs of a normal and an anomalous class, there is also ``classes``. It replaces ``seeds`` if
    there are many conditions.
    """
    panels = of_classes(comparison)
    drawn = {} if panels and comparison.many else {"seeds": seeds(comparison)}
    drawn["differences"] = differences(comparison)
    if comparison.overall is not None:
        drawn["ranks"] = ranks(comparison)
    if panels:
        drawn["classes"] = classes(panels, comparison.metric)
    return drawn


def seeds(comparison: Comparison) -> Figure:
    """Draw a box plot of each value in each condition, with a dot for every seed.

    The box spans the quartiles with a line at the median. Whiskers reach the furthest run within 1.5 box lengths. Only
    the first 40 conditions are drawn.
    """
    values = comparison.compared
    panels = _places(comparison, comparison.summary)
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = max(2.6, 0.8 * len(values) + 0.8)
    figure = Figure(figsize=(width * columns + 0.6, 3.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (place, title) in zip(grid.flat, panels, strict=False):
        draw_seeds(axes, comparison, place)
        axes.set_title(title, fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel(comparison.metric)
    return figure


def draw_seeds(axes: Axes, comparison: Comparison, place: Sequence[object]) -> None:
    """Draw the boxes and dots of the condition ``place`` into ``axes``."""
    runs, values = comparison.measured, comparison.compared
    members = runs[(runs[comparison.conditions] == list(place)).all(axis=1)]
    groups = [members.loc[members[comparison.by] == value, comparison.metric] for value in values]
    boxes(axes, groups)
    axes.set_xticks(range(1, len(values) + 1), [_label(value) for value in values], rotation=30, ha="right")


def boxes(
    axes: Axes, groups: Sequence[pd.Series], *, shift: float = 0.0, share: float = 1.0, colour: str | None = None
) -> None:
    """Draw a box for each group, and a dot for each of its values, at 1, 2, … on the x axis.

    Args:
        axes: axes to draw into.
        groups: values of each group; a single value is a dot without a box, and no value leaves the place empty.
        shift: offset to the right on the x axis.
        share: width as a share of the usual width.
        colour: colour of box and dots; None for the colours of a plot with one box at each place.
    """
    line, median = {"color": colour or "0.35"}, {"color": colour or ANOMALOUS, "linewidth": 2}
    drawn = [(i + 1 + shift, group.to_numpy()) for i, group in enumerate(groups) if len(group) > 1]
    if drawn:
        places, data = zip(*drawn, strict=True)
        axes.boxplot(
            list(data),
            positions=places,
            widths=0.5 * share,
            showfliers=False,
            boxprops=line,
            whiskerprops=line,
            capprops=line,
            medianprops=median,
        )
    for i, group in enumerate(groups):
        # Dots of equal values would hide each other, so dots stand side by side in the order of their seeds.
        spread = [i + 1 + shift + 0.3 * share * ((j + 0.5) / len(group) - 0.5) for j in range(len(group))]
        axes.plot(spread, group.to_numpy(), "o", color=colour or NORMAL, markersize=4, alpha=0.7, zorder=3)
    axes.set_xlim(0.4, len(groups) + 0.6)


def differences(comparison: Comparison) -> Figure:
    """Draw the mean difference of each pair of values with its bootstrap interval; filled if significant.

    Only the 80 differences with the smallest p are drawn.
    """
    tested = comparison.pairs[comparison.pairs["pairs"] > 0]
    rows = tested.loc[sorted(tested["p"].nsmallest(MOST_ROWS).index)].to_dict("records")
    figure = Figure(figsize=(7.5, 0.42 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.7", linewidth=1)
    for y, row in enumerate(rows):
        significant = row["p_holm"] <= ALPHA
        colour = ANOMALOUS if significant else NORMAL
        if not math.isnan(row["low"]):
            axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2)
        axes.plot(row["difference"], y, "o", color=colour, markerfacecolor=colour if significant else "white")
    labels = [_row_label(comparison, row) for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    better = "right of 0 is better" if comparison.higher_is_better else "left of 0 is better"
    axes.set_xlabel(f"difference in {comparison.metric} with its 95 % interval; {better}")
    some = f"; the {len(rows)} of {len(tested)} with the smallest p" if len(rows) < len(tested) else ""
    axes.set_title(f"filled: p ≤ {ALPHA:g} after Holm's correction{some}", fontsize=9)
    return figure


def _row_label(comparison: Comparison, row: dict[str, str]) -> str:
    place = ", ".join(str(row[key]) for key in comparison.conditions)
    two = f"{row[comparison.by]} - {row['against']}"
    return _label(f"{place}: {two}" if place else two)


def ranks(comparison: Comparison) -> Figure:
    """Draw the critical-difference diagram: mean ranks, and bars that join ranks not separated by Nemenyi's test.

    One bar joins all ranks if the test over the blocks, which comes first, is not significant.

    Source:
        Demšar 2006, Journal of Machine Learning Research 7, section 3.2.4, by scikit-posthocs.
    """
    from scikit_posthocs import critical_difference_diagram  # takes seconds to import

    assert comparison.overall is not None
    mean = comparison.overall.set_index(comparison.by)["mean_rank"].rename(_label)
    figure = Figure(figsize=(7.5, 0.3 * len(mean) + 2), layout="constrained")
    axes = figure.subplots()
    margin = 0.1 * (len(mean) - 1)
    critical_difference_diagram(
        mean,
        _apart(comparison).rename(index=_label, columns=_label),
        alpha=ALPHA,
        ax=axes,
        label_fmt_left="{label} ({rank:.2f}) ",
        label_fmt_right=" ({rank:.2f}) {label}",
        elbow_props={"color": NORMAL},
        text_h_margin=margin,
    )
    axes.set_xlim(1 - margin, len(mean) + margin)
    axes.set_xticks(range(1, len(mean) + 1))
    over = f"over {comparison.ranked} {comparison.units}"
    figure.suptitle(
        f"mean rank by {comparison.metric} {over} (1 is best)\n{_test_result(comparison)}",
        fontsize=9,
    )
    return figure


def _apart(comparison: Comparison) -> pd.DataFrame:
    """Return the p-value of each pair of compared values; 1 if the test over all is not significant."""
    if comparison.ranks_differ and comparison.nemenyi is not None:
        return comparison.nemenyi
    p, values = 0.0 if comparison.ranks_differ else 1.0, comparison.compared
    return pd.DataFrame(p, index=values, columns=values).where(~np.eye(len(values), dtype=bool), 1.0)


def _test_result(comparison: Comparison) -> str:
    test = "Wilcoxon's test" if comparison.friedman_p is None else "Friedman's test"
    p = comparison.wilcoxon_p if comparison.friedman_p is None else comparison.friedman_p
    if not comparison.ranks_differ:
        return f"{test} does not show that they differ (p = {p:.2g}): a bar joins all"
    if comparison.nemenyi is None:
        return f"{test} shows that they differ (p = {p:.2g})"
    return f"critical difference {comparison.critical_difference:.2f}; a bar joins what is not told apart"


def of_classes(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return tables, by title, of means by normal (rows) and anomalous class (columns), if both are conditions."""
    if not set(CLASSES) <= set(comparison.conditions):
        return {}
    others = [key for key in comparison.conditions if key not in CLASSES]
    names = list(dict.fromkeys(name for key in CLASSES for name in comparison.summary[key]))
    names = sorted(names, key=int) if all(name.isdecimal() for name in names) else names
    panels = {}
    for place, rows in comparison.summary.groupby([*others, comparison.by], sort=False):
        table = rows.pivot_table("mean", *CLASSES, dropna=False)
        order = [[name for name in names if name in axis] for axis in (table.index, table.columns)]
        panels[", ".join(map(str, reversed(place)))] = table.loc[order[0], order[1]]
    return panels


def classes(panels: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """Draw the metric by normal and anomalous class, with a panel for each table of ``of_classes``."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.4 * columns, 4.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, table) in zip(grid.flat, panels.items(), strict=False):
        draw_classes(axes, table, metric)
        axes.set_title(_label(title), fontsize=10)
    scale = f"from {darkest(metric):g} (dark) to 1 (light)"
    figure.suptitle(f"{metric} by normal and anomalous class, {scale}", fontsize=10)
    return figure


def darkest(metric: str) -> float:
    """Return the value of the metric at the darkest colour."""
    return by_name()[metric].darkest


def draw_classes(axes: Axes, table: pd.DataFrame, metric: str) -> None:
    """Draw ``table`` as coloured cells, which contain their values if there are at most 144 cells."""
    values, low = table.to_numpy(dtype=float), darkest(metric)
    axes.pcolormesh(values, cmap="cividis", vmin=low, vmax=1, edgecolor="face")
    for (i, j), value in np.ndenumerate(values) if values.size <= MOST_WRITTEN else ():
        if not math.isnan(value):
            look: dict[str, Any] = {"fontsize": 7, "color": LIGHT if value < (1 + low) / 2 else DARK}
            axes.text(j + 0.5, i + 0.5, f"{value:.2f}".removeprefix("0"), ha="center", va="center", **look)
    axes.set_xticks(np.arange(len(table.columns)) + 0.5, [_label(str(name)) for name in table.columns], fontsize=8)
    axes.set_yticks(np.arange(len(table.index)) + 0.5, [_label(str(name)) for name in table.index], fontsize=8)
    axes.set(xlabel="anomalous class", ylabel="normal class", aspect="equal")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def study(panels: Mapping[str, Tables]) -> Figure:
    """Draw, for each condition, the AUROC after each epoch, and below it the effective rank of the normal embeddings.

    Lines are means over seeds, in a band from the lowest to the highest run. Only the first 40 conditions are drawn.
    """
    panels = dict(list(panels.items())[:MOST_PANELS])
    choices = dict.fromkeys(choice for tables in panels.values() for choice in tables)
    styles = {choice: style(number) for number, choice in enumerate(choices)}
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns + 0.6, 5.4 * rows + 0.6), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (title, tables) in enumerate(panels.items()):
        for j, (name, label) in enumerate(STUDIED.items()):
            axes = grid[2 * (i // columns) + j, i % columns]
            axes.set_visible(True)
            draw_epochs(axes, name, tables, styles, _label)
            axes.set(title="" if j else _label(title), xlabel="epochs of training" if j else "", ylabel=label)
    entries = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_epochs(axes: Axes, name: str, tables: Tables, styles: Styles, named: Callable[[str], str]) -> None:
    """Draw the column ``name`` over epochs: the mean of each choice, in a band from the lowest to the highest run."""
    for choice, members in tables.items():
        epochs = pd.concat(list(members)).groupby("epoch")[name]
        mean, look = epochs.mean(), styles[choice]
        axes.fill_between(mean.index, epochs.min(), epochs.max(), color=look["color"], alpha=0.18, linewidth=0)
        axes.plot(mean.index, mean, markersize=4, label=named(choice), **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _places(comparison: Comparison, rows: pd.DataFrame) -> list[tuple[list[str], str]]:
    """Return the values and the title of each condition."""
    if not comparison.conditions:
        return [([], "")]
    unique = rows[comparison.conditions].drop_duplicates().to_numpy().tolist()
    return [(place, _label(", ".join(map(str, place)))) for place in unique[:MOST_PANELS]]


def _label(value: str) -> str:
    return value.replace("$", r"\$")  # matplotlib reads text between dollars as a formula
