from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from metrad.runs.config.catalogue import folder


@pytest.fixture
def split():
    def call(grids, *arguments, size=None, pairs=None):
        with initialize_config_dir(str(folder()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            sweeper = Plugins.instance().class_name_to_class["hydra_plugins.metrad_grids.GridSweeper"](grids, pairs)
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


EXPERIMENTS = {
    name: OmegaConf.load(folder() / f"experiment/{name}.yaml").hydra.sweeper
    for name in ("all_pairs", "one_vs_rest", "leave_one_out")
}


def test_all_pairs_are_ninety_runs_of_each_other_setting(split):
    (runs,) = split([], "head=adacos,arcface", "seed=3", pairs=EXPERIMENTS["all_pairs"].pairs)
    settings = {tuple(run) for run in runs}
    assert len(runs) == len(settings) == 2 * 90
    assert ("dataset.normal=9", "dataset.anomalous=8", "head=arcface", "seed=3") in settings
    for run in settings:
        values = dict(item.split("=") for item in run)
        assert values["dataset.normal"] != values["dataset.anomalous"]


@pytest.mark.parametrize(("name", "key"), [("one_vs_rest", "normal"), ("leave_one_out", "anomalous")])
def test_a_protocol_of_one_class_is_ten_runs(split, name, key):
    (runs,) = split(EXPERIMENTS[name].grids, "seed=0")
    assert runs == [[f"dataset.{key}={i}", "seed=0"] for i in range(10)]


def test_pairs_of_classes_by_name_whatever_is_in_them(split):
    names = ["Ankle boot", "T-shirt/top", "it's, a=b", "c[d]", "12", "Null", "nan", "Élan", "cat", 3]
    (runs,) = split([], pairs=OmegaConf.create(names))
    assert len(runs) == 10 * 9
    assert ["dataset.normal=cat", "dataset.anomalous=3"] in runs
    parsed = [OverridesParser.create().parse_overrides(run) for run in runs]
    pairs = [tuple(override.value() for override in run) for run in parsed]
    found = [tuple(str(value) for value in pair) for pair in pairs]
    assert sorted(found) == sorted((str(a), str(b)) for a in names for b in names if a != b)


def test_pairs_come_beside_grids(split):
    (runs,) = split([{"head": "adacos"}], pairs=2)
    assert runs == [
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
