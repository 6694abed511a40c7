"""Checks before anything is read, names of runs, and errors in one line."""

import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from metrad.app.build import build_embedder, build_learner
from metrad.errors import InputError
from metrad.models.base import Backbone, InputSpec
from metrad.models.embedder import Embedder
from metrad.runs.config import catalogue, checks
from metrad.runs.config.build import instantiate, renamed_targets
from metrad.runs.config.explain import explain, explain_null
from metrad.runs.config.schema import PARTS
from metrad.runs.config.suggestions import suggestion
from metrad.runs.identity import differences, identity
from metrad.runs.naming import run_name
from tests.helpers.commands import composed

CONF = Path(__file__).parents[4] / "conf"


@pytest.fixture(autouse=True)
def _no_hydra_left():
    checks.register()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def cfg():
    checks.register()
    return composed("experiment=demo")


def changed(cfg, key, value):
    copy = cfg.copy()
    OmegaConf.set_struct(copy, False)
    OmegaConf.update(copy, key, value, force_add=True, merge=False)
    return copy


def test_the_choices_are_the_files():
    found = {(group, name) for group, members in catalogue.choices().items() for name in members}
    assert found == {(path.parent.name, path.stem) for path in CONF.glob("*/*.yaml")}
    assert all(text for members in catalogue.choices().values() for text in members.values())


@pytest.mark.parametrize(
    ("choice", "key"), [("dataset=image_folder", "dataset.source.root"), ("backbone=torchvision", "backbone.name")]
)
def test_a_mandatory_value_is_asked_for_by_name(choice, key):
    with pytest.raises(InputError, match=re.escape(key)):
        checks.check(composed(choice))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("head.margn", 0.3, "unknown configuration key head.margn"),
        ("backbone.chanels", [8], "did you mean channels?"),
        ("backbone.channels", "many", "backbone.channels=many"),
        ("backbone.channels", [8, "x"], "backbone.channels="),
        ("scorer.n", 1, "unknown configuration key scorer.n; allowed: M, ef_search, index, k, metric"),
        ("scorer.k", "one", "scorer.k=one"),
        ("scorer.k", 1.5, "scorer.k=1.5"),
        ("scorer.k", True, "scorer.k=True"),
        ("scorer.metric", "cos", "scorer.metric=cos"),
        ("augmentation", {"_target_": "metrad.data.augmentation.Augmentation", "flp": 1}, "did you mean flip?"),
        ("augmentation", {"_target_": "metrad.data.augmentation.Augmentation", "flip": "x"}, "augmentation.flip=x"),
        ("augmentation", {"_target_": "metrad.data.augmentation.torch.load"}, "augmentation._target_"),
        ("optimizer.rate", 1, "unknown configuration key optimizer.rate"),
        ("optimizer.lr", "fast", "optimizer.lr=fast"),
        ("optimizer.amsgrad", "maybe", "optimizer.amsgrad=maybe"),
        ("optimizer.betas", 0.9, "optimizer.betas=0.9"),
        ("scheduler", {"_target_": "torch.optim.lr_scheduler.StepLR", "gama": 1}, "did you mean gamma?"),
        ("trainer.max_epoch", 3, "did you mean max_epochs?"),
        ("trainer.max_epochs", "ten", "trainer.max_epochs=ten"),
        ("trainer.accumulate_grad_batches", 1.5, "trainer.accumulate_grad_batches must be a whole number"),
        ("trainer.enable_progress_bar", "maybe", "trainer.enable_progress_bar must be"),
        ("trainer.callbacks", [], "trainer.callbacks"),
        ("trainer.default_root_dir", "x", "trainer.default_root_dir"),
        ("logger.nam", "x", "did you mean name?"),
        ("logger.name", 3, "logger.name=3"),
        ("dataset.source.root", "x", "unknown configuration key dataset.source.root"),
        ("dataset.normal", None, "only one of dataset.normal and dataset.reference can be null"),
        ("dataset.anomalous", None, "list the classes of the other, such as dataset.reference=[]"),
        ("dataset.normal", [1.5], "dataset.normal must list class names or numbers, got [1.5]"),
        ("dataset.anomalous", [True], "dataset.anomalous"),
        ("dataset.category", "screw", "dataset.category=screw: this dataset has no categories"),
        ("dataset.group", 7, "dataset.group must be auto, parent, a column, a pattern"),
        ("dataset.group", {"pattern": "(?P<a>x)", "gaps": 2}, "dataset.group.gaps; did you mean gap? allowed: gap, p"),
        ("dataset.group", {"gap": 2}, "dataset.group.pattern must be a regular expression with a named group, got"),
        (
            "dataset.group",
            {"pattern": "(?P<a>x)", "gap": 1.5},
            "dataset.group.gap must be a whole number of at least 1",
        ),
        ("dataset.group", {"pattern": "(?P<a>x)", "gap": 0}, "dataset.group.gap must be a whole number of at least 1"),
        ("dataset.group", {"pattern": "(?P<a>x)", "size": 1}, "dataset.group.size must be at least 0 and below 1, or"),
        ("dataset.on_corrupt", "ignore", "dataset.on_corrupt must be error or skip, got ignore"),
        ("dataset.range", 7, "dataset.range must be auto or a number of bits from 8 to 16, got 7"),
        ("dataset.range", True, "dataset.range must be auto or a number of bits from 8 to 16, got True"),
        ("dataset.range", "twelve", "dataset.range must be auto or a number of bits from 8 to 16, got twelve"),
        ("dataset.test_share", 0.0, "dataset.test_share must be above 0 and below 1, or null, got 0.0"),
        ("batch_size", 1, "batch_size must be at least 2, got 1"),
        ("image_size", 0, "image_size must be between 1 and 4096, or null, got 0"),
        ("seed", -1, "seed must be between 0 and 4294967295, got -1"),
        ("channels_last", 2, "channels_last must be true or false, got 2"),
        ("study.epochs", 5, "study.epochs must be true or false, got 5"),
        ("compile", 1, "compile must be auto, true or false, got 1"),
        ("dataset.memory_limit_gib", -0.5, "dataset.memory_limit_gib must be at least 0, got -0.5"),
        ("evaluation.level", 1.0, "evaluation.level must be above 0 and below 1, got 1.0"),
        ("evaluation.level", float("nan"), "evaluation.level must be finite: above 0 and below 1, got nan"),
        ("evaluation.resamples", 99, "evaluation.resamples must be between 100 and 1000000, got 99"),
        ("evaluation.false_alarm_rates", [0.1, 2], "evaluation.false_alarm_rates must be a list of different rates"),
        ("evaluation.false_alarm_rates", [0.1, 2], "[0.01,0.05] (at most 100), or null, got [0.1, 2]"),
        ("evaluation.false_alarm_rates", [0.1, 0.1], "must be a list of different rates above 0 and below 1"),
        ("finetuning.layer_decay", 1.5, "finetuning.layer_decay must be between 0 and 1, got 1.5"),
        ("finetuning.distillation", float("inf"), "finetuning.distillation must be finite: at least 0, got inf"),
        ("finetuning.ema", 1.0, "finetuning.ema must be above 0 and below 1, or null, got 1.0"),
        ("trainer.accumulate_grad_batches", 0, "trainer.accumulate_grad_batches must be a whole number between 1 and"),
        ("trainer.enable_progress_bar", 3, "trainer.enable_progress_bar must be auto, true or false, got 3"),
        ("ckpt_path", "nowhere.ckpt", "ckpt_path=nowhere.ckpt: no such file"),
        ("head._target_", "os.system", "head._target_=os.system is not allowed"),
        ("head._target_", "torchvisionx.Head", "not allowed"),
        ("head._target_", "metrad.models.heads.Nope", "metrad.models.heads.Nope does not exist"),
        ("head._target_", "metrad.nope.Head", "metrad.nope.Head"),
        ("head._target_", "metrad.runs.directory.shutil.rmtree", "is not allowed"),
        ("head", {"_target_": "torch.nn.functional.torch.load", "f": "x", "weights_only": False}, "head._target_"),
        ("head", {"_target_": "torch.nn.functional.torch.hub.load", "repo_or_dir": "x", "model": "m"}, "head._target_"),
        ("head", {}, "head._target_ must name the class to build"),
        ("optimizer", {}, "optimizer._target_ must name the class to build"),
        ("dataset.source", {"root": "x"}, "dataset.source._target_ must name the class to build"),
    ],
)
def test_a_wrong_setting_is_named(key, value, says, cfg):
    with pytest.raises(InputError) as error:
        checks.check(changed(cfg, key, value))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", None),
        ("seed", 2**32 - 1),
        ("compile", False),
        ("dataset.normal", "7"),
        ("dataset.reference", [0, "1"]),
        ("evaluation.false_alarm_rates", [0.1, 0.2]),
        ("dataset.group", {"pattern": "(?P<a>x)", "gap": 1, "size": 0.0}),
        ("finetuning.layer_decay", 0),
        ("finetuning.ema", 0.99),
        ("trainer.enable_progress_bar", "auto"),
        ("trainer.precision", "auto"),
    ],
)
def test_a_value_at_the_edge_of_what_is_allowed_passes(key, value, cfg):
    checks.check(changed(cfg, key, value))


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (
            {"candidates": []},
            "selection.candidates must be a list of at least one choice, such as [{}], and 1000 or fewer, got []",
        ),
        ({"candidates": [{"seed": 1}]}, "selection.candidates: seed cannot be chosen; give settings of augmentation, "),
        ({"candidates": [{"trainer.precision": "32-true"}]}, "trainer.precision cannot be chosen"),
        ({"candidates": [{}, {"optimizer.lr": 1}, {}]}, "selection.candidates lists {} twice"),
        ({"normal_share": 1.0}, "selection.normal_share must be above 0 and below 1, got 1.0"),
        ({"classes": 0}, "selection.classes must be null, a count of at least 1, or a list of class names or numbers"),
        ({"classes": []}, "selection.classes must be null, a count"),
        ({"classes": True}, "selection.classes must be null, a count"),
    ],
)
def test_a_wrong_selection_is_named(selection, says, cfg):
    with pytest.raises(InputError, match=re.escape(says)):
        checks.check(OmegaConf.merge(cfg, {"selection": selection}))


def test_a_selection_of_classes_by_number_and_of_two_candidates_passes(cfg):
    candidates = [{"optimizer.lr": 0.1, "finetuning.ema": 0.5}, {}]
    checks.check(OmegaConf.merge(cfg, {"selection": {"classes": [0, "1"], "candidates": candidates}}))


@pytest.mark.parametrize("part", PARTS)
def test_an_unknown_key_of_any_part_is_refused(part, cfg):
    if part == "scheduler":
        cfg = changed(cfg, part, {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1})
    if part == "augmentation":
        cfg = changed(cfg, part, {"_target_": "metrad.data.augmentation.Augmentation"})
    with pytest.raises(InputError, match=f"unknown configuration key {part}.no_such_setting"):
        checks.check(changed(cfg, f"{part}.no_such_setting", 1))


def test_nothing_stands_at_the_top_that_the_schema_lacks(cfg):
    with pytest.raises(InputError, match="sed"):
        checks.check(changed(cfg, "sed", 1))


@pytest.mark.parametrize("part", [name for name, part in PARTS.items() if part.may_be_empty])
def test_some_parts_may_be_empty_but_not_without_a_target(part, cfg):
    empty = changed(cfg, part, {})
    checks.check(empty)
    assert not empty[part]
    with pytest.raises(InputError, match=f"{part}._target_ must name the class to build"):
        checks.check(changed(cfg, part, {"something": 1}))


def test_a_configuration_of_before_augmentations_passes(cfg):
    older = cfg.copy()
    OmegaConf.set_struct(older, False)
    del older["augmentation"]
    checks.check(older)
    assert (identity(older), differences(older, cfg)) == (identity(cfg), [])
    flipped = changed(cfg, "augmentation", {"_target_": "metrad.data.augmentation.Augmentation", "flip": 0.5})
    assert identity(flipped) != identity(cfg)
    assert differences(older, flipped) == ["augmentation is none and not metrad.data.augmentation.Augmentation"]


@pytest.mark.parametrize("target", [3, [1], None])
def test_a_target_that_is_no_text_is_refused_and_has_an_identity_before(target, cfg):
    wrong = changed(cfg, "scorer", {"_target_": target})
    assert identity(wrong) != identity(cfg)
    assert renamed_targets(wrong) == []
    with pytest.raises(InputError, match=r"scorer\._target_=.* is not allowed"):
        checks.check(wrong)


def test_an_interpolation_in_a_list_that_leads_nowhere_is_named(cfg):
    with pytest.raises(InputError, match="Interpolation key 'nope' not found"):
        checks.check(changed(cfg, "dataset.normal", ["${nope}"]))


def test_the_check_returns_the_candidates_of_a_selection(cfg):
    assert checks.check(cfg) == []
    selection = {"candidates": [{"optimizer.lr": 0.5}, {}], "scorers": {}}
    found = checks.check(OmegaConf.merge(cfg, {"selection": selection}))
    assert [(one.optimizer.lr, one.selection) for one in found] == [(0.5, None), (cfg.optimizer.lr, None)]


def test_a_target_of_ones_own_is_allowed_by_name_alone(cfg):
    own = changed(cfg, "backbone", {"_target_": "tests.helpers.backbones.dropping", "channels": [4]})
    with pytest.raises(InputError, match=r"dropping is not allowed.* add 'allow_targets=\[tests\]'"):
        checks.check(own)
    allowed = changed(own, "allow_targets", ["tests"])
    checks.check(allowed)
    assert instantiate(allowed, "backbone").out_features == 4
    with pytest.raises(InputError, match="not allowed"):
        checks.check(changed(own, "allow_targets", ["test", ""]))
    other = changed(cfg, "scorer", {"_target_": "fractions.Fraction", "numerator": 3})
    with pytest.raises(InputError, match=r"fractions\.Fraction is not a metrad\.scorers\.Scorer"):
        checks.check(changed(other, "allow_targets", ["fractions"]))


def test_a_secret_in_plain_text_is_refused_before_a_run_keeps_it(cfg):
    line = r"^logger\.api_key would stand in .* '\+logger\.api_key=\$\{oc\.env:API_KEY\}'$"
    with pytest.raises(InputError, match=line) as refused:
        checks.check(changed(cfg, "logger.api_key", "abc"))
    assert "abc" not in str(refused.value)


def test_build_checks_targets_inside_parts_too(cfg):
    inner = {"weights": None, "depth": [{"_target_": "os.getcwd"}]}
    part = {"_target_": "metrad.models.backbones.torchvision_model", "name": "resnet18", "args": inner}
    nested = changed(cfg, "backbone", part)
    with pytest.raises(InputError, match=r"backbone\.args\.depth\[0\]\._target_=os\.getcwd is not allowed"):
        checks.check(nested)
    with pytest.raises(InputError, match=r"backbone\.args\.depth\[0\]\._target_=os\.getcwd is not allowed"):
        instantiate(nested, "backbone")


def test_build_passes_what_is_known_at_run_time(cfg):
    head = instantiate(cfg, "head", in_features=4, num_classes=5)
    assert (head.in_features, head.num_classes) == (4, 5)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sed=1"], ("unknown configuration key sed", "did you mean seed?")),
        (["+sizes.x=1", "dataset.sizes.nomal=1"], ("dataset.sizes.nomal", "did you mean normal?")),
        (["dataset.sizs.normal=1"], ("dataset.sizs.normal", "did you mean sizes?")),
        (["head=arcfac"], ("head=arcfac is no choice", "did you mean arcface?", "adacos")),
        (["logger=tensorbord"], ("logger=tensorbord is no choice", "did you mean tensorboard?")),
        (["seed=abc"], ("seed: ", "'abc'", "Integer")),
        (["dataset.test_share=x"], ("dataset.test_share", "'x'", "Float")),
        (["dataset.sizes.normal=x"], ("dataset.sizes.normal", "'x'", "must be a count of at least 0, a share")),
        (["lr=1"], ("unknown configuration key lr; did you mean optimizer.lr?",)),
        (["allow_targets={os: true}"], ("allow_targets must be a list, such as [A,B], not a mapping",)),
        (["finetuning=[ema]"], ("finetuning holds settings and takes no list", "finetuning.NAME=VALUE")),
        (["finetuning=off"], ("finetuning holds settings and takes no value itself", "finetuning.NAME=VALUE")),
        (["dataset.source=digits"], ("dataset.source holds settings and takes no value itself",)),
        (["experiment=[demo,nosuch]"], ("experiment=nosuch is no choice; allowed: all_pairs",)),
        (["seed='1"], ("seed='1",)),
        (["seed"], ("seed",)),
    ],
)
def test_hydras_errors_become_one_line(overrides, says):
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        composed(*overrides)
    line = explain(error.value, overrides)
    assert "\n" not in line
    assert [word for word in says if word not in line] == [], line


def test_a_line_on_a_value_names_its_key_without_what_surrounds_it():
    for override, line in (
        ("allow_targets=os", "allow_targets must be a list, such as [A,B], not a single value (str)"),
        ("seed=null", "seed cannot be null; it must be between 0 and 4294967295"),
        ("hydra.job.chdir=some", "hydra.job.chdir: Value 'some' is not a valid bool (type str); true and false are"),
    ):
        with pytest.raises(HydraException) as error:
            composed(override)
        assert explain(error.value) == line


def test_hydras_own_settings_are_not_among_those_of_a_run():
    with pytest.raises(HydraException) as error:
        composed("hydr=1")
    assert "hydra" not in explain(error.value).partition("allowed: ")[2]


def test_a_setting_of_a_part_that_is_null_is_explained_with_the_choices_given(tmp_path):
    line = "selection.apply cannot be set: selection is null; choose selection=, one of none, pseudo_anomaly, synthetic"
    assert explain_null(["-m", "seed=1", "selection.apply=true"]) == line
    assert explain_null(["selection=pseudo_anomaly", "+selection.apply=true"]) is None
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection/mine.yaml").write_text("apply: true\n")
    mine = ["selection=mine", "selection.apply=false"]
    assert explain_null(["--config-dir", str(tmp_path), *mine]) is None
    assert explain_null(mine) == line


def test_an_experiment_can_choose_its_launcher(tmp_path):
    def launcher(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            added = f"hydra.searchpath=['file://{tmp_path}']"
            cfg = compose("config", [added, *overrides], return_hydra_config=True)
        return cfg.hydra.runtime.choices["hydra/launcher"]

    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/cluster.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\n"
    )
    assert launcher() == "metrad"
    assert launcher("experiment=cluster") == "slurm"
    assert launcher("experiment=cluster", "hydra/launcher=metrad_parallel") == "metrad_parallel"


def hydra_config(overrides, head="adacos", dataset="digits"):
    choices = {"head": head, "dataset": dataset}
    return SimpleNamespace(
        overrides=SimpleNamespace(task=[f"{key}={value}" for key, value in overrides.items()]),
        runtime=SimpleNamespace(choices=choices),
    )


KEYS = ["head.margin", "optimizer.lr", "dataset.normal", "backbone.weights", "trainer.max_epochs", "scorer.k"]
VALUES = st.text(
    st.one_of(st.sampled_from(string.printable + "/\\:\0.~-=[]{}'\" "), st.characters(exclude_categories=["Cs"])),
    max_size=60,
)
OVERRIDES = st.dictionaries(st.sampled_from(KEYS), VALUES)


@given(OVERRIDES, st.integers(0, 10**9))
@example(dict.fromkeys(KEYS, "不" * 30), 0)
@example({"scorer.k": ".."}, 0)
def test_run_names_are_safe_folder_names(overrides, seed):
    name = run_name(hydra_config(overrides), seed)
    assert not set(name) & set('/\\:*?"<>|\0\n\r\t')
    assert name.isprintable()
    assert not name.startswith((".", "-"))
    assert len(f"2026-01-01_00-00-00-000000-{name}".encode()) <= 255  # what file systems allow


@given(st.dictionaries(st.sampled_from(KEYS), st.tuples(VALUES, VALUES), min_size=1), st.integers(0, 9))
def test_run_names_of_a_sweep_differ_where_their_overrides_do(pairs, seed):
    first = {key: one for key, (one, _) in pairs.items()}
    second = {key: other for key, (_, other) in pairs.items()}
    names = {run_name(hydra_config(overrides), seed) for overrides in (first, second)}
    assert len(names) == (1 if first == second else 2)


def test_long_run_names_that_differ_only_at_their_end_differ():
    same = dict.fromkeys(KEYS[:-1], "a" * 40)
    names = {run_name(hydra_config(same | {KEYS[-1]: value}), 0) for value in "12"}
    assert [len(name) > 190 for name in names] == [True, True]


def test_a_choice_in_a_folder_of_a_group_makes_one_folder():
    assert "/" not in run_name(hydra_config({}, "ours/special"), 0)


def test_run_names_tell_the_choices():
    overrides = {
        "head": "arcface",
        "seed": "3",
        "head.margin": "0.3",
        "paths.data": "/x",
        "backbone.weights": "a/b.pth",
    }
    name = run_name(hydra_config(overrides, "arcface", "fmnist"), 3)
    assert name.startswith("arcface-fmnist-3-margin=0.3-weights=b~")
    assert "x" not in name


def test_suggestions_name_the_closest_first():
    assert suggestion("margn", ["scale", "margin"]) == "did you mean margin? allowed: margin, scale"
    assert suggestion("zzz", []) == "allowed: no settings here"
    assert "_target_" not in suggestion("target", ["_target_", "k"])


def test_a_decay_over_a_backbone_of_one_block_names_its_own_key(cfg):
    embedder = Embedder(Backbone(nn.Conv2d(3, 4, 3), 4, InputSpec()))
    with pytest.raises(InputError, match=r"^finetuning\.layer_decay=0 takes"):
        build_learner(changed(cfg, "finetuning.layer_decay", 0), embedder, 3)


def test_a_transformer_of_another_size_is_refused_by_name():
    name = ["backbone=torchvision", "backbone.name=vit_b_32", "backbone.weights=null", "+backbone.args.image_size=64"]
    with pytest.raises(InputError, match=r"^image_size=96 does not suit the backbone \(.*Expected 64 but got 96"):
        build_embedder(composed(*name))
    assert build_embedder(composed(*name, "image_size=64")).out_features == 768
