"""Plots of a report: readable on a phone, and in the light or dark colours of the page."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metrad.evaluation.plots import PALETTE
from metrad.reports.cells import RATES, Band, Cell
from metrad.reports.comparison.plots import STUDIED, Styles, Tables, draw_classes, draw_epochs, draw_seeds
from metrad.reports.comparison.statistics import Comparison

RULE = "#cccccc"
WIDTH = 4.0
STATISTICS = {
    "angle_median": ("Median angle to the true class", "degrees"),
    "largest_wrong_cosine": ("Cosine with the nearest wrong class", "mean over images"),
    "scale": ("Scale", "logit per cosine"),
    "accuracy": ("Accuracy in training, without margin", "share of images"),
    "loss": ("Loss in training", "mean over images"),
}


def boxes(comparison: Comparison, place: Sequence[object], label: str) -> Figure:
    """Draw a box plot of the metric for each choice under the condition ``place``, with a dot for every run."""
    figure, axes = _figure(3.4)
    figure.set_figwidth(max(WIDTH, 0.32 * len(comparison.compared) + 0.8))
    draw_seeds(axes, comparison, place)
    axes.set_ylabel(label)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    return figure


def roc_bands(bands: Mapping[str, Band], styles: Styles) -> Figure:
    """Draw the mean ROC curve of each choice, in a band from the lowest to the highest run."""
    figure, axes = _figure(WIDTH, entries=len(bands))
    axes.plot([0, 1], [0, 1], color=RULE, linestyle="--")
    for choice, band in bands.items():
        look = styles[choice]
        axes.fill_between(RATES, band.low, band.high, color=look["color"], alpha=0.18, linewidth=0)
        axes.plot(RATES, band.mean, color=look["color"], linestyle=look["linestyle"], label=_short(choice))
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _legend(figure)
    return figure


def costs(cells: Sequence[Cell], styles: Styles, label: str) -> Figure:
    """Draw the seconds of every run against its metric, and the mean of each choice as a large marker."""
    figure, axes = _figure(3.2, entries=len(cells))
    for cell in cells:
        look = styles[cell.choice]
        seconds, values = cell.rows["seconds"].to_numpy(float), cell.rows[cell.metric].to_numpy(float)
        axes.plot(seconds, values, look["marker"], color=look["color"], markersize=4, alpha=0.45)
        point = (np.nanmean(seconds), np.nanmean(values))
        mark = {"marker": look["marker"], "color": look["color"], "linestyle": "none"}
        axes.plot(*point, markersize=10, markeredgecolor="#000000", label=_short(cell.choice), **mark)
    everything = np.concatenate([cell.rows["seconds"].to_numpy(float) for cell in cells])
    if np.nanmin(everything) > 0 and np.nanmax(everything) > 10 * np.nanmin(everything):
        axes.set_xscale("log")
    axes.set(xlabel="seconds per run", ylabel=label)
    axes.grid(color=RULE, linewidth=0.6)
    _legend(figure)
    return figure


def statistic(name: str, histories: Tables, styles: Styles) -> Figure:
    """Draw one of ``STATISTICS`` over epochs: the mean of each choice, in a band from the lowest to the highest run."""
    figure, axes = _figure(2.6, entries=len(histories))
    draw_epochs(axes, name, histories, styles, _short)
    axes.set(xlabel="epoch", ylabel=STATISTICS[name][1])
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    _legend(figure)
    return figure


def study(histories: Tables, styles: Styles) -> Figure:
    """Draw the AUROC after each epoch, and below it the effective rank, as ``statistic`` does."""
    figure = Figure(figsize=(WIDTH, 4.4 + 0.11 * (len(histories) + 1)), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(2, sharex=True), STUDIED.items(), strict=True):
        draw_epochs(axes, name, histories, styles, _short)
        axes.set_ylabel(label)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
    figure.axes[-1].set_xlabel("epochs of training")
    _legend(figure)
    return figure


def classes(table: pd.DataFrame, metric: str) -> Figure:
    """Draw a table of ``comparison.plots.of_classes``."""
    figure, axes = _figure(WIDTH)
    draw_classes(axes, table, metric)
    return figure


def smaller(figure: Figure) -> Figure:
    """Return a figure of ``plots.histogram`` in the size of a phone, with its legend below and without its title."""
    figure.set_size_inches(WIDTH, 3.4)
    (axes,) = figure.axes
    handles, labels = axes.get_legend_handles_labels()
    axes.set_title("")
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    below = 0.17 + 0.062 * len(labels)
    axes.set_position((0.18, below, 0.79, 0.97 - below))
    figure.legend(handles, labels, loc="lower center", frameon=False, fontsize=9)
    return figure


def svg(figure: Figure, prefix: str) -> str:
    """Return ``figure`` as SVG for a page: text as text, colours as CSS variables, ids with ``prefix``."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "metrad"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the fonts of the browser draw the text
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", lambda tag: _adapted(tag[0], prefix), text)


def _adapted(tag: str, prefix: str) -> str:
    if tag.startswith("<svg"):
        box = re.search(r'viewBox="[^"]*"', tag)
        return f'<svg {box[0] if box else ""} aria-hidden="true" focusable="false">'
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", tag)
    tag = tag.replace("xlink:href", "href").replace("#ffffff", "var(--card)")
    tag = re.sub("#000000|#4c4c4c|#595959", "currentColor", tag)  # black, and the dark greys of lines
    tag = tag.replace(RULE, "var(--rule)")
    for number, colour in enumerate(PALETTE):
        tag = tag.replace(colour, f"var(--c{number})")
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)


def _figure(height: float, entries: int = 0) -> tuple[Figure, Axes]:
    """Return a figure with room below for a legend of ``entries`` entries in two columns."""
    legend = 0.11 * (entries + 1) if entries > 1 else 0
    figure = Figure(figsize=(WIDTH, height + legend), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure) -> None:
    lines, names = figure.axes[0].get_legend_handles_labels()
    if len(names) > 1:
        columns = 3 if max(map(len, names)) <= 10 else 2
        legend = figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
