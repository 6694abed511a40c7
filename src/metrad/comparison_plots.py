"""Pictures of a comparison, each a function from its tables to a figure."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metrad.comparison_tables import ALPHA, Comparison
from metrad.plots import ANOMALOUS, NORMAL

# More would make a picture that nobody can read and matplotlib cannot save; the tables have all.
MOST_PANELS = 40
MOST_ROWS = 80


def figures(comparison: Comparison) -> dict[str, Figure]:
    """Return the pictures by name: ``seeds``, ``differences``, and ``ranks`` where there are several conditions."""
    drawn = {"seeds": seeds(comparison), "differences": differences(comparison)}
    if comparison.overall is not None:
        drawn["ranks"] = ranks(comparison)
    return drawn


def seeds(comparison: Comparison) -> Figure:
    """Draw a box for each value in each condition, with every seed as a dot.

    The box spans the quartiles with a line at the median; whiskers reach the furthest run within 1.5 box lengths.
    Of more than 40 conditions the first are drawn.
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
    finished, values = comparison.runs[comparison.runs["state"] == "finished"], comparison.compared
    members = finished[(finished[comparison.conditions] == list(place)).all(axis=1)]
    groups = [members.loc[members[comparison.by] == value, comparison.metric] for value in values]
    _boxes(axes, groups)
    axes.set_xticks(range(1, len(values) + 1), [_label(value) for value in values], rotation=30, ha="right")


def _boxes(axes: Axes, groups: list[pd.Series]) -> None:
    grey, median = {"color": "0.35"}, {"color": ANOMALOUS, "linewidth": 2}
    drawn = [(i + 1, group.to_numpy()) for i, group in enumerate(groups) if len(group) > 1]
    if drawn:
        places, data = zip(*drawn, strict=True)
        axes.boxplot(
            list(data),
            positions=places,
            widths=0.5,
            showfliers=False,
            boxprops=grey,
            whiskerprops=grey,
            capprops=grey,
            medianprops=median,
        )
    for i, group in enumerate(groups):
        # Dots of like figures would hide each other: they stand side by side in the order of their seeds.
        spread = [i + 1 + 0.3 * ((j + 0.5) / len(group) - 0.5) for j in range(len(group))]
        axes.plot(spread, group.to_numpy(), "o", color=NORMAL, markersize=4, alpha=0.7, zorder=3)
    axes.set_xlim(0.4, len(groups) + 0.6)


def differences(comparison: Comparison) -> Figure:
    """Draw the mean difference of each two values with its bootstrap interval; filled where it is significant.

    Of more than 80 differences those of the smallest p are drawn.
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
    """Draw the critical-difference diagram: mean ranks, a bar across those that Nemenyi's test does not tell apart.

    Source:
        Demšar 2006, Journal of Machine Learning Research 7, section 3.2.4, by scikit-posthocs.
    """
    from scikit_posthocs import critical_difference_diagram  # takes seconds to import

    assert comparison.overall is not None
    assert comparison.nemenyi is not None
    mean = comparison.overall.set_index(comparison.by)["mean_rank"].rename(_label)
    nemenyi = comparison.nemenyi.rename(index=_label, columns=_label)
    figure = Figure(figsize=(7.5, 0.3 * len(mean) + 2), layout="constrained")
    axes = figure.subplots()
    margin = 0.1 * (len(mean) - 1)
    critical_difference_diagram(
        mean,
        nemenyi,
        alpha=ALPHA,
        ax=axes,
        label_fmt_left="{label} ({rank:.2f}) ",
        label_fmt_right=" ({rank:.2f}) {label}",
        elbow_props={"color": NORMAL},
        text_h_margin=margin,
    )
    axes.set_xlim(1 - margin, len(mean) + margin)
    axes.set_xticks(range(1, len(mean) + 1))
    figure.suptitle(
        f"mean rank by {comparison.metric} over {comparison.ranked} conditions (1 is best); critical difference "
        f"{comparison.critical_difference:.2f}; a bar joins what is not told apart",
        fontsize=9,
    )
    return figure


def _places(comparison: Comparison, rows: pd.DataFrame) -> list[tuple[list[str], str]]:
    """Return each condition as its values and a title for it."""
    if not comparison.conditions:
        return [([], "")]
    unique = rows[comparison.conditions].drop_duplicates().to_numpy().tolist()
    return [(place, _label(", ".join(map(str, place)))) for place in unique[:MOST_PANELS]]


def _label(value: str) -> str:
    return value.replace("$", r"\$")  # matplotlib takes dollars for formulas
