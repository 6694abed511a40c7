"""Conditions that share images are one block: what they are, how they are averaged, and that chance shows nothing."""

import numpy as np
import pandas as pd
import pytest

from metrad.reports.comparison import statistics
from metrad.reports.comparison import tables as comparison_tables
from metrad.reports.comparison.blocks import block_means, blocks
from metrad.reports.comparison.compare import compare, compare_csv
from metrad.reports.comparison.input import RunTable
from metrad.reports.comparison.notes import ONE_POOL
from metrad.reports.report import write_report
from tests.helpers.runs import Sweep

THREE = ("adacos", "arcface", "softmax")
ALONE = "share images or draw them from one pool, so they are one block"


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "sweep")


def fill(sweep, key, values, heads=THREE, seeds=2, *, split=None):
    """Add runs of ``heads``, each a little better than the one before, with each of ``values`` of a setting."""
    for number, value in enumerate(values):
        for i, head in enumerate(heads):
            for seed in range(seeds):
                metrics = {} if split is None else {"split": split(value, seed)}
                overrides = [f"head={head}", f"{key}={value}", f"seed={seed}"]
                sweep.add(overrides, 0.8 + 0.02 * i + 0.001 * (seed + number), metrics=metrics)
    return compare(sweep.path)


@pytest.mark.parametrize("heads", [THREE, THREE[:2]])
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("scorer.k", (1, 2, 3, 4, 5)),
        ("scorer", ("knn", "lof")),
        ("optimizer.lr", (0.1, 0.2)),
        ("dataset.source.size", (32, 64)),
    ],
)
def test_settings_swept_on_one_dataset_are_one_block_without_a_verdict(sweep, key, values, heads):
    result = fill(sweep, key, values, heads)
    assert result.conditions == ["dataset", key]
    assert (result.averaged, result.ranked) == (len(values), 1)
    assert (result.overall, result.friedman_p, result.wilcoxon_p, result.nemenyi) == (None, None, None, None)
    assert any(note.startswith(f"All {len(values)} conditions {ALONE}") for note in result.notes)
    assert not any("Friedman" in note or "mean rank" in note for note in result.notes)


@pytest.mark.parametrize(("key", "values"), [("dataset.normal", ("[1]", "[2]")), ("dataset.sizes.normal", (50, 100))])
def test_classes_and_sizes_of_one_dataset_are_one_block_though_their_splits_differ(sweep, key, values):
    result = fill(sweep, key, values, split=lambda value, seed: f"{value}{seed}")
    assert (result.averaged, result.ranked, result.overall) == (2, 1, None)


def test_other_folders_of_images_are_blocks_of_their_own(sweep):
    roots = ("parts/bolts", "parts/nuts")
    result = fill(sweep, "dataset.source.root", roots, split=lambda value, seed: f"{value}{seed}")
    assert (result.averaged, result.ranked) == (2, 2)
    assert "Over 2 conditions the mean ranks are softmax 1.00, arcface 2.00, adacos 3.00, 1 being the best." in (
        result.notes
    )


def test_one_folder_written_in_two_ways_is_one_block(sweep):
    roots = ("parts/bolts", "./parts//bolts/")
    assert fill(sweep, "dataset.source.root", roots, split=lambda value, seed: f"{value}{seed}").ranked == 1


def test_datasets_of_one_split_are_one_block(sweep):
    result = fill(sweep, "dataset", ("digits", "digits_again"), split=lambda _, seed: f"s{seed}")
    assert (result.averaged, result.ranked, result.overall) == (2, 1, None)


def test_conditions_of_several_datasets_are_averaged_within_each(tmp_path):
    found = {"a": [0.9, 0.5, 0.5], "b": [0.6, 0.6, 0.7], "c": [0.4, 0.4, 0.4]}
    lines = [f"{head},{d},{k},0,{x[k]}" for d in "de" for head, x in found.items() for k in range(3)]
    result = compare_csv(written(tmp_path, "head,dataset,k,seed,auroc", lines))
    assert (result.averaged, result.ranked) == (6, 2)  # the means of a and b are both 1.9 / 3
    assert result.overall["mean_rank"].tolist() == [1.5, 1.5, 3]
    assert "Conditions that share images are one block and are averaged: 6 conditions make 2 blocks." in result.notes
    assert any(note.startswith("Over 2 blocks the mean ranks are ") for note in result.notes)
    assert "With 2 blocks and 3 values p cannot be below 0.17, whatever the runs." in result.notes


def written(tmp_path, header, lines):
    file = tmp_path / "figures.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def test_a_csv_that_does_not_say_what_shares_images_gets_no_verdict(tmp_path):
    lines = [f"{head},{k},{s},0.{5 + i}{s}" for i, head in enumerate("abc") for k in range(6) for s in range(2)]
    result = compare_csv(written(tmp_path, "head,k,seed,auroc", lines))
    assert (result.averaged, result.ranked, result.overall) == (6, 1, None)
    assert any(note.startswith("The file has no column dataset") for note in result.notes)


def test_rows_of_a_csv_with_one_split_share_images(tmp_path):
    lines = [f"{head},{d},{s},0.{5 + i}{s},x{s}" for i, head in enumerate("abc") for d in "de" for s in range(2)]
    assert compare_csv(written(tmp_path, "head,dataset,seed,auroc,split", lines)).ranked == 1
    lines = [line + line.split(",")[1] for line in lines]
    assert compare_csv(written(tmp_path, "head,dataset,seed,auroc,split", lines)).ranked == 2


def test_conditions_joined_through_a_third_are_one_block():
    places = [("a",), ("b",), ("c",), ("d",), ("a",)]
    origins = [{"x"}, {"y"}, {"x", "y"}, {"z"}, {"w"}]
    assert blocks(places, origins) == {("a",): 0, ("b",): 0, ("c",): 0, ("d",): 1}
    assert blocks([(), ()], [{"x"}, {"y"}]) == {(): 0}


def test_a_block_is_the_mean_of_the_conditions_that_have_all_values():
    cells = {
        (0,): {"a": {0: 0.1, 1: 0.3}, "b": {0: 0.5}},
        (1,): {"a": {0: 0.3}, "b": {0: 0.7}},
        (2,): {"a": {0: 0.9}},
        (3,): {"a": {0: 0.2}, "b": {0: 0.4}},
    }
    block_of = {(0,): 0, (1,): 0, (2,): 0, (3,): 1}
    means, averaged = block_means(cells, block_of, ["a", "b"], paired=True)
    np.testing.assert_allclose(means, [[0.2, 0.6], [0.2, 0.4]])
    assert averaged == 3
    means, _ = block_means(cells, block_of, ["a", "b"], paired=False)
    np.testing.assert_allclose(means[0], [0.25, 0.6])


def test_that_seeds_draw_from_one_pool_is_told_in_every_file(sweep):
    result = compare(sweep.fill(["adacos", "arcface"], ["digits", "mnist"], seeds=2).path)
    comparison_tables.write(result, sweep.path / "out")
    write_report(result, sweep.path / "out/report.html")
    assert ONE_POOL in result.notes
    for name in ("comparison.md", "comparison.tex", "report.html"):
        assert ONE_POOL in (sweep.path / "out" / name).read_text(), name
    tex = (sweep.path / "out/comparison.tex").read_text()
    assert any(ONE_POOL in line for line in tex.splitlines() if not line.startswith("%"))


def test_single_runs_are_no_seeds_that_draw_from_one_pool(sweep):
    assert ONE_POOL not in compare(sweep.fill(["adacos", "arcface"], seeds=1).path).notes


# The null study: heads that are all alike, with their labels shuffled


def shuffled(generator, heads, datasets, settings, seeds):
    """Return runs whose heads differ by chance: a run is scored with several settings, which hardly change it."""
    rows = []
    for d in range(datasets):
        for seed in range(seeds):
            trained = generator.permutation(generator.normal(0.8, 0.05, heads))  # the labels are shuffled among runs
            for k in range(settings):
                scored = trained + 0.01 * k + generator.normal(0, 0.002, heads)
                rows += [(f"d{d}", str(k), seed, f"h{i}", value) for i, value in enumerate(scored)]
    runs = pd.DataFrame(rows, columns=["dataset", "k", "seed", "head", "auroc"])
    origins = [frozenset([f"source {name}"]) for name in runs["dataset"]]
    runs = runs.assign(folder="", run="", state="finished", error="", seconds=1.0)
    return RunTable(runs, "head", ["dataset", "k"], origins)


def shown(monkeypatch, shuffles, **size):
    """Return the shares of shuffles in which a test over conditions, and one over seeds, shows a difference."""
    monkeypatch.setattr(statistics.statistic, "paired_bootstrap", lambda _: (np.nan, np.nan))  # it gives no verdict
    monkeypatch.setattr(statistics.statistic, "detectable_difference", lambda *_, **__: np.nan)
    generator, verdicts = np.random.default_rng(sum(size.values())), []
    for _ in range(shuffles):
        table = shuffled(generator, **size)
        result = statistics.tabulate(table, baseline="h0", metric="auroc", unpaired=False)
        verdicts.append((result.ranks_differ, bool((result.pairs["p_holm"] <= 0.05).any())))
    return np.mean(verdicts, axis=0)


def at_most(shuffles):
    """Return 5 %, and three standard errors of a share of ``shuffles``."""
    return 0.05 + 3 * np.sqrt(0.05 * 0.95 / shuffles)


@pytest.mark.parametrize(
    ("heads", "datasets"), [(3, 1), *(pytest.param(*each, marks=pytest.mark.long) for each in ((3, 4), (2, 7)))]
)
def test_shuffled_heads_differ_no_more_often_than_a_test_over_conditions_allows(heads, datasets, monkeypatch):
    share, _ = shown(monkeypatch, 40, heads=heads, datasets=datasets, settings=3, seeds=1)
    assert share <= at_most(40)
    assert datasets > 1 or share == 0


def test_shuffled_heads_differ_no_more_often_than_tests_over_seeds_allow(monkeypatch):
    _, share = shown(monkeypatch, 40, heads=3, datasets=1, settings=3, seeds=8)
    assert share <= at_most(40)


@pytest.mark.long
@pytest.mark.parametrize(("heads", "datasets"), [(3, 5), (5, 2), (2, 8), (9, 4)])
def test_shuffled_heads_differ_no_more_often_than_allowed_in_many_shuffles(heads, datasets, monkeypatch):
    shares = shown(monkeypatch, 200, heads=heads, datasets=datasets, settings=3, seeds=6)
    assert (shares <= at_most(200)).all()
