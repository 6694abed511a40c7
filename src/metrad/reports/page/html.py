"""The page of a report: headings, pictures and tables in one self-contained HTML file."""

import base64
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from metrad import __version__
from metrad.files import replacing
from metrad.reports.page.plots import svg
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
    return render_template("report", title=title, facts=facts, sections=sections)


def render_template(name: str, **content: Any) -> str:
    """Return the HTML of the template ``name`` with its script and styles, and ``content`` escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metrad.reports.page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    numbers = itertools.count(1)
    # matplotlib escapes the text of a figure, so its SVG is safe markup
    environment.filters["inline"] = lambda figure: Markup(svg(figure, f"f{next(numbers)}"))  # noqa: S704
    environment.tests["table"] = lambda content: isinstance(content, Table)
    script, styles = (_static(environment, f"{name}.{kind}") for kind in ("js", "css"))
    return environment.get_template(f"{name}.html.j2").render(
        **content,
        script=Markup(script),  # noqa: S704 (a file of the package, like the next one)
        styles=Markup(styles),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made=f"metrad {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _static(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
