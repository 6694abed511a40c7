"""A Hydra sweeper over several grids, for sweeps whose parts have different settings. Hydra finds it by its place here.

With the basic sweeper, ``head=arcface,adacos head.margin=0.1,0.3`` is one grid and ends at AdaCos, which has no margin.
"""

import re
from collections.abc import Mapping, Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

Grid = Mapping[str, str | int]


class GridSweeper(BasicSweeper):
    """Runs each of several grids, one after another.

    Args:
        grids: for each grid the values of its keys as on the command line, such as ``{head.margin: "0.1,0.3"}``. What
            the command line says holds for all grids and wins.
        pairs: how many classes there are, or which, by name or number: each is normal in a grid of its own, in which
            every other one is anomalous in turn. None for no such grids.
        max_batch_size: how many runs to check and launch at a time; None for all.
        params: as in Hydra's basic sweeper, for all grids.
    """

    def __init__(
        self,
        grids: Sequence[Grid] = (),
        pairs: int | Sequence[str | int] | None = None,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        if not all(isinstance(grid, Mapping) for grid in grids):
            raise ValueError(f"hydra.sweeper.grids must list grids such as {{head: 'adacos,arcface'}}, got {grids}")
        super().__init__(max_batch_size, params)
        self.grids = [*grids, *(ordered_pairs(pairs) if pairs is not None else [])]
        if not self.grids:
            raise ValueError("hydra.sweeper.grids and hydra.sweeper.pairs are both empty; give one of them")

    def split_arguments(  # type: ignore[override] # static in the parent, which calls it through self
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the overrides of every run, in batches; a run that two grids have in common stands once."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        runs: dict[tuple[str, ...], list[str]] = {}
        for grid in self.grids:
            own = parser.parse_overrides([f"{key}={values}" for key, values in grid.items()])
            for run in BasicSweeper.split_arguments([*own, *overrides], None)[0]:
                runs.setdefault(tuple(run), run)
        return list(self.split_overrides_to_chunks(list(runs.values()), max_batch_size))


def ordered_pairs(classes: int | Sequence[str | int]) -> list[Grid]:
    """Return a grid for each class, in which it is normal and every other one anomalous in turn.

    Raises:
        ValueError: there are fewer than two classes.
    """
    if isinstance(classes, bool | str) or len(names := range(classes) if isinstance(classes, int) else classes) < 2:
        raise ValueError(f"hydra.sweeper.pairs must be a number of classes of at least 2, or list them, got {classes}")
    quoted = [_quoted(str(name)) if isinstance(name, str) else str(name) for name in names]
    return [
        {"dataset.normal": normal, "dataset.anomalous": ",".join(name for name in quoted if name != normal)}
        for normal in quoted
    ]


def _quoted(name: str) -> str:
    """Return ``name`` as the command line reads it, quoted where it would not be taken for a word."""
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.lower() not in (
        "true",
        "false",
        "null",
        "inf",
        "nan",
    )
    return name if plain else "'{}'".format(name.replace("'", r"\'"))
