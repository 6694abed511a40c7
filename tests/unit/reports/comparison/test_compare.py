"""Comparisons of small made-up sweeps and CSVs: what is paired, what is refused, what is written."""

import json
import math
import os
import re
import shlex
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image
from typer.testing import CliRunner

from metrad.app.cli import app
from metrad.errors import InputError
from metrad.evaluation.metrics import by_name
from metrad.files import write_json
from metrad.reports.comparison import paired
from metrad.reports.comparison import tables as comparison_tables
from metrad.reports.comparison.compare import compare, compare_csv
from metrad.reports.comparison.from_csv import TAKEN
from metrad.reports.comparison.kinds import detection
from metrad.reports.comparison.notes import HELD, ONE_POOL
from metrad.reports.comparison.plots import pictures
from metrad.runs.config.schema import LATER
from metrad.runs.directory import Run
from tests.helpers.runs import HEADS, Sweep

HEADER = "head,dataset,seed,auroc\n"
METRICS = json.dumps(dict.fromkeys(by_name(), 0.5) | {"seconds": {"total": 3.0}})


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "sweep")


def csv(tmp_path, rows, header=HEADER):
    file = tmp_path / "figures.csv"
    file.write_text(header + "".join(f"{row}\n" for row in rows))
    return file


def test_runs_of_one_seed_and_dataset_are_paired(sweep):
    result = compare(sweep.fill(["adacos", "arcface", "softmax"], ["digits", "mnist"]).path)
    assert (result.by, result.metric, result.conditions, result.paired) == ("head", "auroc", ["dataset"], True)
    assert len(result.runs) == 36
    assert (result.holes, result.ranked, len(result.summary), len(result.pairs)) == ([], 2, 6, 6)
    runs = result.runs.set_index(["dataset", "head", "seed"])["auroc"].sort_index()
    row = result.pairs.set_index(["dataset", "head", "against"]).sort_index().loc[("mnist", "adacos", "softmax")]
    differences = (runs["mnist", "adacos"] - runs["mnist", "softmax"]).to_numpy()
    assert row["difference"] == pytest.approx(differences.mean())
    assert (row["pairs"], row["wins"], row["ties"], row["losses"]) == (6, 0, 0, 6)
    assert (row["p"], row["p_holm"], row["effect"]) == (0.03125, 6 * 0.03125, -1)
    assert (row["low"], row["high"]) == paired.paired_bootstrap(differences)
    np.testing.assert_array_equal(result.overall["mean_rank"], [3, 2, 1])


def test_conditions_are_named_as_they_were_written(sweep):
    for head in HEADS:
        for name in ("靴", "é"):
            sweep.add([f"head={head}", f"dataset.normal=[{name}]", "seed=0"], 0.9)
    assert set(compare(sweep.path).runs["dataset.normal"]) == {'["靴"]', '["é"]'}


def test_the_columns_are_those_promised(sweep):
    result = compare(sweep.fill(["adacos", "arcface"]).path, baseline="adacos")
    assert list(result.runs) == ["folder", "run", "state", "error", "seed", "dataset", "head", *by_name(), "seconds"]
    own = ["runs", "unfinished", "mean", "median", "std", "low", "high"]
    assert list(result.summary) == ["dataset", "head", *own]
    own = ["pairs", "difference", "low", "high", "p", "p_holm", "effect", "wins", "ties", "losses", "detectable"]
    assert list(result.pairs) == ["dataset", "head", "against", *own]
    assert list(result.pairs["head"]) == ["arcface"]
    assert result.overall is None
    assert all(Run(folder).status.is_file() for folder in result.runs["folder"])


def test_the_interval_of_a_mean_stays_within_0_and_1(sweep):
    for head in HEADS:
        for seed, auroc in enumerate((0.8, 1.0)):
            sweep.add([f"head={head}", f"seed={seed}"], auroc)
    summary = compare(sweep.path).summary
    assert summary[["low", "high"]].to_numpy().tolist() == [[0, 1], [0, 1]]


def test_the_summary_is_over_the_finished_seeds(sweep):
    result = compare(sweep.fill(["adacos", "arcface"], seeds=3).path)
    runs = result.runs[result.runs["head"] == "arcface"]["auroc"]
    row = result.summary[result.summary["head"] == "arcface"].iloc[0]
    assert (row["mean"], row["median"], row["std"]) == (runs.mean(), runs.median(), runs.std())
    assert (row["runs"], row["unfinished"]) == (3, 0)


def test_holes_are_listed_and_left_out_of_pairs(sweep):
    sweep.fill(["adacos", "arcface"], seeds=3)
    sweep.add(["head=adacos", "dataset=digits", "seed=3"], state="failed", error="diverged")
    sweep.add(["head=arcface", "dataset=digits", "seed=3"], 0.8)
    sweep.add(["head=adacos", "dataset=digits", "seed=4"], state="running")
    result = compare(sweep.path)
    assert result.holes == [
        "failed: dataset=digits, head=adacos, seed=3 (diverged)",
        "interrupted: dataset=digits, head=adacos, seed=4",
        "no run: dataset=digits, head=arcface, seed=4",
    ]
    assert result.pairs["pairs"].tolist() == [3]
    assert result.summary.set_index("head")["unfinished"].to_dict() == {"adacos": 2, "arcface": 0}
    assert any("2 of 9 runs did not finish" in note for note in result.notes)


def test_runs_older_than_augmentations_count_as_without(sweep):
    flip = {"augmentation._target_": "metrad.data.augmentation.Augmentation", "augmentation.flip": 0.5}
    for seed in range(6):
        sweep.add(["head=adacos", f"seed={seed}"], 0.8 + seed / 100)
        run = sweep.add(["head=arcface", f"seed={seed}"], 0.7 + seed / 100)
        for path, key, value in (
            (run.config, "augmentation", {}),
            (run.config.with_name("hydra.yaml"), "hydra.runtime.choices.augmentation", "none"),
        ):
            content = OmegaConf.load(path)
            OmegaConf.update(content, key, value)
            OmegaConf.save(content, path)
    assert set(compare(sweep.path).runs["head"]) == {"adacos", "arcface"}
    for seed in range(6):
        sweep.add(["head=adacos", f"seed={seed}", "augmentation=flip"], 0.75, config=flip)
        sweep.add(["head=arcface", f"seed={seed}", "augmentation=flip"], 0.85, config=flip)
    found = compare(sweep.path, by="augmentation").runs
    assert set(found["augmentation"]) == {"none", "flip"}
    assert set(found["head"]) == {"adacos", "arcface"}


def put(run, key, value):
    content = OmegaConf.load(run.config)
    OmegaConf.update(content, key, value, force_add=True, merge=False)
    OmegaConf.save(content, run.config)


@pytest.mark.parametrize("key", [*LATER, "made_up", "backbone.made_up"])
def test_runs_older_than_a_setting_count_as_those_with_the_value_they_stand_for(key, sweep, monkeypatch):
    monkeypatch.setitem(LATER, "made_up", "plain")
    monkeypatch.setitem(LATER, "backbone.made_up", "plain")
    for seed in range(6):
        other = sweep.add(["head=adacos", f"seed={seed}"], 0.8 + seed / 100)
        run = sweep.add(["head=arcface", f"seed={seed}"], 0.7 + seed / 100)
        if key.startswith("selection."):
            put(other, "selection.apply", True)
            put(run, "selection.apply", True)
        put(run, key, LATER[key])
    assert set(compare(sweep.path).runs["head"]) == {"adacos", "arcface"}
    put(run, key, "other")
    with pytest.raises(InputError, match=f"^{key} is"):
        compare(sweep.path)


@pytest.mark.parametrize("target", [None, 7, ["a"]])
def test_a_target_that_is_no_name_is_shown_as_it_is(target, sweep):
    for seed in range(2):
        put(sweep.add(["head=adacos", f"seed={seed}"], 0.8), "scorer._target_", target)
        put(sweep.add(["head=arcface", f"seed={seed}"], 0.7), "scorer._target_", target)
    assert set(compare(sweep.path).runs["head"]) == {"adacos", "arcface"}


@pytest.mark.parametrize(("key", "before"), [("whiten", "false"), ("made_up", "plain")])
def test_a_setting_is_compared_with_the_value_that_older_runs_stand_for(key, before, sweep, monkeypatch):
    monkeypatch.setitem(LATER, "made_up", "plain")
    for seed in range(6):
        sweep.add(["head=adacos", f"seed={seed}"], 0.8 + seed / 100)
        put(sweep.add(["head=adacos", f"seed={seed}", f"{key}=other"], 0.7 + seed / 100), key, "other")
    assert set(compare(sweep.path, by=key).runs[key]) == {before, "other"}


def test_a_run_refused_before_its_settings_were_saved_is_told(sweep):
    sweep.fill(["adacos", "arcface"], seeds=2)
    write_json(_bare(sweep, "x").status, {"state": "failed", "error": "no data"})
    assert any(note.startswith("x stopped before its settings") for note in compare(sweep.path).notes)


def _bare(sweep, name):
    run = Run(sweep.path / name)
    run.path.mkdir(parents=True)
    return run


def test_a_setting_of_the_head_that_differs_makes_another_value(sweep):
    for margin in ("0.1", "0.3"):
        for seed in range(2):
            sweep.add(["head=arcface", f"head.margin={margin}", f"seed={seed}"], 0.9)
            if margin == "0.1":
                sweep.add(["head=adacos", f"seed={seed}"], 0.8)
    result = compare(sweep.path)
    assert set(result.runs["head"]) == {"adacos", "arcface margin=0.1", "arcface margin=0.3"}
    assert result.conditions == ["dataset"]
    by_margin = compare(sweep.path, by="head.margin", baseline="0.1")
    assert set(by_margin.runs["head.margin"]) == {"0.1", "0.3"}
    assert any("2 runs have no setting head.margin" in note for note in by_margin.notes)


def frozen(sweep, seeds=6, **more):
    for seed in range(seeds):
        overrides = ["head=softmax", "dataset=digits", f"seed={seed}", "trainer.max_epochs=0"]
        sweep.add(overrides, 0.7, config={"trainer.max_epochs": 0, **more})
    return sweep


def test_runs_without_training_are_a_value_of_their_own_beside_the_heads(sweep):
    found = compare(frozen(sweep.fill(["adacos", "arcface"])).path)
    assert set(found.summary["head"]) == {"adacos", "arcface", "frozen"}
    assert found.conditions == ["dataset"]
    assert found.summary.set_index("head").loc["frozen", "mean"] == pytest.approx(0.7)
    assert len(found.pairs) == 3


def test_runs_without_training_must_be_like_the_others_in_all_else(sweep):
    frozen(sweep.fill(["adacos", "arcface"]), **{"optimizer.lr": 7})
    with pytest.raises(InputError, match=r"optimizer\.lr"):
        compare(sweep.path)


def test_what_else_is_swept_over_is_a_condition(sweep):
    for head in HEADS:
        for normal in ("[1]", "[2]"):
            sweep.add([f"head={head}", f"dataset.normal={normal}", "seed=0"], 0.9, metrics={"split": normal})
    result = compare(sweep.path)
    assert result.conditions == ["dataset", "dataset.normal"]
    assert sorted(result.pairs["dataset.normal"]) == ["[1]", "[2]"]
    by_pair = compare(sweep.path, by="dataset.normal")
    assert by_pair.conditions == ["dataset", "head"]
    assert by_pair.pairs["pairs"].tolist() == [1, 1]


def test_datasets_can_be_compared_without_any_condition(sweep):
    sweep.add(["dataset=digits", "seed=0"], 0.9)
    sweep.add(["dataset=mnist", "seed=0"], 0.7)
    result = compare(sweep.path, by="dataset")
    assert result.conditions == []
    assert result.pairs["difference"].tolist() == [pytest.approx(0.2)]
    assert len(comparison_tables.write(result, sweep.path / "comparison")) == 7


def test_a_lower_rate_of_false_alarms_wins(sweep):
    result = compare(sweep.fill(["adacos", "arcface"]).path, metric="fpr_at_95_tpr", baseline="adacos")
    row = result.pairs.iloc[0]
    assert row["difference"] < 0
    assert (row["wins"], row["losses"]) == (6, 0)
    assert "arcface is better than adacos" in result.notes[0]


@pytest.mark.parametrize("key", ["paths.data", "trainer.devices", "dataset.workers"])
def test_where_and_how_fast_a_run_was_made_does_not_matter(sweep, key):
    sweep.add(["head=adacos", "seed=0"], 0.9)
    sweep.add(["head=arcface", "seed=0"], 0.9, config={key: 4})
    assert compare(sweep.path).pairs["pairs"].tolist() == [1]


@pytest.mark.parametrize(
    ("config", "metrics", "named"),
    [
        ({"trainer.max_epochs": 3}, {}, "trainer.max_epochs is 10 in adacos-0 and 3 in arcface-0"),
        ({}, {"sizes": {"normal": 8}}, "sizes.normal is 9 in adacos-0 and 8 in arcface-0"),
        ({}, {"split": "other"}, "split is digits0 in adacos-0 and other in arcface-0"),
    ],
)
def test_unlike_runs_are_refused(sweep, config, metrics, named):
    sweep.add(["head=adacos", "seed=0"], 0.9)
    sweep.add(["head=arcface", "seed=0"], 0.9, config=config, metrics=metrics)
    with pytest.raises(InputError, match=named):
        compare(sweep.path)


def test_two_commands_into_one_folder_are_refused_where_their_settings_differ(sweep):
    for seed in range(2):
        sweep.add(["head=adacos", f"seed={seed}", "trainer.max_epochs=2"], 0.9)
        sweep.add(["head=arcface", f"seed={seed}", "trainer.max_epochs=3"], 0.9)
    with pytest.raises(InputError, match=r"trainer.max_epochs is 2 in .* and 3 in"):
        compare(sweep.path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"baseline": "cosface"}, "head=cosface is not among the runs; choose one of adacos, arcface"),
        ({"by": "scorer"}, "by=scorer is no setting of these runs; what differs is head"),
        ({"by": "trainer.max_epochs"}, "by=trainer.max_epochs has one value here, 10; .* what differs is head"),
        ({"by": "seed"}, "runs are paired by their seed"),
        ({"metric": "accuracy"}, "metric=accuracy is unknown; choose one of auroc"),
    ],
)
def test_a_question_without_an_answer_is_refused(sweep, options, named):
    sweep.fill(["adacos", "arcface"], seeds=2)
    with pytest.raises(InputError, match=named):
        compare(sweep.path, **options)


def test_the_command_that_compares_by_what_differs_is_advised(sweep):
    for category in ("screw", "nut"):
        sweep.add([f"dataset.category={category}", "seed=0"], 0.9)
    with pytest.raises(InputError) as refused:
        compare(sweep.path)
    command = f"metrad compare {shlex.quote(str(sweep.path))} --by dataset.category"
    assert str(refused.value).endswith(f"what differs is dataset.category, as in: {command}")
    assert compare(sweep.path, by="dataset.category").compared == ["nut", "screw"]


def test_each_kind_of_anomaly_has_a_mean_in_the_markdown_the_worst_first(sweep, tmp_path):
    for head, shift in (("adacos", 0.0), ("arcface", 0.1)):
        for seed in range(2):
            kinds = {
                "dent": {"images": 2, "auroc": 0.8 + shift},
                "cut": {"images": 3, "auroc": 0.5 + shift + seed / 10},
            }
            sweep.add([f"head={head}", f"seed={seed}"], 0.7, metrics={"per_class": kinds})
    comparison_tables.write(compare(sweep.path), tmp_path / "out")
    lines = (tmp_path / "out/comparison.md").read_text().split("## Kinds")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines if line.startswith("| digits")]
    assert rows == [
        ["adacos", "cut", "2", "0.5500"],
        ["adacos", "dent", "2", "0.8000"],
        ["arcface", "cut", "2", "0.6500"],
        ["arcface", "dent", "2", "0.9000"],
    ]


def detected(rate, of_kinds=None, at=0.05):
    """Return a threshold that finds ``rate`` of the anomalous images, and of each kind a share."""
    entry = {"false_alarm_rate": at, "threshold": 1.0, "test_detection_rate": rate, "test_detection_interval": [0, 1]}
    entry |= {"test_false_alarm_rate": 0.1, "test_false_alarm_interval": [0, 1]}
    if of_kinds:
        entry["by_kind"] = {name: {"images": 2, "rate": share, "interval": [0, 1]} for name, share in of_kinds.items()}
        entry["worst_kind"] = min(of_kinds, key=of_kinds.get)
    return entry


def test_the_detection_of_the_worst_kind_stands_beside_that_of_all_as_means_over_seeds(sweep, tmp_path):
    for head, shift in (("adacos", 0.0), ("arcface", 0.125)):
        for seed in range(2):
            kinds = {"dent": 0.25 + seed / 2, "cut": 0.375 + shift}
            entries = [detected(0.25, at=0.01), detected(0.5 + seed / 4, kinds)]
            sweep.add([f"head={head}", f"seed={seed}"], 0.7, metrics={"thresholds": entries})
    comparison_tables.write(compare(sweep.path), tmp_path / "out")
    lines = (tmp_path / "out/comparison.md").read_text().split("## Detection")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert rows == [
        ["condition", "head", "false\\_alarm\\_rate", "runs", "detected", "worst\\_kind", "of\\_worst\\_kind"],
        ["---"] * 7,
        ["digits", "adacos", "0.01", "2", "0.2500", "-", "-"],
        ["digits", "adacos", "0.05", "2", "0.6250", "cut", "0.3750"],
        ["digits", "arcface", "0.01", "2", "0.2500", "-", "-"],
        ["digits", "arcface", "0.05", "2", "0.6250", "dent", "0.5000"],
    ]
    assert re.search(r"arcface +0\.05 +2 +0\.6250 +dent +0\.5000", comparison_tables.report(compare(sweep.path)))


def test_older_runs_without_the_detection_of_each_kind_are_compared_and_named(sweep):
    kinds = {name: {"images": 2, "auroc": 0.7} for name in ("dent", "cut")}
    for head in ("adacos", "arcface"):
        sweep.add([f"head={head}", "seed=0"], 0.7, metrics={"per_class": kinds, "thresholds": [detected(0.5)]})
        new = {"per_class": kinds, "thresholds": [detected(0.75, {"dent": 1.0, "cut": 0.5})]}
        sweep.add([f"head={head}", "seed=1"], 0.7, metrics=new)
    result = compare(sweep.path)
    (note,) = (note for note in result.notes if "of each kind" in note)
    assert note == (
        "2 runs, such as adacos-0, have no detection of each kind of anomaly: metrics.json has it since metrad 0.2, "
        "and metrad evaluate RUN computes it."
    )
    row = detection(result).iloc[0]
    assert (row["runs"], row["detected"], row["worst_kind"], row["of_worst_kind"]) == (2, 0.625, "cut", 0.5)


def test_runs_with_one_kind_of_anomaly_have_no_table_of_kinds(sweep, tmp_path):
    comparison_tables.write(compare(sweep.fill(HEADS, seeds=2).path), tmp_path / "out")
    assert "Kinds" not in (tmp_path / "out/comparison.md").read_text()


def test_only_what_can_be_compared_by_is_advised(sweep):
    for experiment, epochs in (("demo", 10), ("tuning", 3)):
        sweep.add([f"experiment={experiment}", "seed=0"], 0.9, config={"trainer.max_epochs": epochs})
    with pytest.raises(
        InputError, match=r"by=experiment is no setting .* what differs is trainer.max_epochs, as in: .*"
    ):
        compare(sweep.path, by="experiment")
    assert compare(sweep.path, by="trainer.max_epochs").pairs["pairs"].tolist() == [1]


def test_a_folder_without_runs_or_finished_runs_is_refused(sweep, tmp_path):
    with pytest.raises(InputError, match="holds no runs"):
        compare(tmp_path)
    for head in HEADS:
        sweep.add([f"head={head}", "seed=0"], state="failed")
    with pytest.raises(InputError, match="none of the 2 runs is finished"):
        compare(sweep.path)


def test_two_runs_in_one_place_are_refused(sweep):
    sweep.fill(["adacos", "arcface"], seeds=1)
    sweep.add(["head=adacos", "dataset=digits", "seed=0", "trainer.devices=2"], 0.9)
    with pytest.raises(InputError, match="are both the run of dataset=digits, head=adacos, seed=0"):
        compare(sweep.path)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("metrics.json", "{", "metrics.json cannot be read as JSON"),
        ("metrics.json", "[]", "holds no metrics"),
        ("metrics.json", '{"sizes": {}}', "holds no metrics"),
        ("metrics.json", '{"auroc": NaN}', "auroc must be a number from 0 to 1, got nan"),
        ("metrics.json", '{"auroc": "high"}', "got 'high'"),
        ("metrics.json", METRICS.replace("3.0", '"x"'), "seconds.total must be a number, got {'total': 'x'}"),
        ("metrics.json", METRICS.replace('{"total": 3.0}', "null"), "seconds.total must be a number, got None"),
        ("status.json", "[]", "holds no state"),
        (".hydra/config.yaml", "a: [", "config.yaml cannot be read"),
        (".hydra/overrides.yaml", "a: b", "does not hold what Hydra writes"),
        (".hydra/hydra.yaml", "hydra: 3", "does not hold what Hydra writes"),
    ],
)
def test_a_broken_file_is_named(sweep, file, content, named):
    sweep.fill(["adacos", "arcface"], seeds=2)
    next(sweep.path.glob("adacos*")).joinpath(file).write_text(content)
    with pytest.raises(InputError, match=named):
        compare(sweep.path)


def test_a_csv_gives_what_the_sweep_gives(sweep):
    result = compare(sweep.fill(["adacos", "arcface"], ["digits", "mnist"]).path)
    file = sweep.path / "again.csv"
    result.runs[["head", "dataset", "seed", "auroc"]].to_csv(file, index=False)
    again = compare_csv(file)
    pd.testing.assert_frame_equal(again.pairs, result.pairs)
    pd.testing.assert_frame_equal(again.summary, result.summary)
    assert any("paired by their number alone" in note for note in again.notes)


def test_the_table_that_a_sweep_leaves_can_be_read(tmp_path):
    rows = ["a,finished,arcface,0.1,0,0.9,", "b,finished,adacos,,0,0.8,", "c,failed,adacos,,1,,diverged"]
    result = compare_csv(csv(tmp_path, rows, "run,state,head,head.margin,seed,auroc,error\n"))
    assert list(result.runs["head"]) == ["arcface margin=0.1", "adacos", "adacos"]
    assert result.conditions == []
    assert result.holes == ["failed: head=adacos, seed=1 (diverged)", "no run: head=arcface margin=0.1, seed=1"]


def test_without_pairs_the_test_is_mann_whitney_s(tmp_path):
    rows = [f"{head},d,{seed},{0.8 + 0.1 * i + 0.01 * seed}" for i, head in enumerate("ab") for seed in range(5)]
    result = compare_csv(csv(tmp_path, rows), unpaired=True)
    row = result.pairs.iloc[0]
    assert not result.paired
    assert row["p"] == pytest.approx(2 / math.comb(10, 5))
    assert (row["pairs"], row["wins"], row["losses"], row["effect"]) == (5, 0, 25, -1)
    assert not any("number alone" in note for note in result.notes)


def test_a_csv_without_seeds_is_unpaired(tmp_path):
    result = compare_csv(csv(tmp_path, ["a,0.5", "a,0.6", "b,0.7"], "head,auroc\n"))
    assert not result.paired
    assert result.holes == []
    assert any("no column seed" in note for note in result.notes)


@pytest.mark.parametrize(
    ("rows", "header", "named"),
    [
        (["a,d,0,0.5"], HEADER, "head has one value here, a"),
        (
            ["a,d,0,0.5", "a,d,0,0.6", "b,d,0,0.5"],
            HEADER,
            "row 2 and row 3 are both the run of dataset=d, head=a, seed=0",
        ),
        (["a,d,0,0.5", "b,d,0,nan"], HEADER, "line 3: auroc must be a number from 0 to 1, got 'nan'"),
        (["a,d,0,0.5", "b,d,0,"], HEADER, "line 3: auroc must be a number from 0 to 1, got ''"),
        (["a,d,0,91.5", "b,d,0,0.5"], HEADER, "line 2: auroc must be .* got '91.5'"),
        (["a,0,0.5"], "model,seed,auroc\n", "has no column head; it has model, seed, auroc"),
        (["a,d,0"], "head,dataset,seed\n", "has no column auroc"),
        (["a,d,0,0.5,9", "b,d,0,0.5,9"], HEADER, "cannot be read as CSV .*Expected 4 fields in line 2, saw 5"),
        (["", "a,d,0,0.5", "", "b,d,0,x"], HEADER, "line 5: auroc must be"),
        (["a,d,0,0.5", "b,d,0,0.6"], "head,head,seed,auroc\n", "has two columns head"),
        (["a;0;0.5", "b;0;0.6"], "head;seed;auroc\n", "no column head; .* cells are parted by commas"),
        (["a;0;0,5", "b;0;0,6"], "head;seed;auroc\n", "cannot be read as CSV .* numbers have a point"),
        (["a,d,0,0.5", "b,d,0,0.5,9"], HEADER, "cannot be read as CSV"),
        ([",d,0,0.5", "b,d,0,0.5"], HEADER, "line 2: head is empty"),
        (["0,a,0,0.5", "1,b,0,0.5"], ",head,seed,auroc\n", "no two rows share a condition .* leave out columns"),
        ([], HEADER, "has no rows"),
        ([], "", "cannot be read as CSV"),
        (["a,0,0.5,x", "b,0,0.5,y"], "head,seed,auroc,split\n", "have different split"),
        (
            ["a,0,0.5,finished", "b,0,0.5,Finished"],
            "head,seed,auroc,state\n",
            "line 3: state must be .* got 'Finished'",
        ),
        (
            ["a,0,0.5,", "b,0,0.5,failed"],
            "head,seed,auroc,state\n",
            "line 2: state must be one of .*finished, .* got ''",
        ),
    ],
)
def test_a_csv_that_cannot_be_compared_is_refused(tmp_path, rows, header, named):
    with pytest.raises(InputError, match=named):
        compare_csv(csv(tmp_path, rows, header))


@pytest.mark.parametrize("metric", ["accuracy", "head", "state", "seed"])
def test_a_metric_of_a_csv_is_one_that_runs_have(tmp_path, metric):
    file = csv(tmp_path, ["a,0,0.5,x,finished", "b,0,0.6,x,finished"], "head,seed,auroc,accuracy,state\n")
    with pytest.raises(InputError, match=f"metric={metric} is unknown; choose one of auroc, "):
        compare_csv(file, metric=metric)


def test_columns_that_the_comparison_makes_itself_are_refused(tmp_path):
    rows = [f"{head},{dataset},{seed},0.{seed}" for head in "ab" for dataset in "de" for seed in (1, 2)]
    result = compare_csv(csv(tmp_path, rows))
    made = {"table", *result.summary, *result.pairs, *result.overall} - {"head", "dataset"}
    assert made == set(TAKEN)
    for name in TAKEN:
        with pytest.raises(InputError, match=f": {name} is a column that the comparison makes itself; rename it"):
            compare_csv(csv(tmp_path, rows, HEADER.replace("dataset", name)))


def test_a_csv_of_other_programs_is_read(tmp_path):
    file = tmp_path / "x.csv"
    file.write_bytes("\ufeffhead , seed,auroc\r\n\r\na,0, 0.5\r\nb,0,0.6\r\n".encode())
    result = compare_csv(file)
    assert result.runs["auroc"].tolist() == [0.5, 0.6]
    assert result.runs["run"].tolist() == ["row 3", "row 4"]


def bars(figure):
    """Return the ends of each bar of a diagram of ranks, which joins what is not told apart."""
    lines = [line for line in figure.axes[0].lines if line.get_color() in ("k", "black")]
    return [[min(line.get_xdata()), max(line.get_xdata())] for line in lines]


def test_two_values_over_few_conditions_get_no_test_that_contradicts_wilcoxon_s(tmp_path):
    rows = [
        f"{head},d{i},{s},{0.6 + 0.1 * j + 0.01 * s}" for j, head in enumerate("ab") for i in range(4) for s in (1, 2)
    ]
    result = compare_csv(csv(tmp_path, rows))
    assert (result.wilcoxon_p, result.critical_difference, result.nemenyi) == (0.125, None, None)
    notes = " ".join(result.notes)
    assert "With 4 conditions and two values p cannot be below 0.12, whatever the runs." in notes
    assert "Nemenyi" not in notes
    drawn = pictures(result)["ranks"]
    assert "Wilcoxon's test does not show that they differ (p = 0.12)" in drawn.get_suptitle()
    assert bars(drawn) == [[1, 2]]


def test_two_values_that_differ_over_the_conditions_are_drawn_apart(tmp_path):
    rows = [f"{head},d{i},0,{0.6 + 0.1 * j + 0.01 * i}" for j, head in enumerate("ab") for i in range(6)]
    result = compare_csv(csv(tmp_path, rows))
    drawn = pictures(result)["ranks"]
    assert "Wilcoxon's test shows that they differ (p = 0.031)" in drawn.get_suptitle()
    assert bars(drawn) == []
    assert not any("conditions and two values" in note for note in result.notes)


def test_nemenyi_s_test_comes_only_after_friedman_s(tmp_path):
    aurocs = np.random.default_rng(13).uniform(0, 0.5, (9, 6)) + np.array([0.25, 0.1, 0.1, 0.1, 0.1, 0])
    rows = [f"h{j},d{i},0,{auroc:.3f}" for (i, j), auroc in np.ndenumerate(aurocs)]
    result = compare_csv(csv(tmp_path, rows))
    assert result.friedman_p > 0.05
    assert result.nemenyi.min(axis=None) < 0.05
    notes = " ".join(result.notes)
    assert "Nemenyi's test of each two comes only after a difference that Friedman's shows, so it is left out." in notes
    assert "tells apart" not in notes
    drawn = pictures(result)["ranks"]
    assert "Friedman's test does not show that they differ (p = 0.055)" in drawn.get_suptitle()
    assert bars(drawn) == [[result.overall["mean_rank"].min(), result.overall["mean_rank"].max()]]


def test_nemenyi_s_test_tells_apart_after_friedman_s(tmp_path):
    rows = [f"h{j},d{i},0,{0.5 + 0.1 * j + 0.01 * i:.2f}" for j in range(3) for i in range(4)]
    result = compare_csv(csv(tmp_path, rows))
    assert "Nemenyi's test, critical difference 1.66, tells apart h2 from h0." in result.notes
    drawn = pictures(result)["ranks"]
    assert "critical difference 1.66; a bar joins" in drawn.get_suptitle()
    assert bars(drawn) == [[1, 2], [2, 3]]


def test_names_are_no_formulas_in_pictures(tmp_path):
    rows = [f"{head},{dataset},{seed},0.{seed}" for head in ("$x_$", "b") for dataset in "d$" for seed in (1, 2)]
    for figure in pictures(compare_csv(csv(tmp_path, [row.replace(",$,", ",$y_$,") for row in rows]))).values():
        figure.savefig(tmp_path / "x.svg")


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x9b"])
def test_a_control_character_that_no_picture_can_show_is_refused(tmp_path, character):
    for header, line in ((HEADER, 3), (HEADER.replace("dataset", f"data{character}set"), 1)):
        file = csv(tmp_path, ["a,d,0,0.5", f"b{character},d,0,0.6"] if line == 3 else ["a,d,0,0.5"], header)
        with pytest.raises(InputError, match=rf"line {line}: '.*\\x.*' has a control character; leave it out"):
            compare_csv(file)


def test_breaks_in_a_cell_are_spaces_and_an_error_may_hold_anything(tmp_path):
    rows = ['"a\tb\n c",0,0.5,finished,', "d,0,0.6,finished,", "d,1,,failed,\x1b[31mbad"]
    result = compare_csv(csv(tmp_path, rows, "head,seed,auroc,state,error\n"))
    assert result.compared == ["a b  c", "d"]
    assert result.holes[0] == "failed: head=d, seed=1 ([31mbad)"
    for figure in pictures(result).values():
        figure.savefig(tmp_path / "x.svg")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "x.csv"
    file.write_bytes(b"\xff\xfe\x00\x80,\n\x81")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        compare_csv(file)
    with pytest.raises(InputError, match=r"none\.csv is missing; copy or create it again"):
        compare_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match="it is a folder, not a file"):
        compare_csv(tmp_path)
    os.mkfifo(tmp_path / "fifo.csv")
    with pytest.raises(InputError, match="it is a FIFO, not a file"):
        compare_csv(tmp_path / "fifo.csv")


@pytest.mark.parametrize(("seeds", "said"), [(5, "cannot be below 0.0625"), (6, "nor after Holm's correction")])
def test_few_seeds_are_warned_of_in_plain_words(sweep, seeds, said):
    result = compare(sweep.fill(["adacos", "arcface", "softmax"], seeds=seeds).path)
    assert any(said in note for note in result.notes)
    assert any(f"{seeds} pairs are few" in note for note in result.notes)


def test_few_pairs_are_warned_of_where_they_are_few(tmp_path):
    cells = [(i, head, s) for i, n in enumerate((12, 3, 12)) for head in "ab" for s in range(n)]
    rows = [f"{head},d{i},{s},{0.6 + (0.1 + 0.001 * s) * (head == 'b') + 0.01 * s:.3f}" for i, head, s in cells]
    result = compare_csv(csv(tmp_path, rows))
    assert (result.pairs["p_holm"] <= 0.05).tolist() == [True, False, True]
    assert (
        "In 1 of 3 comparisons (dataset=d1, a and b) no difference, however large, can be significant at 0.05: with 3 "
        "pairs the two-sided Wilcoxon p cannot be below 0.25. For 3 comparisons that takes 7 pairs."
    ) in result.notes
    assert any(note.startswith("3 pairs, as in 1 of 3 comparisons, are few") for note in result.notes)
    assert not any(note.startswith("With 3 pairs") for note in result.notes)


def test_what_holm_s_correction_takes_is_told_of_the_comparisons_with_few_pairs(tmp_path):
    cells = [(i, head, s) for i, n in enumerate((12, 6, 5, 4)) for head in "ab" for s in range(n)]
    rows = [f"{head},d{i},{s},{0.6 + 0.1 * (head == 'b') + 0.01 * s:.3f}" for i, head, s in cells]
    notes = compare_csv(csv(tmp_path, rows)).notes
    start = "In 2 of 4 comparisons (the fewest runs: dataset=d3, a and b) no difference, however large,"
    assert any(note.startswith(start) and "with 4 to 5 pairs" in note for note in notes)
    start = (
        "In 1 of 4 comparisons (dataset=d1, a and b), with 6 pairs the Wilcoxon p cannot be below 0.03125, nor after"
    )
    assert any(note.startswith(start) and "comparisons below 0.12 unless" in note for note in notes)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((3, 40), None),
        ((2, 5), "With 2 and 5 runs the two-sided Mann-Whitney p cannot be below 0.09524: no difference"),
        ((3, 3), "With 3 runs each the two-sided Mann-Whitney p cannot be below 0.1: no difference"),
        ((3, 3, 2), "With 2 and 3 to 3 and 3 runs the two-sided Mann-Whitney p cannot be below 0.1: no difference"),
    ],
)
def test_groups_of_unlike_size_have_the_least_p_of_both(tmp_path, sizes, said):
    rows = [f"h{i},{s},{0.5 + 0.1 * i + 0.001 * s:.3f}" for i, n in enumerate(sizes) for s in range(n)]
    result = compare_csv(csv(tmp_path, rows, "head,seed,auroc\n"), unpaired=True)
    warned = [note for note in result.notes if "however large" in note]
    assert warned == [] if said is None else warned[0].startswith(said)
    if said is None:
        assert result.pairs["p_holm"].item() == pytest.approx(2 / math.comb(43, 3))


@pytest.mark.parametrize(("n", "m", "share"), [(3, 3, 88), (4, 20, 93)])
def test_the_interval_of_two_small_groups_holds_the_truth_as_often_as_told(n, m, share):
    generator = np.random.default_rng(n)
    drawn = [(generator.normal(0, 1, n), generator.normal(0, 1, m)) for _ in range(600)]
    ends = [paired.unpaired_bootstrap(one, other, resamples=500) for one, other in drawn]
    assert HELD[2][n] == share
    assert 100 * np.mean([low <= 0 <= high for low, high in ends]) == pytest.approx(share, abs=4)


def test_equal_figures_have_no_spread_that_would_tell_what_could_have_shown(tmp_path):
    result = compare_csv(csv(tmp_path, [f"{head},d,{seed},1.0" for head in "ab" for seed in range(8)]))
    assert "p = 1, 1 after Holm; no spread was measured that would tell what could have shown)" in result.notes[0]
    assert result.pairs["detectable"].isna().all()


def test_enough_seeds_are_not_warned_of(sweep):
    result = compare(sweep.fill(["adacos", "arcface"], seeds=12).path)
    assert result.notes[0].startswith("dataset=digits: adacos is worse than arcface by 0.0")
    assert [note for note in result.notes[1:] if "unverified" not in note] == [ONE_POOL]


def made_with(sweep, *environments):
    """Add runs of two heads, with each of ``environments`` in turn, and return the notes of their comparison."""
    for seed in range(2):
        for i, head in enumerate(HEADS):
            run = sweep.add([f"head={head}", f"seed={seed}"], 0.9)
            write_json(run.environment, {"device": "cpu", **environments[(2 * seed + i) % len(environments)]})
    return compare(sweep.path, unpaired=True).notes


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"threads": 1}, {"threads": 2}, "thread count (1 in 3 runs, 2 in 1 run)"),
        ({"precision": "32-true"}, {"precision": "bf16-mixed"}, "precision (32-true in 3 runs, bf16-mixed in 1 run)"),
        ({"processor": "A"}, {"processor": "B"}, "processor (A in 3 runs, B in 1 run)"),
        (
            {"packages": {"torch": "2.14.1", "numpy": "2"}},
            {"packages": {"torch": "2.15.0", "numpy": "2"}},
            "torch version (2.14.1 in 3 runs, 2.15.0 in 1 run)",
        ),
        ({"git_commit": "a"}, {"git_commit": "b"}, "git_commit (a in 3 runs, b in 1 run)"),
        ({}, {"made_up": [1]}, "made_up (not recorded in 3 runs, [1] in 1 run)"),
    ],
)
def test_what_runs_were_made_with_is_told_where_it_differs(sweep, one, other, said):
    notes = made_with(sweep, one, one, one, other)
    assert f"Runs differ in {said}, by environment.json; this can move metrics a little." in notes


def test_what_differs_between_the_compared_values_is_told_as_a_cause(sweep):
    notes = made_with(sweep, {"threads": 1, "precision": "a"}, {"threads": 2, "precision": "a"})
    assert any("No two values of head have runs of the same thread count, so a difference" in note for note in notes)


def test_runs_made_alike_are_not_told_apart_by_how_fast_they_were(sweep):
    notes = made_with(sweep, {"threads": 1, "speed": 1, "platform": "a"}, {"threads": 1, "speed": 2, "platform": "b"})
    assert not any("environment" in note for note in notes)


def test_runs_without_an_environment_are_counted(sweep):
    made_with(sweep, {"threads": 1})
    next(sweep.path.glob("*/environment.json")).unlink()
    assert any("1 of 4 finished runs have no environment.json" in note for note in compare(sweep.path).notes)


@pytest.mark.long
def test_many_values_and_conditions_give_pictures_that_can_be_saved(tmp_path):
    generator = np.random.default_rng(0)
    rows = [f"h{h},d{d},{s},{generator.uniform():.3f}" for h in range(8) for d in range(42) for s in range(2)]
    result = compare_csv(csv(tmp_path, rows))
    assert len(result.pairs) == 42 * 28
    drawn = pictures(result)
    assert "the 80 of 1176 with the smallest p" in drawn["differences"].axes[0].get_title()
    assert sum(axes.get_visible() for axes in drawn["seeds"].axes) == 40
    assert all(150 * side < 2**15 for figure in drawn.values() for side in figure.get_size_inches())
    assert len(result.notes) < 12


def test_runs_that_share_no_seed_are_not_compared(sweep):
    sweep.add(["head=adacos", "seed=0"], 0.9)
    sweep.add(["head=arcface", "seed=1"], 0.9)
    result = compare(sweep.path)
    assert result.pairs["pairs"].tolist() == [0]
    assert result.pairs[["difference", "p", "p_holm"]].isna().all(axis=None)
    assert any("No two finished runs can be compared" in note for note in result.notes)
    comparison_tables.write(result, sweep.path / "comparison")


def test_all_files_are_written_and_can_be_read(sweep):
    result = compare(sweep.fill(["adacos", "arcface", "a_b|$"], ["digits", "mnist"], seeds=3).path)
    files = comparison_tables.write(result, sweep.path / "comparison")
    assert {file.name for file in files} == {file.name for file in (sweep.path / "comparison").iterdir()}
    names = ["comparison.csv", "comparison.md", "comparison.tex"]
    assert [file.name for file in files[:3]] == names
    assert [file.stem for file in files[3::2]] == ["seeds", "differences", "ranks"]
    table = pd.read_csv(files[0])
    assert table["table"].tolist() == ["summary"] * 6 + ["pairs"] * 6 + ["overall"] * 3
    assert table["difference"].dropna().tolist() == pytest.approx(result.pairs["difference"].tolist())
    for file in files[3:]:
        if file.suffix == ".svg":
            assert ET.parse(file).getroot().tag.endswith("svg")
        else:
            with Image.open(file) as image:
                assert np.asarray(image.convert("L")).std() > 5
    markdown = files[1].read_text()
    assert "a\\_b\\|$" in markdown
    assert all(f"![{name}]({name}.png)" in markdown for name in ("seeds", "differences", "ranks"))
    latex = files[2].read_text()
    assert r"a\_b|\$" in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 3
    labels = re.findall(r"\\label\{(.*?)\}", latex)
    assert labels == ["tab:head-auroc-summary", "tab:head-auroc-pairs", "tab:head-auroc-overall"]


def test_the_same_runs_give_the_same_files(sweep):
    result = compare(sweep.fill(["adacos", "arcface"], ["digits", "mnist"], seeds=2).path)
    first = {file.name: file.read_bytes() for file in comparison_tables.write(result, sweep.path / "one")}
    second = {file.name: file.read_bytes() for file in comparison_tables.write(result, sweep.path / "two")}
    assert first == second


def test_a_comparison_that_cannot_be_written_leaves_the_old_one(sweep, monkeypatch):
    result = compare(sweep.fill(["adacos", "arcface"], seeds=2).path)
    out = sweep.path / "comparison"
    comparison_tables.write(result, out)
    (out / "comparison.csv").write_text("old")
    before = sorted(out.iterdir())

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(comparison_tables, "_save", full)
    with pytest.raises(OSError, match="No space"):
        comparison_tables.write(result, out)
    assert sorted(out.iterdir()) == before
    assert (out / "comparison.csv").read_text() == "old"


def test_writing_to_a_file_is_refused(sweep):
    result = compare(sweep.fill(["adacos", "arcface"], seeds=2).path)
    with pytest.raises(InputError, match="is a file"):
        comparison_tables.write(result, Run(sweep.path / result.runs["run"][0]).status)


def _invoke(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_command_prints_tables_and_notes_and_writes_beside_the_runs(sweep):
    sweep.fill(["adacos", "arcface"], seeds=3)
    result = _invoke(sweep.path, "--baseline", "head=arcface")
    assert result.exit_code == 0
    assert "detectable" in result.output
    assert "cannot be below 0.25" in result.output
    assert (sweep.path / "comparison" / "comparison.md").is_file()
    assert _invoke(sweep.path).exit_code == 0, "its own output is no run of the sweep"


def test_the_command_takes_a_csv(tmp_path):
    file = csv(tmp_path, ["a,d,0,0.5", "b,d,0,0.6"])
    assert _invoke("--csv", file).exit_code == 0
    assert (tmp_path / "figures-comparison" / "comparison.csv").is_file()
    assert _invoke("--csv", file, "--out", tmp_path / "x" / "y").exit_code == 0
    assert (tmp_path / "x" / "y" / "comparison.csv").is_file()


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["nowhere", "--csv", "x"], ["--csv", "nowhere"]])
def test_the_command_answers_bad_input_in_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = _invoke(*arguments)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_origin_s_figures_are_those_of_the_protocol(request):
    folder = request.config.rootpath / "docs" / "results" / "origin"
    result = compare_csv(folder / "origin.csv")
    medians = result.summary.set_index(["dataset", "head"])["median"].round(4).to_dict()
    assert medians == {
        ("fmnist", "l2_softmax"): 0.915,
        ("fmnist", "arcface"): 0.94,
        ("fmnist", "adacos"): 0.938,
        ("cifar10", "l2_softmax"): 0.835,
        ("cifar10", "arcface"): 0.805,
        ("cifar10", "adacos"): 0.8025,  # .802 in print
    }
    assert json.loads(result.pairs.to_json())["pairs"] == {str(i): 10 for i in range(6)}


def test_what_makes_no_other_run_can_still_be_compared_by(sweep):
    for precision, auroc in (("32-true", 0.9), ("auto", 0.8)):
        for seed in range(3):
            sweep.add([f"seed={seed}", f"trainer.precision={precision}", "compile=false"], auroc + seed / 100)
    result = compare(sweep.path, by="trainer.precision")
    assert result.pairs["pairs"].tolist() == [3]
    assert result.pairs["difference"].tolist() == [pytest.approx(0.1)]
    assert result.holes == []
