"""The notes of a comparison on how its runs were made: thread count, precision, processor, versions of packages."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from metrad.runs.directory import Run

WORDS = {"threads": "thread count", "ranks": "number of processes"}
WITHOUT_EFFECT = ("speed", "python", "platform")  # entries of environment.json that move no metric by themselves
UNRECORDED = "not recorded"
NAMED = 3  # largest number of values of one entry that a note lists
LONGEST = 48  # characters of a value in a note


def environment_notes(runs: Sequence[tuple[str, Run]], by: str) -> list[str]:
    """Return notes on entries of ``environment.json`` in which ``runs`` differ.

    Args:
        runs: the compared value and the directory of each finished run.
        by: the compared choice. An entry that it names, as ``trainer.precision`` names ``precision``, is left out.

    Raises:
        InputError: a file cannot be read.
    """
    made = [(value, _entries(run.read_json(run.environment))) for value, run in runs if run.has(run.environment)]
    keys = dict.fromkeys(key for _, entries in made for key in entries if key != by.rpartition(".")[2])
    columns = {key: [entries.get(key, UNRECORDED) for _, entries in made] for key in keys}
    differing = {key: column for key, column in columns.items() if len(set(column)) > 1}
    return list(_notes(differing, [value for value, _ in made], by, lacking=len(runs) - len(made)))


def _notes(differing: dict[str, list[str]], values: list[str], by: str, *, lacking: int) -> Iterator[str]:
    if differing:
        listed = ", ".join(f"{_word(key)} ({_counted(column)})" for key, column in differing.items())
        yield f"Runs differ in {listed}, by environment.json; this can move metrics a little."
    own = [_word(key) for key, column in differing.items() if _parted(column, values)]
    if own:
        yield (
            f"No two values of {by} have runs of the same {' or '.join(own)}, so a difference between them may come "
            "from that."
        )
    if lacking and values:
        some = f"{lacking} of {lacking + len(values)} finished runs"
        yield f"{some} have no environment.json, so it is unknown how they were made."


def _entries(content: Any) -> dict[str, str]:
    """Return the entries that can move metrics, as text; every package is an entry."""
    content = content if isinstance(content, dict) else {}
    packages = content.get("packages")
    versions = {f"{name} version": version for name, version in packages.items()} if isinstance(packages, dict) else {}
    own = {key: value for key, value in content.items() if key not in (*WITHOUT_EFFECT, "packages")}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in (own | versions).items()}


def _word(key: str) -> str:
    return WORDS.get(key, key)


def _counted(column: Sequence[str]) -> str:
    """Return the values of an entry with their numbers of runs, the most frequent first."""
    counts = Counter(column).most_common()
    shown = [f"{_short(value)} in {count} {'run' if count == 1 else 'runs'}" for value, count in counts[:NAMED]]
    return ", ".join(shown) + (f" and {len(counts) - NAMED} more" if len(counts) > NAMED else "")


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"


def _parted(column: Sequence[str], values: Sequence[str]) -> bool:
    """Return whether no two compared ``values`` have an entry of ``column`` in common."""
    pairs = set(zip(column, values, strict=True))
    return len({entry for entry, _ in pairs}) == len(pairs) and len(set(values)) > 1
