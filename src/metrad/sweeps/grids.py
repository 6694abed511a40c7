"""Grids of overrides: the runs in them, and grids over all ordered pairs of classes."""

import itertools
import re
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

Grid = Mapping[str, str | int]

_MOST_CLASSES = 300  # of which every ordered pair is a run
_WORDS_WITH_MEANING = ("true", "false", "null", "inf", "nan")


def runs(grids: Sequence[Sequence[Override]]) -> list[list[str]]:
    """Return the overrides of every run of several grids; a run that is in two grids is returned once.

    Raises:
        HydraException: an override is an interval instead of a list of values.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for grid in grids:
        values = {override.get_key_element(): _values(override) for override in grid}  # the last override of a key wins
        for run in itertools.product(*values.values()):
            found.setdefault(run, list(run))
    return list(found.values())


def _values(override: Override) -> list[str]:
    """Return an override for each value of ``override``."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise HydraException(f"{override.input_line}: a grid needs a list of values, such as {key}=1,2")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def ordered_pairs(classes: int | Sequence[str | int]) -> list[Grid]:
    """Return a grid for each class: this class is normal, and every other class is anomalous in turn.

    Raises:
        ValueError: there are fewer than two classes, or one is listed twice.
    """
    if isinstance(classes, int) and classes > _MOST_CLASSES:
        raise ValueError(f"hydra.sweeper.pairs={classes} makes too many runs; pair at most {_MOST_CLASSES} classes")
    if isinstance(classes, bool | str) or len(names := range(classes) if isinstance(classes, int) else classes) < 2:
        raise ValueError(f"hydra.sweeper.pairs must be a number of classes of at least 2, or list them, got {classes}")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"hydra.sweeper.pairs lists {twice[0]} twice; remove the duplicate")
    quoted = [_quoted(str(name)) if isinstance(name, str) else str(name) for name in names]
    return [
        {"dataset.normal": normal, "dataset.anomalous": ",".join(name for name in quoted if name != normal)}
        for normal in quoted
    ]


def _quoted(name: str) -> str:
    """Return ``name`` for the command line, in quotes if Hydra would not read it as a string."""
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.lower() not in _WORDS_WITH_MEANING:
        return name
    return "'{}'".format(name.replace("'", r"\'"))
