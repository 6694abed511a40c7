"""The catalogue of the shipped YAML files: their folder and their choices."""

from functools import cache
from pathlib import Path


@cache
def folder() -> Path:
    """Return the folder of the shipped YAML files: in an installed package, or at the root of a checkout."""
    inside = Path(__file__).parents[2] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[4] / "conf"


def choices() -> dict[str, dict[str, str]]:
    """Return the choices of each group, each with the first comment of its file."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder().glob("*/*.yaml")):
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        texts = [line[2:] for line in comments if not line.startswith("# @")]
        found.setdefault(path.parent.name, {})[path.stem] = texts[0] if texts else ""
    return found
