"""Choosing without anomalies: what is held out, which recipe is best, and what may be chosen."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.stats import ttest_rel

from metrad.app import select
from metrad.app.build import build
from metrad.app.select import AS_CONFIGURED, best, describe, tried
from metrad.data.splits import ROLES, Classes, Pool, Split, draw, hold_out, to_test_on
from metrad.errors import InputError
from metrad.runs.config import checks
from tests.helpers.commands import composed
from tests.helpers.splits import ALL, chosen_classes, classes_of, pools, seeds

quick = settings(deadline=None, database=None, max_examples=60, derandomize=True)
shares = st.floats(0, 1, exclude_min=True, exclude_max=True)


@pytest.fixture(scope="module")
def cfg():
    checks.register()
    yield composed("experiment=demo", "selection=pseudo_anomaly")
    GlobalHydra.instance().clear()


@st.composite
def held_out_splits(draw_value):
    """A split, what it was drawn from, and a reference class to hold out."""
    pool, classes = draw_value(pools()), draw_value(chosen_classes())
    sizes = ALL | {"calibration": 1, "test_normal": 1}
    split = draw(pool, classes, sizes, test_share=0.2, seed=draw_value(seeds))
    there = sorted(set(pool.labels[split.indices["reference"]].tolist()))
    return pool, classes, split, draw_value(st.sampled_from(there))


@quick
@given(held_out_splits(), shares, seeds)
def test_one_class_is_held_out_and_no_other_image_comes_in(drawn, share, seed):
    pool, classes, split, held_out = drawn
    found, roles = hold_out(split, pool, classes, held_out, share=share, seed=seed)
    assert roles == Classes(tuple(c for c in classes.reference if c != held_out), classes.normal, (held_out,))
    assert tuple(found.indices) == ROLES
    everyone = np.concatenate(list(found.indices.values()))
    trained_on = np.concatenate([split.indices["reference"], split.indices["normal"]])
    assert sorted(everyone.tolist()) == sorted(trained_on.tolist())
    reference = split.indices["reference"]
    assert found.indices["test_anomalous"].tolist() == reference[pool.labels[reference] == held_out].tolist()
    assert found.indices["reference"].tolist() == reference[pool.labels[reference] != held_out].tolist()
    assert len(found.indices["calibration"]) == found.copies_left_out == 0
    assert all((np.diff(indices) > 0).all() and indices.dtype == np.int64 for indices in found.indices.values())


@quick
@given(held_out_splits(), shares, seeds)
def test_each_normal_class_gives_its_share(drawn, share, seed):
    pool, classes, split, held_out = drawn
    found, _ = hold_out(split, pool, classes, held_out, share=share, seed=seed)
    count, total = len(found.indices["test_normal"]), len(split.indices["normal"])
    assert count == to_test_on(total, share) == max(1, min(round(share * total), total - 1))
    of_each, asked = classes_of(found, pool, "test_normal"), classes_of(split, pool, "normal")
    for number in classes.normal:
        assert abs(of_each[number] - count * asked[number] / total) < 1


def plain(normal=10, reference=6):
    labels = np.array([0] * normal + [1] * reference + [2] * reference)
    pool = Pool(labels, np.arange(len(labels)), np.ones(len(labels), bool), None)
    roles = {"normal": range(normal), "reference": range(normal, normal + 2 * reference)}
    indices = {role: np.array(roles.get(role, ()), dtype=np.int64) for role in ROLES}
    return Split(indices, 0), pool, Classes((1, 2), (0,), (3,))


def test_the_seed_draws_the_normal_images_alike_for_each_class():
    def normal(seed, held_out):
        return hold_out(*plain(40), held_out, share=0.3, seed=seed)[0].indices["test_normal"].tolist()

    assert normal(0, 1) == normal(0, 2)
    assert normal(0, 1) != normal(1, 1)


def test_what_cannot_be_held_out_is_refused():
    with pytest.raises(InputError, match="class 3 has no reference images"):
        hold_out(*plain(), 3, share=0.2, seed=0)
    with pytest.raises(InputError, match="at least 2 normal images"):
        hold_out(*plain(normal=1), 1, share=0.2, seed=0)


def row(epoch, auroc, candidate=0, held_out="a", scorer="scorer"):
    return {"candidate": candidate, "held_out": held_out, "epoch": epoch, "scorer": scorer, "auroc": auroc}


def test_of_equal_ones_that_of_fewer_epochs_and_then_the_earlier_candidate_wins():
    tied = [row(e, 0.9, candidate=c, scorer=s) for c in (1, 0) for e in (2, 1) for s in ("scorer", "knn")]
    choice = best(tied, last_only=[False, False])
    assert (choice.epochs, choice.candidate, choice.scorer, choice.auroc) == (1, 0, "scorer", 0.9)
    assert (choice.folds, choice.recipes) == (1, 8)


def test_if_sure_what_is_configured_stays_unless_another_recipe_is_better_in_all_stand_ins_alike():
    own = [row(0, value, held_out=name) for name, value in zip("abc", (0.70, 0.80, 0.75), strict=True)]
    clear = [row(0, value, 1, name) for name, value in zip("abc", (0.74, 0.85, 0.80), strict=True)]
    lucky = [row(0, value, 1, name) for name, value in zip("abc", (0.99, 0.81, 0.74), strict=True)]
    assert best([*own, *clear], last_only=[False, False], sure=True).candidate == 1
    assert best([*own, *lucky], last_only=[False, False], sure=True).candidate == 0
    assert best([*own, *lucky], last_only=[False, False]).candidate == 1
    ours, other = tried([{**one, "settings": str(one["candidate"])} for one in [*own, *clear]])
    assert ours["p"] == 1
    expected = ttest_rel((0.74, 0.85, 0.80), (0.70, 0.80, 0.75), alternative="greater").pvalue
    assert other["p"] == pytest.approx(expected)
    assert other["auroc"] == pytest.approx(np.mean([0.74, 0.85, 0.80]))


def test_the_mean_over_the_classes_counts():
    rows = [row(0, 0.8), row(0, 0.8, held_out="b"), row(1, 1.0), row(1, 0.5, held_out="b")]
    choice = best(rows, last_only=[False])
    assert (choice.epochs, choice.auroc, choice.folds, choice.recipes) == (0, 0.8, 2, 2)


@pytest.mark.parametrize("lacking", [[row(1, None, held_out="b")], []], ids=["no AUROC", "no row"])
def test_a_recipe_that_lacks_a_class_is_none(lacking):
    rows = [row(0, 0.6), row(0, 0.6, held_out="b"), row(1, 1.0), *lacking]
    choice = best(rows, last_only=[False])
    assert (choice.epochs, choice.auroc, choice.folds, choice.recipes) == (0, 0.6, 2, 1)


def test_nothing_to_choose_from_is_told():
    with pytest.raises(InputError, match="no scorer could serve the embeddings"):
        best([row(0, None), row(1, None)], last_only=[False])


def test_with_a_scheduler_the_last_epoch_alone_may_be_chosen_or_none():
    rows = [row(epoch, auroc, candidate=c) for c in (0, 1) for epoch, auroc in enumerate((0.7, 0.95 - c / 10, 0.9))]
    assert best(rows, last_only=[True, False]).epochs == 2
    assert best(rows, last_only=[False, True]).epochs == 1
    assert best([row(0, 0.9), row(1, 0.8), row(2, 0.7)], last_only=[True]).epochs == 0


def test_the_last_epoch_is_that_of_the_candidate():
    rows = [row(0, 0.5), row(1, 0.9), row(0, 0.5, candidate=1), row(1, 0.95, candidate=1), row(2, 0.8, candidate=1)]
    choice = best(rows, last_only=[True, True])
    assert (choice.candidate, choice.epochs, choice.recipes) == (0, 1, 4)


aurocs = st.one_of(st.none(), st.sampled_from([0.25, 0.5, 0.75, 1.0]))


@st.composite
def tables(draw_value):
    counts = [draw_value(st.integers(1, most)) for most in (3, 3, 4, 2)]
    keys = itertools.product(*map(range, counts))
    rows = [row(e, draw_value(aurocs), candidate=c, held_out=f"class {h}", scorer=f"by {s}") for c, h, e, s in keys]
    return rows, [draw_value(st.booleans()) for _ in range(counts[0])]


@quick
@given(tables())
def test_the_choice_is_that_of_a_plain_table(drawn):
    rows, last_only = drawn
    table = pd.DataFrame(rows).astype({"auroc": float})
    last = table["epoch"].max()
    late = table["epoch"].isin([0, last]) | ~table["candidate"].map(dict(enumerate(last_only)))
    means = table[late].groupby(["epoch", "candidate", "scorer"])["auroc"].agg(lambda x: x.mean(skipna=False))
    means = means.dropna()
    if means.empty:
        with pytest.raises(InputError):
            best(rows, last_only=last_only)
        return
    choice = best(rows, last_only=last_only)
    expected = means[means == means.max()].sort_index().index[0]
    assert (choice.epochs, choice.candidate, choice.scorer) == expected
    assert math.isclose(choice.auroc, means.max())
    assert (choice.folds, choice.recipes) == (table["held_out"].nunique(), len(means))


def test_settings_are_told_in_words():
    assert describe({}) == AS_CONFIGURED
    assert describe({"optimizer.lr": 0.1, "head.margin": 0.5}) == "optimizer.lr=0.1, head.margin=0.5"


def test_what_training_did_not_reach_has_no_auroc():
    history = [{"epoch": 0, "auroc": 0.5, "auroc knn": 0.6}, {"epoch": 1, "auroc": 0.7, "auroc knn": 0.8}]

    class Plain:
        needs_head = False

    found = list(select._long(history, {"scorer": Plain, "knn": Plain}, 2))
    assert [(one["epoch"], one["scorer"], one["auroc"]) for one in found] == [
        *((0, "scorer", 0.5), (0, "knn", 0.6), (1, "scorer", 0.7), (1, "knn", 0.8)),
        *((2, "scorer", None), (2, "knn", None)),
    ]


def test_a_head_that_is_not_trained_is_no_scorer():
    class Head:
        needs_head = True

    found = select._long([{"epoch": 0, "auroc": 0.9}, {"epoch": 1, "auroc": 0.8}], {"scorer": Head}, 1)
    assert [one["epoch"] for one in found] == [1]


def compared(cfg):
    (makers,) = build(cfg).selection.make_scorers
    return makers


def test_scorers_are_compared_once_each_and_the_runs_own_first(cfg):
    assert list(compared(cfg)) == ["scorer", "knn_5", "local_knn"]
    other = cfg.copy()
    other.scorer.k = 2
    assert list(compared(other)) == ["scorer", "knn", "knn_5", "local_knn"]
    assert compared(other)["knn_5"]().k == 5
    assert other.scorer.k == 2


def test_a_study_asks_no_head_that_is_not_trained(cfg):
    assert build(cfg).make_studied == {}
    other = cfg.copy()
    OmegaConf.update(other, "selection.scorers.head", {"_target_": "metrad.scorers.HeadScorer"}, force_add=True)
    other.study.epochs = True
    assert list(build(other).make_studied) == ["scorer", "knn_5", "local_knn", "head"]
    other.trainer.max_epochs = 0
    assert list(build(other).make_studied) == ["scorer", "knn_5", "local_knn"]
    other.selection = None
    assert list(build(other).make_studied) == ["scorer"]


def test_settings_go_into_a_copy(cfg):
    changed = checks.with_settings(cfg, {"optimizer.lr": 0.5, "batch_size": 8})
    assert (changed.optimizer.lr, changed.batch_size, changed.selection) == (0.5, 8, None)
    assert (cfg.optimizer.lr, cfg.batch_size) == (0.001, 64)
    assert cfg.selection is not None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scorer.k", 3, "scorer.k cannot be chosen"),
        ("dataset.test_share", 0.5, "dataset.test_share cannot be chosen"),
        ("seed", 1, "seed cannot be chosen"),
        ("optimizer", {"lr": 0.1}, "optimizer cannot be chosen"),
        ("trainer.devices", 2, "trainer.devices cannot be chosen"),
        ("trainer.precision", "64-true", "trainer.precision cannot be chosen"),
        ("selection.apply", False, "selection.apply cannot be chosen"),
        ("nothing.at.all", 1, "nothing.at.all cannot be chosen"),
        ("optimizer.rl", 0.1, "optimizer.rl"),
        ("batch_size", "many", "batch_size"),
    ],
)
def test_what_cannot_be_chosen_is_told_by_its_key(cfg, key, value, words):
    with pytest.raises(InputError, match=r"^selection\.candidates: .*") as told:
        checks.with_settings(cfg, {key: value})
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("classes", [0, -1, [], True, 1.5, ["a", 1.5], {"a": 1}])
def test_classes_are_a_count_or_names(cfg, classes):
    changed = cfg.copy()
    OmegaConf.update(changed, "selection.classes", classes, merge=False)
    with pytest.raises(InputError, match=r"^selection.classes must be null, a count"):
        checks.check(changed)
