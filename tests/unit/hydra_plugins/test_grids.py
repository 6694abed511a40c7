from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import OmegaConf

from metrad.runs.config.catalogue import folder
from metrad.sweeps.grids import runs


@pytest.fixture
def split():
    def call(grids, *arguments, size=None, pairs=None, params=None):
        with initialize_config_dir(str(folder()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            sweeper_class = Plugins.instance().class_name_to_class["hydra_plugins.metrad_grids.GridSweeper"]
            sweeper = sweeper_class(grids, pairs, size, params)
            sweeper.hydra_context = SimpleNamespace(config_loader=loader)
            return sweeper.batches(arguments)

    return call


TUNING = OmegaConf.load(folder() / "experiment/tuning.yaml").hydra.sweeper.grids


def test_tuning_is_the_grid_of_two_heads_beside_adacos_for_every_seed(split):
    (found,) = split(TUNING, "seed=range(2)")
    settings = {tuple(sorted(run)) for run in found}
    assert len(found) == len(settings) == 2 * (2 * 5 * 4 + 2)
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


def test_params_hold_for_all_grids_and_the_command_line_wins_over_them(split):
    grids, params = [{"head": "arcface"}, {"scorer": "knn"}], {"seed": "1,2", "batch_size": "8"}
    assert split(grids, "batch_size=16", params=params) == [
        [
            ["head=arcface", "seed=1", "batch_size=16"],
            ["head=arcface", "seed=2", "batch_size=16"],
            ["scorer=knn", "seed=1", "batch_size=16"],
            ["scorer=knn", "seed=2", "batch_size=16"],
        ]
    ]


@pytest.mark.parametrize(
    "overrides", [["a=1,2", "b=x,y", "a=3"], ["x=range(3)", "y=[1,2],[3]"], ["z='a,b'", "w=1"], []]
)
def test_a_single_grid_is_what_hydras_own_sweeper_makes_of_it(overrides):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    parsed = OverridesParser.create().parse_overrides(overrides)
    assert runs([parsed]) == BasicSweeper.split_arguments(parsed, None)[0]


def test_a_grid_over_an_interval_is_refused(split):
    with pytest.raises(HydraException, match=r"optimizer\.lr=interval\(1e-4,1e-3\): a grid needs a list of values"):
        split([{"head": "arcface"}], "optimizer.lr=interval(1e-4,1e-3)")


@pytest.mark.parametrize("size", [0, -1, "many"])
def test_a_batch_holds_at_least_one_run(split, size):
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.max_batch_size must be a number of at least 1"):
        split([{"seed": "1,2"}], size=size)


EXPERIMENTS = {
    name: OmegaConf.load(folder() / f"experiment/{name}.yaml").hydra.sweeper
    for name in ("all_pairs", "one_vs_rest", "leave_one_out")
}


def test_all_pairs_are_ninety_runs_of_each_other_setting(split):
    (found,) = split([], "head=adacos,arcface", "seed=3", pairs=EXPERIMENTS["all_pairs"].pairs)
    settings = {tuple(run) for run in found}
    assert len(found) == len(settings) == 2 * 90
    assert ("dataset.normal=9", "dataset.anomalous=8", "head=arcface", "seed=3") in settings
    for run in settings:
        values = dict(item.split("=") for item in run)
        assert values["dataset.normal"] != values["dataset.anomalous"]


@pytest.mark.parametrize(("name", "key"), [("one_vs_rest", "normal"), ("leave_one_out", "anomalous")])
def test_a_protocol_of_one_class_is_ten_runs(split, name, key):
    (found,) = split(EXPERIMENTS[name].grids, "seed=0")
    assert found == [[f"dataset.{key}={i}", "seed=0"] for i in range(10)]


def test_pairs_of_classes_by_name_whatever_is_in_them(split):
    names = ["Ankle boot", "T-shirt/top", "it's, a=b", "c[d]", "12", "Null", "nan", "Élan", "cat", 3]
    (found,) = split([], pairs=OmegaConf.create(names))
    assert len(found) == 10 * 9
    assert ["dataset.normal=cat", "dataset.anomalous=3"] in found
    parsed = [OverridesParser.create().parse_overrides(run) for run in found]
    pairs = sorted(tuple(str(override.value()) for override in run) for run in parsed)
    assert pairs == sorted((str(a), str(b)) for a in names for b in names if a != b)


def test_pairs_come_beside_grids(split):
    (found,) = split([{"head": "adacos"}], pairs=2)
    assert found == [
        ["head=adacos"],
        ["dataset.normal=0", "dataset.anomalous=1"],
        ["dataset.normal=1", "dataset.anomalous=0"],
    ]


@pytest.mark.parametrize("pairs", [1, 0, -3, True, "cat", ["cat"], []])
def test_too_few_classes_make_no_pairs(split, pairs):
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.pairs must be a number of classes of at least 2"):
        split([], pairs=pairs)


def test_without_grids_and_pairs_there_is_nothing_to_run(split):
    with pytest.raises(ValueError, match="both empty"):
        split([])
