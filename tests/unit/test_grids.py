from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from metrad.catalogue import folder


@pytest.fixture
def split():
    def call(grids, *arguments, size=None):
        with initialize_config_dir(str(folder()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            sweeper = Plugins.instance().class_name_to_class["hydra_plugins.metrad_grids.GridSweeper"](grids)
            sweeper.hydra_context = SimpleNamespace(config_loader=loader)
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
            return sweeper.split_arguments(parsed, size)

    return call


TUNING = OmegaConf.load(folder() / "experiment/tuning.yaml").hydra.sweeper.grids


def test_tuning_is_the_grid_of_two_heads_beside_adacos_for_every_seed(split):
    (runs,) = split(TUNING, "seed=range(2)")
    settings = {tuple(sorted(run)) for run in runs}
    assert len(runs) == len(settings) == 2 * (2 * 5 * 4 + 2)
    assert ("head.margin=0.3", "head.scale=16", "head=cosface", "seed=1") in settings
    assert ("head=adacos", "seed=0") in settings
    assert ("head=adacos_dynamic", "seed=1") in settings


def test_the_command_line_wins_and_a_run_stands_once(split):
    assert split([{"head": "arcface,cosface"}, {"head": "adacos"}], "head=normface", "seed=0,1") == [
        [["head=normface", "seed=0"], ["head=normface", "seed=1"]]
    ]


def test_batches_are_of_the_size_asked_for(split):
    batches = split([{"seed": "1,2"}, {"seed": "3,4,5"}], size=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [run for batch in batches for run in batch] == [[f"seed={i}"] for i in range(1, 6)]
