"""The files of a comparison: tables as CSV, Markdown and LaTeX, and pictures as SVG and PNG."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from metrad.errors import InputError
from metrad.files import replacing, writing
from metrad.reports.cells import cells, studies_of
from metrad.reports.comparison.kinds import detection, kinds
from metrad.reports.comparison.latex import NEEDED, latex_tables
from metrad.reports.comparison.notes import ONE_POOL
from metrad.reports.comparison.plots import pictures, study
from metrad.reports.comparison.statistics import Comparison
from metrad.reports.comparison.trivial import beside_trivial

FORMATS = ("svg", "png")
LONG = (
    "summary",
    "pairs",
    "kinds",
    "trivial",
    "detection",
)  # folded, or left to the files, if there are many conditions
_CAPTIONS = {
    "conditions": "Mean {metric} over runs: a row a condition, a column a {by}",
    "summary": "{metric} of each {by} over its runs; low and high end Student's 95 % interval for the mean",
    "pairs": "Differences in {metric}, {by} minus against, with 95 % bootstrap intervals; p by {test}, p_holm "
    "corrected for all rows, effect: rank-biserial correlation, detectable: what would have shown 4 times in 5",
    "kinds": "Mean {metric} of each kind of anomaly against all normal test images, over runs; the worst kind first",
    "trivial": "Mean AUROC of each {by} over runs, beside that of the best trivial property of the same test images in "
    "its better direction, max(a, 1 - a)",
    "detection": "Anomalous test images found above the threshold of each false-alarm rate, and of the kind of anomaly "
    "found least, means over runs",
    "overall": "Mean ranks over all {units}, 1 being the best",
}


@contextlib.contextmanager
def folder(out: Path) -> Iterator[None]:
    """Make the folder ``out`` if it does not exist, and remove it again if it stays empty.

    Raises:
        InputError: ``out`` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder to write the comparison to")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            out.rmdir()


def write(comparison: Comparison, out: Path) -> list[Path]:
    """Write ``comparison`` into the folder ``out``, all or nothing, and return the paths of the files.

    ``comparison.csv`` has the rows of all tables, and its first column names the table. ``comparison.md`` and
    ``comparison.tex`` have the tables and the notes. Each picture is written as SVG and PNG. Existing files of these
    names are replaced; all other files stay.

    Raises:
        InputError: ``out`` is a file, or a file of a run cannot be read.
    """
    parts, drawn = tables(comparison), pictures(comparison) | _studies(comparison)
    more = _kinds(comparison) | _detection(comparison) | _beside(comparison)
    texts = {
        "comparison.csv": _csv(parts),
        "comparison.md": _markdown(comparison, parts | more, list(drawn)),
        "comparison.tex": _latex(comparison, parts),
    }
    files = [*(out / name for name in texts), *(out / f"{name}.{form}" for name in drawn for form in FORMATS)]
    with folder(out), contextlib.ExitStack() as stack:  # all files are complete before the first one is put in place
        partial = {file.name: stack.enter_context(replacing(file)) for file in files}
        for name, text in texts.items():
            partial[name].write_text(text, encoding="utf-8", newline="\n")
        for name, figure in drawn.items():
            for form in FORMATS:
                _save(figure, partial[f"{name}.{form}"], form)
    return files


def _studies(comparison: Comparison) -> dict[str, Figure]:
    """Return the picture of the studies of the runs, by name; empty if no run has a study."""
    panels: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for cell in cells(comparison.runs, comparison.by, comparison.conditions, comparison.metric):
        tables = studies_of(cell)
        if tables:
            panels.setdefault(cell.condition, {})[cell.choice] = tables
    return {"study": study(panels)} if panels else {}


def _kinds(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return the table of kinds of anomalies, by name; empty if no run has several."""
    frame = kinds(comparison)
    return {"kinds": frame} if len(frame) else {}


def _beside(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return the table of trivial properties, by name; empty if no run has any, or another metric is compared."""
    frame = beside_trivial(comparison)
    return {"trivial": frame} if len(frame) else {}


def _detection(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return the table of detection at each false-alarm rate, by name; empty if no run has a threshold."""
    frame = detection(comparison)
    return {"detection": frame} if len(frame) else {}


def _csv(parts: dict[str, pd.DataFrame]) -> str:
    joined = pd.concat([frame.assign(table=name) for name, frame in parts.items()])
    joined = joined[["table", *(name for name in joined.columns if name != "table")]]
    return str(joined.to_csv(index=False, lineterminator="\n"))


def tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return the tables by name: summary, pairs, with several conditions overall, with many conditions."""
    parts = {"summary": comparison.summary, "pairs": comparison.pairs}
    if comparison.overall is not None:
        parts["overall"] = comparison.overall
    return {"conditions": _with_means(comparison), **parts} if comparison.many else parts


def _with_means(comparison: Comparison) -> pd.DataFrame:
    """Return the means by condition, and a last row with their means over the conditions that have all values."""
    frame = comparison.by_condition
    whole = frame[comparison.compared].dropna()
    last = {
        **dict.fromkeys(comparison.conditions, ""),
        comparison.conditions[0]: f"mean of {len(whole)}",
        **whole.mean(),
    }
    return pd.concat([frame, pd.DataFrame([last])])


def report(comparison: Comparison) -> str:
    """Return tables, holes and notes as a text for the terminal."""
    parts = tables(comparison) | _beside(comparison) | ({} if comparison.many else _detection(comparison))
    long = [name for name in LONG if comparison.many and name in parts]
    shown = {name: frame for name, frame in parts.items() if name not in long}
    blocks = [formatted(frame).to_string(index=False) for frame in shown.values()]
    blocks += [f"{' and '.join(long)}, a row a condition and more: in the files"] if long else []
    if comparison.holes:
        blocks.append("\n".join(["holes in the grid:", *(f"  {hole}" for hole in comparison.holes)]))
    return "\n\n".join([*blocks, "\n".join(comparison.notes)])


def formatted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` with every cell formatted as text."""
    return pd.DataFrame({name: [_cell(name, value) for value in frame[name]] for name in frame.columns})


def _cell(column: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    if column == "false_alarm_rate":
        return f"{value:g}"
    if math.isinf(value):
        return "none"  # no difference, however large, is detectable
    if column in ("p", "p_holm"):
        return f"{value:.2g}"
    return f"{value:.2f}" if column in ("effect", "mean_rank") else f"{value:.4f}"


def _caption(comparison: Comparison, name: str) -> str:
    test = "the Wilcoxon signed-rank test" if comparison.paired else "the Mann-Whitney test"
    return _CAPTIONS[name].format(metric=comparison.metric, by=comparison.by, test=test, units=comparison.units)


def _markdown(comparison: Comparison, parts: dict[str, pd.DataFrame], drawn: list[str]) -> str:
    lines = [f"# Comparison by {comparison.by}", "", *(f"- {_plain(note)}" for note in comparison.notes), ""]
    for name, frame in parts.items():
        text = formatted(frame)
        folded = comparison.many and name in LONG
        lines += [f"## {name.capitalize()}", "", f"{_plain(_caption(comparison, name))}.", ""]
        lines += [f"<details><summary>{len(text)} rows</summary>", ""] if folded else []
        lines += [_bar(text.columns), _bar("---" for _ in text.columns)]
        lines += [*(_bar(row) for row in text.itertuples(index=False)), ""]
        lines += ["</details>", ""] if folded else []
    lines += [f"![{name}]({name}.png)\n" for name in drawn]
    if comparison.holes:
        lines += ["## Holes in the grid", "", *(f"- {_plain(hole)}" for hole in comparison.holes), ""]
    return "\n".join(lines)


def _bar(cells: Any) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Return ``text`` on one line, with the special characters of Markdown and HTML escaped."""
    text = " ".join(text.split()).replace("\\", "\\\\")
    for character in "*_`[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _latex(comparison: Comparison, parts: dict[str, pd.DataFrame]) -> str:
    """Return the tables in LaTeX. The notes are comments, but the caption of the tests has the note on seeds."""
    lines = [NEEDED, *(f"% {' '.join(note.split())}" for note in comparison.notes)]
    for name, frame in parts.items():
        numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame.columns]
        caption = _caption(comparison, name)
        if name == "pairs" and ONE_POOL in comparison.notes:
            caption += f". {ONE_POOL.removesuffix('.')}"
        lines += latex_tables(formatted(frame), numeric, caption, f"{comparison.by}-{comparison.metric}-{name}")
    return "\n".join(lines)


def _save(figure: Figure, path: Path, form: str) -> None:
    # Without a date and random names, the same runs give the same files.
    with mpl.rc_context({"svg.hashsalt": "metrad"}):
        figure.savefig(path, format=form, dpi=150, metadata={"Date": None} if form == "svg" else {"Software": None})
