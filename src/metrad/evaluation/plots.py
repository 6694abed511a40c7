"""Plots of an evaluation: functions that turn arrays into matplotlib figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from metrad.evaluation.metrics import DETECTED, FALSE_ALARMS, roc_curve

NORMAL, ANOMALOUS = "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermilion, distinct for colour-blind readers too
# Okabe and Ito's colours; the page of a report has a lighter variant of each for dark mode
PALETTE = (NORMAL, ANOMALOUS, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX"
mpl.rcParams["figure.dpi"] = 120
mpl.rcParams["axes.spines.top"] = False
mpl.rcParams["axes.spines.right"] = False
# Otherwise matplotlib searches a place for the title above the upper ticks, which no plot here has, and fits each glyph
# to the pixels. That takes a sixth of the time of a plot.
mpl.rcParams["axes.titley"] = 1.0
mpl.rcParams["text.hinting"] = "none"


NAME_LENGTH = 22  # characters of an image's name that fit above it


@dataclass(frozen=True)
class ImagePair:
    """A test image and the normal training image nearest to it.

    Attributes:
        test: pixels of the test image, (height, width, channels) uint8.
        nearest: pixels of the nearest normal image, of the same shape.
        title: text above the pair.
        anomalous: whether the test image is anomalous.
        name: name of the test image, which stands above the title; empty for none.
        nearest_name: name of the nearest image, which stands below the pair; empty for none.
    """

    test: np.ndarray
    nearest: np.ndarray
    title: str
    anomalous: bool
    name: str = ""
    nearest_name: str = ""


def style(number: int) -> dict[str, Any]:
    """Return colour, line style and marker of choice ``number``; 28 successive choices differ."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def roc(scores: np.ndarray, anomalous: np.ndarray, auroc: float) -> Figure:
    """Draw the ROC curve of ``scores`` (N,) against the truth ``anomalous`` (N,)."""
    figure = Figure(figsize=(5, 5))
    axes = figure.add_axes((0.13, 0.11, 0.84, 0.82))  # half the time of a layout that matplotlib computes
    axes.plot([0, 1], [0, 1], color="0.8", linestyle="--")
    axes.plot(*roc_curve(scores, anomalous), color=NORMAL, linewidth=2)
    axes.set(
        xlabel="normal images called anomalous",
        ylabel="anomalous images found",
        title=f"AUROC {auroc:.3f}",
        aspect="equal",
    )
    return figure


def histogram(
    scores: np.ndarray, anomalous: np.ndarray, auroc: float | None, thresholds: Mapping[float, float]
) -> Figure:
    """Draw the scores (N,) of normal and anomalous test images as two histograms over the same bins.

    Without anomalous images, ``auroc`` is None and there is one histogram.

    Positive scores that span more than a factor of 30 have a logarithmic axis. ``thresholds``, by false-alarm rate, are
    drawn as lines.
    """
    figure = Figure(figsize=(7, 4))
    axes = figure.add_axes((0.1, 0.13, 0.88, 0.79))
    bins, label = np.histogram_bin_edges(scores, bins=50), "anomaly score"
    if scores.min() > 0 and scores.max() > 30 * scores.min():
        bins = np.geomspace(scores.min(), scores.max(), 51)
        axes.set_xscale("log")
        labelled = (1, 3) if scores.max() < 1000 * scores.min() else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=labelled, numticks=9))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        label = "anomaly score (logarithmic axis)"
    for group, name, colour in ((~anomalous, "normal", NORMAL), (anomalous, "anomalous", ANOMALOUS)):
        if not group.any():
            continue
        title = f"{name} ({int(group.sum()):,} test images)"
        axes.hist(scores[group], bins=bins.tolist(), histtype="stepfilled", alpha=0.6, color=colour, label=title)
    for style, (rate, threshold) in zip(cycle(("-", "--", ":")), sorted(thresholds.items()), strict=False):
        title = f"threshold for {100 * rate:g} % false alarms"
        axes.axvline(threshold, color="0.3", linestyle=style, linewidth=1, label=title)
    title = "no anomalous test images" if auroc is None else f"AUROC {auroc:.3f}"
    axes.set(xlabel=label, ylabel="test images", title=title)
    axes.legend(frameon=False)
    return figure


def head(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw angles, cosine, scale, accuracy and loss of the head over epochs, from the history of ``EpochLog``."""
    figure = Figure(figsize=(9, 6.4))
    places = {"left": 0.08, "right": 0.92, "top": 0.95, "bottom": 0.08, "hspace": 0.15, "wspace": 0.28}
    angle, cosine, scale, learnt = figure.subplots(2, 2, sharex=True, gridspec_kw=places).flat
    epochs = [epoch["epoch"] for epoch in history]

    def values(name: str) -> list[float]:
        return [epoch[name] for epoch in history]

    angle.fill_between(epochs, values("angle_q05"), values("angle_q95"), color=NORMAL, alpha=0.15, label="5 to 95 %")
    angle.fill_between(epochs, values("angle_q25"), values("angle_q75"), color=NORMAL, alpha=0.3, label="25 to 75 %")
    angle.plot(epochs, values("angle_median"), "o-", color=NORMAL, label="median")
    angle.set(title="angle to the true class", ylabel="θ_y in degrees", ylim=(0, None))
    angle.legend(frameon=False)
    cosine.plot(epochs, values("largest_wrong_cosine"), "o-", color=ANOMALOUS)
    cosine.set(title="cosine with the nearest wrong class", ylabel="mean over images")
    scale.plot(epochs, values("scale"), "o-", color=NORMAL)
    scale.set(title="scale", ylabel="logit per cosine", xlabel="epoch")
    learnt.plot(epochs, values("accuracy"), "o-", color=NORMAL, label="accuracy without margin")
    learnt.set(title="accuracy and loss in training", ylabel="accuracy", xlabel="epoch")
    loss = learnt.twinx()
    loss.plot(epochs, values("loss"), "s--", color=ANOMALOUS, label="loss")
    loss.spines["right"].set_visible(True)
    loss.set_ylabel("loss", color=ANOMALOUS)
    learnt.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def study(history: Sequence[Mapping[str, float | None]]) -> Figure:
    """Draw AUROC and effective rank after each epoch, from the history of ``EpochStudy``."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    auroc = figure.subplots()
    rank = auroc.twinx()
    rank.spines["right"].set_visible(True)
    table = {name: np.array([row[name] for row in history], dtype=float) for name in history[0]}
    for axes, name, label, look, colour in (
        (auroc, "auroc", "AUROC of the test images", "o-", NORMAL),
        (rank, "effective_rank", "effective rank of the normal embeddings", "s--", ANOMALOUS),
    ):
        axes.plot(table["epoch"], table[name], look, color=colour)
        axes.set_ylabel(label, color=colour)
    rank.set_ylim(0, None)
    auroc.set(xlabel="epochs of training", title="for a study, not for a choice")
    auroc.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def selection(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> Figure:
    """Draw the AUROC of each candidate and scorer, the mean over what stood in for anomalies.

    With training there is a line over the epochs. Without, there is a row of dots, one for each stand-in.

    Args:
        rows: mappings with ``settings``, ``held_out``, ``epoch``, ``scorer`` and ``auroc`` (None if undefined).
        chosen: ``epochs``, and ``pseudo_anomaly_auroc`` or ``synthetic_auroc``, of the choice, which is marked.
    """
    lines: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        line = lines.setdefault(f"{row['settings']}, {row['scorer']}", {})
        line.setdefault(row["epoch"], []).append(np.nan if row["auroc"] is None else row["auroc"])
    marked = next(value for key, value in chosen.items() if key in ("pseudo_anomaly_auroc", "synthetic_auroc"))
    if not any(row["epoch"] for row in rows):
        return _untrained({name: line[0] for name, line in lines.items()}, marked)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, line) in enumerate(lines.items()):
        axes.plot(list(line), [np.mean(values) for values in line.values()], **style(number), label=name)
    axes.plot([chosen["epochs"]], [marked], "o", markersize=14, fillstyle="none", color="0.2", label="chosen")
    axes.set(xlabel="epochs of training", ylabel="AUROC", title="mean over the stand-ins held out in turn")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def _untrained(found: Mapping[str, Sequence[float]], marked: float) -> Figure:
    """Draw the AUROC of each recipe by stand-in as dots, and its mean, the best recipe on top."""
    order = sorted(found, key=lambda name: float(np.mean(found[name])))
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(order)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(order):
        mean = float(np.mean(found[name]))
        axes.plot(found[name], [place] * len(found[name]), "o", markersize=4, color="0.65")
        axes.plot(mean, place, "D", markersize=7, color=NORMAL)
        if mean == marked:
            axes.plot(mean, place, "o", markersize=15, fillstyle="none", color="0.2")
    axes.set_yticks(range(len(order)), order, parse_math=False)
    axes.set(xlabel="AUROC; dots: each stand-in, diamond: their mean, circle: the choice")
    axes.grid(axis="x", color="0.9")
    return figure


def good_images(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the figures of a scorer over the number of good images that it was fitted on.

    The AUROC has a panel, and the rates of alarms at the largest false-alarm rate have one, as far as there are some.
    Lines are means over random subsets, in a band from the lowest to the highest value.

    Args:
        rows: rows of ``good_images.curve``.
    """
    names = [name for name in rows[0] if f"{name}_low" in rows[0] and f"{name}_high" in rows[0]]
    rates = sorted({float(name.removeprefix(FALSE_ALARMS)) for name in names if name.startswith(FALSE_ALARMS)})
    lines = {"AUROC": {"auroc": ("AUROC", NORMAL)} if "auroc" in names else {}}
    if rates:
        alarm, found = f"{FALSE_ALARMS}{rates[-1]:g}", f"{DETECTED}{rates[-1]:g}"
        both = {found: ("anomalies found", ANOMALOUS)} if found in names else {}
        lines[f"threshold for {100 * rates[-1]:g} % false alarms"] = {**both, alarm: ("false alarms", NORMAL)}
    lines = {title: kept for title, kept in lines.items() if kept}
    figure = Figure(figsize=(4.5 * max(1, len(lines)), 3.8), layout="constrained")
    for axes, (title, kept) in zip(np.ravel(figure.subplots(1, max(1, len(lines)))), lines.items(), strict=False):
        for name, (label, colour) in kept.items():
            _banded(axes, rows, name, {"color": colour, "label": label})
        axes.set(title=title, xlabel="good images", xscale="log", ylim=(None, 1.02))
        axes.set_xticks([row["images"] for row in rows], [f"{int(row['images']):,}" for row in rows])
        axes.minorticks_off()
        axes.legend(frameon=False)
    return figure


def _banded(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, look: Mapping[str, Any]) -> None:
    """Draw a figure over the number of images as a line, in a band from its lowest to its highest value."""
    images, mean, low, high = ([row[key] for row in rows] for key in ("images", name, f"{name}_low", f"{name}_high"))
    axes.fill_between(images, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(images, mean, "o-", **look)


def image_pairs(
    groups: Mapping[str, Sequence[ImagePair]],
    upper: str = "test image",
    lower: str = "nearest normal training image",
) -> Figure:
    """Draw two groups of pairs, by title: each test image above its nearest normal image.

    ``upper`` and ``lower`` say what the images of a pair are.
    """
    columns = max(len(rows) for rows in groups.values())
    figure = Figure(figsize=(1.5 * columns + 0.6, 8.2))
    # Fixed places, and one pair of axes for each group, take a quarter of the time.
    places = {"left": 0.02, "right": 0.98, "top": 0.9, "bottom": 0.03, "hspace": 0.3}
    for axes, (title, rows) in zip(figure.subplots(2, gridspec_kw=places), groups.items(), strict=True):
        axes.set_title(f"{title}: {upper} above, {lower} below", fontsize=11, pad=40)
        if rows:
            axes.imshow(_mosaic(rows), interpolation="nearest", extent=(0, len(rows), 2, 0))
        for i, pair in enumerate(rows):
            colour = ANOMALOUS if pair.anomalous else NORMAL
            above = f"{_tail(pair.name)}\n{pair.title}" if pair.name else pair.title
            look: dict[str, Any] = {"fontsize": 8, "ha": "center", "parse_math": False}
            axes.text(i + 0.5, 0, above, color=colour, va="bottom", **look)
            if pair.nearest_name:
                axes.text(i + 0.5, 2.04, _tail(pair.nearest_name), color="0.35", va="top", **look)
        axes.set(xlim=(0, columns), ylim=(2, 0), aspect="equal")
        axes.set_axis_off()
    return figure


def cost(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], styles: Mapping[str, str], size: str
) -> Figure:
    """Draw cost against size on logarithmic axes: a panel for each kind of cost, a line for each method.

    Args:
        curves: points (size, cost), both above 0, by the title of the panel and the name of the method.
        styles: matplotlib's format of the line of each method, such as ``o-``.
        size: label of the size axis.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(curves), sharex=True))
    for axes, (title, sides) in zip(panels, curves.items(), strict=True):
        for side, points in sides.items():
            axes.plot(*zip(*points, strict=True), styles[side], label=side)
        axes.set(title=title, xlabel=size, xscale="log", yscale="log")
        axes.grid(color="0.9")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _tail(name: str) -> str:
    """Return the end of a name, as long as an image is wide."""
    name = "".join(character if character.isprintable() else " " for character in name)
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"


def _mosaic(rows: Sequence[ImagePair]) -> np.ndarray:
    """Return one image of all pairs: test images above, nearest images below, each in a white frame."""
    pairs = np.stack([[pair.test, pair.nearest] for pair in rows], axis=1)  # (2, rows, height, width, C)
    pairs = np.broadcast_to(pairs, (*pairs.shape[:-1], 3))
    frame = max(1, round(0.03 * max(pairs.shape[2:4])))
    pairs = np.pad(pairs, [(0, 0), (0, 0), (frame, frame), (frame, frame), (0, 0)], constant_values=255)
    return pairs.swapaxes(1, 2).reshape(2 * pairs.shape[2], -1, 3)


def envelope(found: Mapping[str, Any]) -> Figure:
    """Draw the false alarms under each change over its steps, from the content of ``envelope.json``.

    There is a panel for each change and a line for each threshold with its interval as a band. Dotted lines are twice
    the rate that a threshold promises. The axis ends at ten times the largest of these rates, where it is clear that
    the thresholds do not hold.
    """
    changes, columns = found["changes"], 4
    rows = -(-len(changes) // columns)
    figure = Figure(figsize=(11, 0.7 + 2.6 * rows))
    places = {"left": 0.06, "right": 0.99, "top": 0.9, "bottom": 0.1, "hspace": 0.5, "wspace": 0.12}
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False, gridspec_kw=places).flat)
    for axes, change in zip(panels, changes, strict=False):
        _envelope_of(axes, change, found["thresholds"])
    for axes in panels[len(changes) :]:
        axes.set_axis_off()
    largest = max(threshold["false_alarm_rate"] for threshold in found["thresholds"])
    panels[0].set_ylim(0, min(102, 1000 * largest))  # of all, which share the axis
    figure.supylabel("false alarms, %", fontsize="medium", x=0.005)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", ncols=4, frameon=False)
    return figure


def _envelope_of(axes: Axes, change: Mapping[str, Any], thresholds: Sequence[Mapping[str, Any]]) -> None:
    """Draw the panel of one change."""
    places = range(len(change["steps"]) + 1)
    for number, threshold in enumerate(thresholds):
        look, rate = style(number), 100 * threshold["false_alarm_rate"]
        rates = [threshold["unchanged"], *(step["false_alarm_rates"][number] for step in change["steps"])]
        ends = 100 * np.array([step["intervals"][number] for step in change["steps"]])
        label = f"threshold for {rate:g} %" + (
            f", confidence {threshold['confidence']:g}" if "confidence" in threshold else ""
        )
        axes.plot(places, 100 * np.array(rates), **look, markersize=4, label=label)
        axes.fill_between(places[1:], *ends.T, color=look["color"], alpha=0.12, linewidth=0)
        axes.axhline(2 * rate, color=look["color"], linestyle=":", linewidth=1)
    axes.set_xticks(places, ["none", *(f"{step['strength']:.3g}" for step in change["steps"])])
    axes.set(title=change["change"], xlabel=change["unit"])
    axes.title.set_fontsize("medium")
