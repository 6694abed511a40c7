"""The shipped YAML files: where they are, what they offer, and what else a mistyped name may have meant."""

import difflib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def folder() -> Path:
    """Return the folder of the shipped YAML files: inside an installed package, at the root of a checkout."""
    inside = Path(__file__).parents[2] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[4] / "conf"


def choices() -> dict[str, dict[str, str]]:
    """Return for each group its choices, each with the first comment of its file."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder().glob("*/*.yaml")):
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        texts = [line[2:] for line in comments if not line.startswith("# @")]
        found.setdefault(path.parent.name, {})[path.stem] = texts[0] if texts else ""
    return found


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what is allowed in place of ``name``, with the closest first."""
    public = sorted(item for item in known if not item.startswith("_"))
    close = difflib.get_close_matches(name, public, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"allowed: {', '.join(public) or 'no settings here'}"
