"""The page of a report: headings, pictures and tables in one self-contained HTML file."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from metrad.files import replacing
from metrad.reports.page.plots import svg
from metrad.reports.page.rendering import render_template
from metrad.reports.page.tables import Table
from metrad.terminal import printable

MOST_ROWS = 60  # largest number of rows of a table that is not folded


@dataclass(frozen=True)
class Picture:
    """A picture with its texts.

    Attributes:
        alt: text alternative, for readers who do not see the picture.
        caption: text below the picture.
        content: a figure, or a data URI of a wide picture.
        wide: whether the figure is too wide for a phone and scrolls there.
    """

    alt: str
    caption: str
    content: Figure | str
    wide: bool = False


@dataclass(frozen=True)
class Fold:
    """A folded table or text, which the reader opens."""

    title: str
    content: Table | str


@dataclass(frozen=True)
class Group:
    """The content under one heading, which may be empty, in this order; ``lines`` are list items."""

    title: str = ""
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    folds: Sequence[Fold] = ()

    def __bool__(self) -> bool:
        return bool(self.pictures or self.tables or self.lines or self.folds)


@dataclass(frozen=True)
class Section:
    """A section of the page, with an entry in the navigation."""

    anchor: str
    title: str
    text: str
    groups: list[Group] = field(default_factory=list)


def opened(tables: Sequence[Table]) -> tuple[list[Table], list[Fold]]:
    """Return the tables to show and the tables to fold: all long tables but the first of several."""
    folded = [each for i, each in enumerate(tables) if len(each.rows) > MOST_ROWS and (i or len(tables) == 1)]
    shown = [each for each in tables if each not in folded]
    return shown, [Fold(f"{each.caption}: {len(each.rows)} rows", each) for each in folded]


def write_page(path: Path, title: str, facts: Sequence[str], sections: Sequence[Section]) -> None:
    """Write the page to ``path``, all or nothing.

    Raises:
        WriteError: the file cannot be written.
    """
    text = printable(render(title, facts, sections))  # names of files and classes may hold control characters
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def render(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the HTML of the page: title, facts and sections."""
    numbers = itertools.count(1)
    # matplotlib escapes the text of a figure, so its SVG is safe markup
    filters = {"inline": lambda figure: Markup(svg(figure, f"f{next(numbers)}"))}  # noqa: S704
    tests = {"table": lambda content: isinstance(content, Table)}
    return render_template("report", {"title": title, "facts": facts, "sections": sections}, filters, tests)
