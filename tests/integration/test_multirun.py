"""Sweeps: folders that name their choices, splits that depend on the seed alone, and failures that stop nothing."""

import re

import pytest

from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.runs import rows


@pytest.fixture
def sweep(metrad, digits, tmp_path):
    """Run a sweep and return how it ended and its runs by folder name."""

    def call(*overrides):
        result = metrad("train", "-m", *digits, *overrides)
        return result, {path.name: Run(path) for path in sorted(tmp_path.glob("multirun/*/*")) if path.is_dir()}

    return call


def test_a_sweep_names_its_folders_and_shares_splits_across_heads(sweep):
    result, runs = sweep("head=adacos,arcface", "seed=range(2)")
    choices = {re.match(r"(\w+)-digits-(\d)-", name).groups(): run for name, run in runs.items()}
    assert result.code == 0
    assert result.err == ""
    assert set(choices) == {("adacos", "0"), ("adacos", "1"), ("arcface", "0"), ("arcface", "1")}
    splits = {choice: read_json(run.split)["hash"] for choice, run in choices.items()}
    assert splits["adacos", "0"] == splits["arcface", "0"]
    assert splits["adacos", "1"] == splits["arcface", "1"]
    assert splits["adacos", "0"] != splits["adacos", "1"]
    figures = {choice: read_json(run.metrics)["auroc"] for choice, run in choices.items()}
    assert len(set(figures.values())) == 4
    for choice, run in choices.items():
        assert Run.finished(run.path).path == run.path
        line = next(line for line in result.out.splitlines() if run.path.name in line)
        assert f"AUROC {figures[choice]:.4f}" in line


def test_a_run_of_a_sweep_equals_the_same_run_alone(sweep, finished_run, comparable):
    _, runs = sweep("head=adacos")
    (run,) = runs.values()
    assert comparable(run) == comparable(finished_run)
    assert run.scores.read_bytes() == finished_run.scores.read_bytes()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        pytest.param(["dataset.normal=[seven],[7]"], "no class 'seven'", marks=pytest.mark.long),
        (["scorer.k=500,1"], "scorer.k=500 is larger than the index"),
        (["optimizer.lr=1e30,1e-3"], "became NaN or infinite at step 1"),
        pytest.param(["optimizer.lr=-1,1e-3"], "-1", marks=pytest.mark.long),
    ],
    ids=["refused at once", "refused by the data", "diverged", "refused by the optimiser"],
)
def test_a_failing_run_does_not_stop_the_others(overrides, says, sweep):
    result, runs = sweep(*overrides)
    status = {name: read_json(run.status) for name, run in runs.items()}
    failed = [name for name in status if status[name]["state"] == "failed"]
    assert sorted(one["state"] for one in status.values()) == ["failed", "finished"]
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert failed[0] in result.err
    assert says in result.err
    assert says in status[failed[0]]["error"]
    assert not runs[failed[0]].metrics.exists()


def test_a_sweep_chosen_by_hydra_mode_ends_like_one_chosen_by_a_flag(metrad, digits, tmp_path):
    result = metrad("train", *digits, "hydra.mode=MULTIRUN", "scorer.k=500,1")
    states = {read_json(path)["state"] for path in tmp_path.glob("multirun/*/*/status.json")}
    assert states == {"failed", "finished"}
    assert result.code == 1


@pytest.mark.parametrize("overrides", [["head=adacos,nope"], ["sed=0,1"]])
def test_a_sweep_that_cannot_start_leaves_nothing(overrides, refused, digits, tmp_path):
    refused("train", "-m", *digits, *overrides, words=(overrides[0].partition("=")[0],))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_sweep_ends_in_a_table_that_keeps_failures(sweep, tmp_path):
    result, runs = sweep("scorer.k=500,1", "seed=0,1")
    (table,) = tmp_path.glob("multirun/*/runs.csv")
    written = rows(table)
    assert {row["run"]: row["state"] for row in written} == {
        name: read_json(run.status)["state"] for name, run in runs.items()
    }
    assert {row["scorer.k"] for row in written if row["error"]} == {"500"}
    for row in written:
        if row["state"] == "finished":
            assert float(row["auroc"]) == read_json(runs[row["run"]].metrics)["auroc"]
    mean = sum(float(row["auroc"]) for row in written if row["auroc"]) / 2
    told = [line.split() for line in result.out.splitlines()]
    assert ["1", f"{mean:.4f}"] in [line[:2] for line in told]
    assert ["500", "-", "-", "0", "2"] in told


def test_an_error_nobody_thought_of_ends_one_run_and_not_the_sweep(sweep, monkeypatch, tmp_path):
    def fit(self, normal, classes):
        raise RuntimeError("not thought of")

    monkeypatch.setattr("metrad.scorers.Centre._fit", fit)
    result, runs = sweep("scorer=centre,knn")
    states = {name: read_json(run.status)["state"] for name, run in runs.items()}
    assert sorted(states.values()) == ["failed", "finished"]
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "not thought of" in result.err
    (table,) = tmp_path.glob("multirun/*/runs.csv")
    assert [row["error"] for row in rows(table) if row["state"] == "failed"] == ["not thought of"]
    failed = next(run for name, run in runs.items() if states[name] == "failed")
    assert "Traceback" in failed.log.read_text()


@pytest.mark.parametrize("grids", ["[]", "[banana]"])
def test_grids_that_are_none_are_refused(grids, refused, digits):
    refused("train", "experiment=[demo,tuning]", f"hydra.sweeper.grids={grids}", words=("hydra.sweeper.grids",))


def test_an_experiment_can_be_a_sweep_over_grids_with_different_settings(metrad, digits, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/grids.yaml").write_text(
        """# @package _global_
defaults:
  - override /hydra/sweeper: grids
hydra:
  mode: MULTIRUN
  sweeper:
    grids:
      - {head: arcface, head.margin: "0.1,0.2"}
      - {head: adacos}
"""
    )
    result = metrad("train", "--config-dir", "conf", "experiment=[demo,grids]", *digits[1:], "hydra.sweep.dir=sweep")
    assert (result.code, result.err) == (0, "")
    assert [(row["head"], row["head.margin"], row["state"]) for row in rows(tmp_path / "sweep/runs.csv")] == [
        ("adacos", "", "finished"),
        ("arcface", "0.1", "finished"),
        ("arcface", "0.2", "finished"),
    ]
