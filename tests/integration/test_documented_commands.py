"""Every training command that the documentation shows is one that metrad takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:train\.py|metrad train)((?:'[^']*'|[^'\n])*)")  # a line, or more where quotes are open
NOTE = re.compile(r"\s{2,}[^\s'\[{]|\s#\s")  # what stands behind a command and says what it is for


def documented() -> Iterator[tuple[str, list[str]]]:
    """Yield the page and the words of every command."""
    for page in PAGES:
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
            for command in COMMAND.findall(re.sub(r" *\\\n *", " ", block)):
                note = NOTE.search(command)
                words = shlex.split(command[: note.start()] if note else command)
                yield page.name, [word for word in words if word != "-m"]


def first_runs(words: list[str]) -> list[list[str]]:
    """Return the first run of a command, or of each grid of a sweep over grids."""
    overrides = OverridesParser.create().parse_overrides(words)
    grids = [one for one in overrides if one.key_or_group == "hydra.sweeper.grids"]
    others = [first(one) for one in overrides if one not in grids]
    if not grids:
        return [others]
    return [[*first_runs([f"{key}={text(of)}" for key, of in grid.items()])[0], *others] for grid in grids[0].value()]


def first(override: Override) -> str:
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def text(value: object) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)


DOCUMENTED = list(documented())


@pytest.mark.parametrize(("page", "words"), DOCUMENTED, ids=[f"{page} {' '.join(words)}" for page, words in DOCUMENTED])
def test_a_documented_command_is_taken(page, words, metrad):
    for run in first_runs(words):
        answer = metrad("train", *run, "--cfg", "job")
        assert (answer.code, answer.err) == (0, ""), run


def test_commands_are_found():
    assert len(DOCUMENTED) > 30
    assert {page for page, _ in DOCUMENTED} >= {"README.md", "studies.md", "comparing.md", "heads.md"}
