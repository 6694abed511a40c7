"""Tables in LaTeX that fit a page, for booktabs and graphicx."""

import re
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

NEEDED = r"% needs \usepackage{booktabs} and \usepackage{graphicx}"
MOST_ROWS = 36  # of one table on a page; a longer table is parted
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # a narrower table keeps its size
_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex_tables(text: pd.DataFrame, numeric: Sequence[bool], caption: str, label: str) -> Iterator[str]:
    """Yield the lines of ``text`` as tables of at most ``MOST_ROWS`` rows, each as wide as the page at most.

    The columns ``low`` and ``high`` become one column, and ``wins``, ``ties`` and ``losses`` another.

    Args:
        text: the cells as text.
        numeric: whether each column holds numbers.
        caption: the caption, without a full stop.
        label: the label after ``tab:``; the second part of a parted table has ``-2`` behind it, and so on.
    """
    kinds = dict(zip(text.columns, numeric, strict=True))
    text = _joined(_joined(text, ["low", "high"], "interval", " to "), ["wins", "ties", "losses"], "w/t/l", "/")
    form = "".join("r" if kinds.get(name, True) else "l" for name in text.columns)
    starts = range(0, max(1, len(text)), MOST_ROWS)
    label = re.sub(r"[^A-Za-z0-9-]+", "-", label)
    for number, start in enumerate(starts, 1):
        part, more = (f", part {number} of {len(starts)}", f"-{number}") if len(starts) > 1 else ("", "")
        yield from (r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption + part)}.}}")
        yield rf"\label{{tab:{label}{more if number > 1 else ''}}}"
        yield from (SHRUNK, rf"\begin{{tabular}}{{{form}}}", r"\toprule", _row(text.columns), r"\midrule")
        yield from (_row(row) for row in text.iloc[start : start + MOST_ROWS].itertuples(index=False))
        yield from (r"\bottomrule", r"\end{tabular}}", r"\end{table}", "")


def escaped(text: str) -> str:
    """Return ``text`` on one line, with the special characters of LaTeX escaped."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def _joined(text: pd.DataFrame, names: list[str], name: str, between: str) -> pd.DataFrame:
    """Return ``text`` with the columns ``names``, if it has them, as one column ``name``."""
    if not set(names) <= set(text.columns):
        return text
    place = list(text.columns).index(names[0])
    rest = text.drop(columns=names)
    cells = [between.join(row) if set(row) != {"-"} else "-" for row in text[names].itertuples(index=False)]
    rest.insert(place, name, cells)
    return rest


def _row(cells: Iterable[str]) -> str:
    return " & ".join(re.sub(r"(^|to )-(?=\d)", r"\1$-$", escaped(cell)) for cell in cells) + r" \\"
