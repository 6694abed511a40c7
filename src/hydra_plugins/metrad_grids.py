"""A Hydra sweeper over several grids, for sweeps whose parts have different settings. Hydra finds it by its place here.

With the basic sweeper, ``head=arcface,adacos head.margin=0.1,0.3`` is one grid and ends at AdaCos, which has no margin.
"""

from collections.abc import Mapping

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


class GridSweeper(BasicSweeper):
    """Runs each of several grids, one after another.

    Args:
        grids: for each grid the values of its keys as on the command line, such as ``{head.margin: "0.1,0.3"}``. What
            the command line says holds for all grids and wins.
        max_batch_size: how many runs to check and launch at a time; None for all.
        params: as in Hydra's basic sweeper, for all grids.
    """

    def __init__(
        self, grids: list[dict[str, str]], max_batch_size: int | None = None, params: dict[str, str] | None = None
    ) -> None:
        if not grids or not all(isinstance(grid, Mapping) for grid in grids):
            raise ValueError(f"hydra.sweeper.grids must list grids such as {{head: 'adacos,arcface'}}, got {grids}")
        super().__init__(max_batch_size, params)
        self.grids = grids

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
