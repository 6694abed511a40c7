"""What holds of every metric, and what follows from an entry in METRICS alone."""

import re
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from metrad.app.cli import app
from metrad.app.messages import summary as line
from metrad.errors import InputError
from metrad.evaluation import metrics
from metrad.evaluation.measures import Settings, intervals
from metrad.evaluation.metrics import METRICS, Metric, RocCurves, by_name, summary
from metrad.files import read_json, write_json
from metrad.reports.comparison.compare import compare, compare_csv
from metrad.reports.report import write_report, write_run_report
from metrad.runs import contents
from metrad.sweeps.table import collect, evaluation_row
from tests.helpers.runs import Sweep, finished_run


def found_at_1_percent(curves):
    """Share of the anomalous images above the lowest threshold with at most 1 % false alarms."""
    return np.where(curves.false_alarms <= 0.01, curves.recall, 0).max(axis=1)


NEW = Metric(
    name="made_up_rate",
    title="Detection at 1 % false alarms",
    description="share of anomalous images found at 1 % false alarms",
    since="9.9",
    from_curves=found_at_1_percent,
    shown_in=("summary", "evaluations"),
)
OLDER = [metric.name for metric in METRICS]
SCORES, TRUTH = np.array([0.1, 0.2, 0.3, 0.25, 0.8, 0.9]), np.arange(6) >= 3


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, NEW))


@pytest.fixture
def mixed(tmp_path, added):
    """A sweep with four runs from before the new metric and eight from after it."""
    sweep = Sweep(tmp_path / "sweep").fill(["adacos", "arcface"])
    for seed in (0, 1):
        for run in sweep.path.glob(f"*-{seed}"):
            content = read_json(run / "metrics.json")
            del content[NEW.name]
            write_json(run / "metrics.json", content)
    return sweep.path


# Every metric


def test_names_and_titles_are_given_once():
    for each in ("name", "title"):
        assert [
            value for value, count in Counter(getattr(metric, each) for metric in METRICS).items() if count > 1
        ] == []


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_entry_is_complete(metric):
    assert re.fullmatch(r"[a-z0-9_]+", metric.name)
    assert metric.title
    assert metric.description
    assert not metric.description.endswith(".")
    assert re.fullmatch(r"\d+\.\d+", metric.since)
    assert 0 <= metric.darkest < 1


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_its_direction_is_that_of_its_values(metric):
    truth, scores = np.arange(40) >= 20, np.arange(40)
    best, worst = (metric.of_sample(order, truth) for order in (scores, scores[::-1]))
    assert (best > worst) == metric.higher_is_better


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_one_sample_and_many_are_measured_alike(metric):
    generator = np.random.default_rng(0)
    ranks = np.unique(generator.normal(size=90).round(1), return_inverse=True)[1]
    truth = generator.random(90) < 0.4
    (many,) = metric.of_samples(RocCurves.from_ranks(ranks, truth))
    assert metric.of_sample(ranks, truth) == pytest.approx(many, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_perfect_order_measures_1_at_most(metric):
    """The library's sum of nine shares is 1.0000000000000002."""
    assert metric.of_sample(np.arange(11), np.arange(11) >= 2) in (0.0, 1.0)


def test_a_run_from_before_may_have_a_metric_above_1_by_rounding(tmp_path):
    path = tmp_path / "metrics.json"
    assert contents.metrics({"auroc": 1.0000000000000002}, path) == {"auroc": 1.0000000000000002}
    with pytest.raises(InputError, match=r"auroc must be a number from 0 to 1, got 1\.01"):
        contents.metrics({"auroc": 1.01}, path)


# A metric that is added in one place


def test_a_new_metric_is_in_metrics_json_with_an_interval(added):
    assert summary(SCORES, TRUTH)[NEW.name] == pytest.approx(2 / 3)
    found = intervals(SCORES, TRUTH, Settings(resamples=50))["bootstrap"]
    assert list(found) == [*OLDER, NEW.name]
    assert 0 <= found[NEW.name][0] <= found[NEW.name][1] <= 1


def test_a_new_metric_is_in_the_help_of_compare(added):
    result = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"})
    told = " ".join(result.output.replace("│", " ").split())
    for metric in (*METRICS, NEW):
        assert f"{metric.name}, {metric.description}" in told


def test_the_help_lists_no_metric_that_is_not_there():
    assert NEW.name not in CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"}).output


def test_a_new_metric_is_compared_and_shown(tmp_path, added):
    sweep = Sweep(tmp_path / "sweep").fill(["adacos", "arcface"])
    result = CliRunner().invoke(app, ["compare", str(sweep.path), "--metric", NEW.name])
    assert result.exit_code == 0, result.output
    assert f"no difference in {NEW.name}" in result.output or f"in {NEW.name} (" in result.output
    page = (sweep.path / "comparison" / "report.html").read_text()
    assert f"{NEW.title} over runs" in page
    assert f">{NEW.title}</th>" in page
    (row,) = (row for row in collect(sweep.path) if row["run"] == "adacos-digits-0")
    assert row[NEW.name] == read_json(sweep.path / "adacos-digits-0/metrics.json")[NEW.name]


@pytest.mark.parametrize("higher", [True, False])
def test_the_direction_of_a_new_metric_decides_what_is_better(tmp_path, monkeypatch, higher):
    made = Metric(**{**vars(NEW), "higher_is_better": higher})
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, made))
    rows = [f"{head},{seed},0.{5 + i}{seed}" for i, head in enumerate("ab") for seed in range(8)]
    (tmp_path / "t.csv").write_text("\n".join([f"head,seed,{made.name}", *rows]))
    result = compare_csv(tmp_path / "t.csv", metric=made.name)
    verdict = "worse" if higher else "better"
    assert result.notes[0].startswith(f"a is {verdict} than b by 0.1000 in {made.name}")
    assert (result.pairs["wins"][0], result.pairs["losses"][0]) == ((0, 8) if higher else (8, 0))


def test_a_new_metric_is_in_the_report_of_a_run_the_line_and_the_table_of_evaluations(tmp_path, added):
    run = finished_run(tmp_path / "run")
    write_run_report(run.path)
    page, content = run.path.joinpath("report.html").read_text(), read_json(run.metrics)
    row = re.search(rf"<th[^>]*>{NEW.title}</th>(.*?)</tr>", page, re.DOTALL)[1]
    assert f"{content[NEW.name]:.4f}" in row
    assert f"{NEW.title}: {NEW.description}; higher is better." in page
    assert f"detection at 1 % false alarms {content[NEW.name]:.4f}" in line(content)
    assert evaluation_row("run", [], content)[NEW.name] == content[NEW.name]


# Runs of a version without it


def test_older_runs_are_compared_by_what_they_have(mixed):
    result = compare(mixed)
    assert result.pairs["pairs"].tolist() == [6]
    assert result.holes == []
    assert result.runs[NEW.name].isna().sum() == 4
    (note,) = (note for note in result.notes if NEW.name in note)
    assert note.startswith(f"4 of 12 finished runs have no {NEW.name} (adacos-digits-0, ")
    assert "and 1 more): metrics.json has it since metrad 9.9; nothing else depends on it." in note


def test_a_comparison_by_the_new_metric_leaves_older_runs_out_and_says_so(mixed, tmp_path):
    result = compare(mixed, metric=NEW.name)
    assert result.pairs["pairs"].tolist() == [4]
    assert result.summary["runs"].tolist() == [4, 4]
    assert result.summary["unfinished"].tolist() == [0, 0]
    assert result.summary["mean"].notna().all()
    assert sum(hole.startswith(f"no {NEW.name}: ") for hole in result.holes) == len(result.holes) == 4
    (note,) = (note for note in result.notes if "finished runs have no" in note)
    assert note.endswith("metrics.json has it since metrad 9.9; they are left out.")
    write_report(result, tmp_path / "report.html")
    assert "12 finished, 4 holes in the grid" in (tmp_path / "report.html").read_text()


def test_a_metric_that_no_run_has_is_refused_with_those_they_have(tmp_path, monkeypatch):
    sweep = Sweep(tmp_path / "sweep").fill(["adacos", "arcface"], seeds=2)
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, NEW))
    assert compare(sweep.path).pairs["pairs"].tolist() == [2]
    words = rf"none of the 4 finished runs has {NEW.name} \(.* since metrad 9.9\); choose one of {', '.join(OLDER)}$"
    with pytest.raises(InputError, match=words):
        compare(sweep.path, metric=NEW.name)


def test_the_report_of_an_older_run_says_what_it_lacks(tmp_path, monkeypatch):
    run = finished_run(tmp_path / "run")
    write_run_report(run.path)
    assert "This run has no" not in run.path.joinpath("report.html").read_text()
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, NEW))
    write_run_report(run.path)
    page = run.path.joinpath("report.html").read_text()
    assert page.count(f"This run has no {NEW.title}: metrics.json has it since metrad 9.9.") == 1
    assert page.count(NEW.title) == 1
    assert "AUROC (DeLong)" in page


def test_the_line_of_an_older_run_that_a_sweep_finds_finished_leaves_it_out(tmp_path, monkeypatch):
    content = read_json(finished_run(tmp_path / "run").metrics)
    before = line(content)
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, NEW))
    assert line(content) == before
    assert re.fullmatch(
        r"AUROC 0\.\d{4} \(.* to .*\), average precision 0\.\d{4}, FPR at 95 % TPR 0\.\d{4}, 3 s", before
    )


def test_a_csv_says_nothing_of_metrics_that_its_user_left_out(tmp_path, added):
    (tmp_path / "t.csv").write_text("head,seed,auroc\na,0,0.9\na,1,0.8\nb,0,0.7\nb,1,0.6\n")
    assert not any("have no" in note for note in compare_csv(tmp_path / "t.csv").notes)


def test_the_table_of_a_sweep_has_an_empty_cell_for_what_a_run_lacks(mixed):
    lacking = {row["run"] for row in collect(mixed) if row[NEW.name] is None}
    assert lacking == {f"{head}-digits-{seed}" for head in ("adacos", "arcface") for seed in (0, 1)}
    assert set(by_name()) <= collect(mixed)[0].keys()
