"""The Hydra sweeper over several grids, for choices with different settings: conf/hydra/sweeper/grids.yaml.

With Hydra's own sweeper, ``head=arcface,adacos head.margin=0.1,0.3`` is one grid and fails at AdaCos, which has no
margin. Hydra imports this file in every Hydra program of the environment, so it is light and registers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """Runs each of several grids, one after another.

    Args:
        grids: the values of the keys of each grid, as on the command line, such as ``{head.margin: "0.1,0.3"}``.
            Overrides on the command line apply to all grids and take precedence.
        pairs: number of classes, or the classes by name or number. Each class is normal in a grid of its own, in which
            every other class is anomalous in turn. None for no such grids.
        max_batch_size: number of runs to check and launch at a time; None for all runs.
        params: overrides for all grids, as in Hydra's basic sweeper.
    """

    def __init__(
        self,
        grids: Sequence[Mapping[str, str | int]] = (),
        pairs: int | Sequence[str | int] | None = None,
        max_batch_size: int | None = None,
        params: Mapping[str, str] | None = None,
    ) -> None:
        from metrad.sweeps.grids import ordered_pairs

        if not all(isinstance(grid, Mapping) for grid in grids):
            raise ValueError(f"hydra.sweeper.grids must list grids such as {{head: 'adacos,arcface'}}, got {grids}")
        self.grids = [*grids, *(ordered_pairs(pairs) if pairs is not None else [])]
        if not self.grids:
            raise ValueError("hydra.sweeper.grids and hydra.sweeper.pairs are both empty; give one of them")
        if max_batch_size is not None and not (isinstance(max_batch_size, int) and max_batch_size >= 1):
            raise ValueError(f"hydra.sweeper.max_batch_size must be a number of at least 1, got {max_batch_size}")
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep context and configuration of the sweep, and build its launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Check and launch the runs, one batch after another."""
        assert self.config is not None
        assert self.launcher is not None
        from metrad.files import writing

        batches = self.batches(arguments)
        folder = Path(self.config.hydra.sweep.dir)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
        returned: list[Sequence[JobReturn]] = []
        first = 0
        for batch in batches:
            self.validate_batch_is_legal(batch)
            returned.append(self.launcher.launch(batch, initial_job_idx=first))
            for result in returned[-1]:
                _ = result.return_value  # raises the error of a run that failed
            first += len(batch)
        return returned

    def batches(self, arguments: Sequence[str]) -> list[list[list[str]]]:
        """Return the overrides of every run of a sweep, in batches, from the overrides ``arguments``."""
        from metrad.sweeps.grids import runs
        from metrad.sweeps.plan import require_runs

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        common = parser.parse_overrides([*(f"{key}={values}" for key, values in self.params.items()), *arguments])
        own = [parser.parse_overrides([f"{key}={values}" for key, values in grid.items()]) for grid in self.grids]
        found = runs([[*grid, *common] for grid in own])
        require_runs(found)
        size = self.max_batch_size or len(found)
        return [found[i : i + size] for i in range(0, len(found), size)]
