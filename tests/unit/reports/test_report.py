"""The report: what it reads of runs, how it writes it down, and that nothing it is given becomes markup."""

import base64
import dataclasses
import hashlib
import itertools
import math
import re
from importlib import resources

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metrad.errors import InputError, WriteError
from metrad.evaluation import plots
from metrad.evaluation.metrics import by_name
from metrad.evaluation.plots import style
from metrad.files import read_json, write_json, write_rows
from metrad.reports import cells as cells_module
from metrad.reports.cells import RATES, band, cells, common, evidence_of, flat, hardest, history_of, scores_of
from metrad.reports.comparison import tables as comparison_tables
from metrad.reports.comparison.compare import compare, compare_csv
from metrad.reports.comparison.plots import study
from metrad.reports.page import html
from metrad.reports.page import plots as page_plots
from metrad.reports.page.html import Group, Section, write_page
from metrad.reports.page.plots import svg
from metrad.reports.page.tables import settings_tables, table
from metrad.reports.report import write_report, write_run_report
from metrad.runs.directory import Run
from tests.helpers.runs import EVIL, finished_run, sweep


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(comparison, path)
    return path.read_text(encoding="utf-8")


def scores(normal, anomalous):
    both = [*normal, *anomalous]
    return pd.DataFrame({"score": both, "anomalous": np.arange(len(both)) >= len(normal)}).astype({"score": float})


def test_every_part_is_there(page):
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections == ["results", "cost", "roc", "scores", "epochs", "evidence", "runs", "settings"]
    assert re.findall(r'<a href="#(\w+)">', page) == sections
    assert page.count("<img ") == 4  # an evidence panel for each head and dataset
    assert (
        page.count("<svg ") == 2 * (3 + 2 + 5) + 2
    )  # boxes, costs, curves; histograms; statistics; differences, ranks
    for caption in (
        "AUROC over runs",
        "Mean rank over all conditions",
        "Unfinished and failed runs",
        "Finished runs",
    ):
        assert f"<caption><span>{caption}" in page


def test_nothing_given_becomes_markup(page):
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)") > 6
    assert page.count("<script>") == 1


def test_the_policy_allows_its_own_script_alone(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_nothing_in_it_leads_outside(page):
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    assert re.findall(r"url\((?!#)|@import|https?://", page) == []


def test_no_id_is_given_twice(page):
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', page)) <= set(ids)


def test_failed_runs_are_told_with_their_log(page):
    assert re.search(r"<td>failed</td>\s*<td>&lt;script&gt;.*?</td>\s*<td>\S*failed/run\.log</td>", page)
    assert "13 runs, 12 finished" in page


def test_a_csv_has_no_panels_of_directories(tmp_path):
    rows = [f"{head},{dataset},{seed},0.{9 - seed}" for head in "ab" for dataset in "xy" for seed in range(3)]
    (tmp_path / "table.csv").write_text("\n".join(["head,dataset,seed,auroc", *rows]))
    write_report(compare_csv(tmp_path / "table.csv"), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', text) == ["results", "runs"]


def test_directories_that_are_gone_are_no_error(comparison, tmp_path):
    moved = dataclasses.replace(comparison, runs=comparison.runs.assign(folder=str(tmp_path / "gone")))
    write_report(moved, tmp_path / "report.html")
    assert 'id="results"' in (tmp_path / "report.html").read_text()


def test_a_comparison_by_dataset_of_one_seed_has_no_conditions(tmp_path):
    for dataset in ("digits", "fmnist"):
        finished_run(tmp_path / dataset, dataset=dataset)
    whole = compare(tmp_path, by="dataset")
    assert (whole.conditions, whole.overall) == ([], None)
    write_report(whole, tmp_path / "report.html")
    assert 'aria-label="Box plots of AUROC. Means: digits' in (tmp_path / "report.html").read_text()


def test_the_report_of_a_run(tmp_path):
    run = finished_run(tmp_path / "run")
    assert write_run_report(run.path) == run.path / "report.html"
    text = (run.path / "report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', text) == ["results", "roc", "scores", "epochs", "evidence", "settings"]
    assert "AUROC (DeLong)" in text
    assert "10.0 (0.0 to 20.0)" in text
    assert "head._target_: metrad.models.heads.AdaCos" in text


def test_the_report_of_a_run_has_the_metrics_of_each_anomalous_class(tmp_path):
    run = finished_run(tmp_path / "run")
    write_run_report(run.path)
    assert "Each anomalous class" not in (run.path / "report.html").read_text()
    entries = {"images": 7, **dict.fromkeys(by_name(), 0.5), "auroc": 0.8765}
    write_json(run.metrics, {**read_json(run.metrics), "per_class": {EVIL: entries, "dent": {**entries, "images": 8}}})
    write_run_report(run.path)
    page = (run.path / "report.html").read_text()
    table = re.search(r"Each anomalous class against all normal images.*?</table>", page, re.DOTALL)[0]
    assert "0.8765" in table
    assert EVIL not in page
    assert re.search(r">8</td>", table)


def with_kinds(run, rates):
    """Give the threshold of ``run`` the detection of each kind of anomaly."""
    metrics = read_json(run.metrics)
    kinds = {name: {"images": 7, "rate": rate, "interval": [0.0, 1.0]} for name, rate in rates.items()}
    metrics["thresholds"][0] |= {"by_kind": kinds, "worst_kind": min(rates, key=rates.get)}
    metrics["per_class"] = {name: {"images": 7, **dict.fromkeys(by_name(), 0.5)} for name in rates}
    write_json(run.metrics, metrics)
    return run


def test_the_report_of_a_run_has_the_detection_of_each_kind_and_names_the_worst(tmp_path):
    run = with_kinds(finished_run(tmp_path / "run"), {EVIL: 0.375, "dent": 0.625})
    page = write_run_report(run.path).read_text()
    table = re.search(r"Detection of each kind of anomaly above each threshold.*?</table>", page, re.DOTALL)[0]
    assert "Found at 5 % false alarms, %" in table
    assert "37.5 (0.0 to 100.0), the worst kind" in table
    assert "62.5 (0.0 to 100.0)<" in table
    assert EVIL not in page
    assert "of each kind of anomaly: metrics.json has it" not in page


def test_the_report_of_an_older_run_of_several_kinds_lacks_the_detection_of_each_alone(tmp_path):
    run = with_kinds(finished_run(tmp_path / "run"), {"cut": 0.5, "dent": 0.625})
    metrics = read_json(run.metrics)
    for name in ("by_kind", "worst_kind"):
        del metrics["thresholds"][0][name]
    write_json(run.metrics, metrics)
    page = write_run_report(run.path).read_text()
    assert page.count("This run has no detection of each kind of anomaly: metrics.json has it since metrad 0.2.") == 1
    assert page.count("This run has no") == 1
    assert "10.0 (0.0 to 20.0)" in page


def test_the_report_of_a_run_names_the_rates_that_its_calibration_images_are_too_few_for(tmp_path):
    run = finished_run(tmp_path / "run")
    write_json(run.metrics, {**read_json(run.metrics), "sizes": {"calibration": 40}})
    page = write_run_report(run.path).read_text()
    line = "No figures at 1 % false alarms: a threshold for it takes 99 calibration images, and there are 40."
    assert page.count(line) == 1
    assert page.count("No figures at") == 1


CURVE = {"images": 20, "draws": 10, "auroc": 0.75, "auroc_low": 0.5, "auroc_high": 1.0}
LAST = {"images": 200, "draws": 1, "auroc": 0.875, "auroc_low": 0.875, "auroc_high": 0.875}


def with_curve(run, rows, name="scorer=lof"):
    folder = Run(run.evaluations / name)
    folder.path.mkdir(parents=True)
    write_rows(folder.good_images, rows)
    return folder


def test_the_report_of_a_run_has_the_curves_of_its_evaluations_over_the_number_of_good_images(tmp_path):
    run = finished_run(tmp_path / "run")
    with_curve(run, [CURVE, LAST], EVIL.replace("/", ""))
    more = {f"{name}_at_0.05{end}": 0.5 for name in ("false_alarms", "detected") for end in ("", "_low", "_high")}
    with_curve(run, [{**CURVE, **more}, {**LAST, **more}])
    page = write_run_report(run.path).read_text()
    (section,) = re.findall(r'<section id="good_images".*?</section>', page, re.DOTALL)
    assert (section.count("<svg "), section.count("<table")) == (2, 2)
    assert "0.750 (0.500 to 1.000)" in section
    assert "threshold for 5 % false alarms" in section
    assert 'id="good_images"' not in write_run_report(finished_run(tmp_path / "other").path).read_text()


@pytest.mark.parametrize(
    "changes",
    [{"images": 0}, {"auroc": 2}, {"auroc_low": ""}, {"images": "many"}, {"false_alarms_at_x": 0.5}, {"draws": 0}],
    ids=str,
)
def test_a_broken_curve_is_refused(changes, tmp_path):
    run = finished_run(tmp_path / "run")
    with_curve(run, [{**CURVE, **changes}])
    with pytest.raises(InputError, match=r"good_images\.csv"):
        write_run_report(run.path)


def test_the_hardest_images_are_named_beside_the_picture_of_a_run(tmp_path):
    run = finished_run(tmp_path / "run")
    write_run_report(run.path)
    page = (run.path / "report.html").read_text()
    evidence = page[page.index('<section id="evidence"') : page.index('<section id="settings"')]
    assert "<details>" not in evidence
    names = re.findall(r"<th scope=row[^>]*>(\d+)&lt;script", evidence)
    expected = hardest(scores_of(run), 8)["image"].str.removesuffix(EVIL).tolist()
    assert names == expected
    assert len(names) == 16


@pytest.mark.parametrize("lacking", ["scores.csv", "epochs.csv", "environment.json", "hardest.png"])
def test_the_report_of_a_run_that_kept_less(tmp_path, lacking):
    run = finished_run(tmp_path / "run")
    (run.path / lacking).unlink()
    assert write_run_report(run.path, tmp_path / "r.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.csv", "image,score\n1,2\n"),
        ("scores.csv", "no,scores\n1,2\n"),
        ("scores.csv", "image,class,role,score,p_value,nearest\na,b,test_normal,nan,,n\na,b,test_anomalous,1,,n\n"),
        ("scores.csv", "image,class,role,score,p_value,nearest\na,b,test_normal,1,,n\n"),
        ("scores.csv", "\x00\xff"),
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.json", '{"auroc": 1}'),
        ("epochs.csv", "epoch,loss\na,b\n"),
        ("hardest.png", "no picture"),
        ("environment.json", "{"),
        (".hydra/config.yaml", "a: [1"),
    ],
)
def test_a_broken_file_is_told_and_no_half_report_left(tmp_path, name, content):
    run = finished_run(tmp_path / "run")
    (run.path / name).write_text(content, encoding="latin-1")
    before = set(run.path.rglob("*"))
    with pytest.raises(InputError, match=re.escape(str(run.path / name))):
        write_run_report(run.path)
    assert set(run.path.rglob("*")) == before


def test_where_it_cannot_be_written_is_told(tmp_path):
    run = finished_run(tmp_path / "run")
    with pytest.raises(WriteError, match=r"nowhere/r\.html cannot be written"):
        write_run_report(run.path, tmp_path / "nowhere/r.html")


def test_a_sweep_is_sent_to_compare(tmp_path):
    finished_run(tmp_path / "run")
    (tmp_path / "multirun.yaml").touch()
    with pytest.raises(InputError, match="is a sweep; make its report by: metrad compare "):
        write_run_report(tmp_path)


def test_a_folder_of_runs_that_is_no_sweep_asks_for_one_of_them(tmp_path):
    finished_run(tmp_path / "one run")
    with pytest.raises(InputError, match=r"holds a run; name one, as in: metrad report '.*/one run'"):
        write_run_report(tmp_path)
    finished_run(tmp_path / "two")
    with pytest.raises(InputError, match=r"holds 2 runs; name one, as in: metrad report .*/two;"):
        write_run_report(tmp_path)


def test_a_run_that_is_not_finished_has_no_report(tmp_path):
    run = finished_run(tmp_path / "run")
    run.status.write_text('{"state": "failed"}')
    with pytest.raises(InputError, match="failed, not finished"):
        write_run_report(run.path)


def test_an_error_while_writing_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(html, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(path, "title", [], [])
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_the_templates_are_part_of_the_package():
    folder = resources.files("metrad.reports.page") / "templates"
    names = {f"{page}.{kind}" for page in ("report", "batch") for kind in ("html.j2", "css", "js")}
    assert {each.name for each in folder.iterdir()} == names


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 0), (3, 1), (5, 2)])
def test_the_median_run_is_the_middle_one(tmp_path, count, expected):
    folders = [tmp_path / str(i) for i in range(count)]
    for folder in folders:
        folder.mkdir()
    shuffled = np.random.default_rng(0).permutation(count)
    rows = pd.DataFrame({"head": "a", "auroc": shuffled / 10, "folder": [str(folders[i]) for i in shuffled]})
    (cell,) = cells(rows, "head", [], "auroc")
    assert cell.median.path == folders[expected]


def test_cells_keep_conditions_apart_and_leave_unfinished_runs_out():
    rows = pd.DataFrame(
        {
            "head": list("aabb"),
            "dataset": list("xyxx"),
            "image_size": 32,
            "folder": "",
            "auroc": [0.1, 0.2, 0.3, math.nan],
        }
    )
    found = cells(rows, "head", ["dataset", "image_size"], "auroc")
    assert [(cell.condition, cell.choice, len(cell.rows)) for cell in found] == [
        ("x, image_size=32", "a", 1),
        ("y, image_size=32", "a", 1),
        ("x, image_size=32", "b", 1),
    ]
    assert [cell.median for cell in found] == [None] * 3


def test_the_band_of_curves():
    perfect, wrong = scores([1, 2], [3, 4]), scores([3, 4], [1, 2])
    assert (band([perfect]).mean == 1).all()
    both = band([perfect, wrong])
    assert (both.runs, both.mean[0], both.mean[-1]) == (2, 0.5, 1.0)
    assert (both.low[RATES < 1] == 0).all()
    assert (both.high == 1).all()


def test_a_curve_is_what_thresholds_reach():
    random = np.random.default_rng(0)
    own = scores(random.integers(0, 5, 30), random.integers(2, 7, 20))
    curve = band([own]).mean
    for rate, reached in zip(RATES[::10], curve[::10], strict=True):
        best = 0.0
        for threshold in (-1, *sorted(set(own["score"]))):
            above = own["score"] > threshold
            if above[~own["anomalous"]].mean() <= rate:
                best = max(best, above[own["anomalous"]].mean())
        assert reached == pytest.approx(best)


def test_the_hardest_images():
    found = hardest(scores([1, 5, 3], [2, 9, 4]), 2)
    assert found["score"].tolist() == [5, 3, 2, 4]


def test_hardest_images_of_one_score_are_in_the_order_of_the_picture():
    found = hardest(scores([5, 5, 5], [2, 2, 4]), 2)
    order = np.array([5, 5, 5, 2, 2, 4]).argsort(kind="stable")
    assert found.index.tolist() == [*order[order < 3][::-1][:2], *order[order > 2][:2]]


def test_epochs_are_those_the_run_noted(tmp_path):
    run = finished_run(tmp_path / "run")
    assert history_of(run)["epoch"].tolist() == [1, 2, 3]


def test_runs_without_scores_or_log_have_none(tmp_path):
    assert scores_of(Run(tmp_path)) is None
    assert history_of(Run(tmp_path)) is None
    assert evidence_of(Run(tmp_path), 1) is None


def test_many_panels_are_made_smaller(tmp_path, monkeypatch):
    run = finished_run(tmp_path / "run", size=(600, 1500))
    alone = evidence_of(run, 1)
    monkeypatch.setattr(cells_module, "EVIDENCE_BYTES", 400_000)
    assert len(evidence_of(run, 4)) < len(alone) / 2
    monkeypatch.setattr(cells_module, "EVIDENCE_BYTES", len(alone))
    assert len(evidence_of(run, 1)) == len(alone) > len(evidence_of(run, 2))
    assert alone.startswith("data:image/webp;base64,")


def test_settings_in_common_and_apart():
    one = flat({"seed": 0, "head": {"margin": 0.3, "x": None}, "list": [1, 2]})
    assert one == {"seed": "0", "head.margin": "0.3", "head.x": "null", "list": "[1, 2]"}
    other = flat({"seed": 1, "head": {"margin": 0.5}, "list": [1, 2]})
    assert common([one, other]) == ({"list": "[1, 2]"}, ["seed", "head.margin", "head.x"])
    shared, apart = settings_tables([("a", "0", one), ("b", "1", other), ("b", "2", other)], "Settings")
    assert shared == {"list": "[1, 2]"}
    assert [[entry.text for entry in row] for row in apart.rows] == [
        ["a (seed 0)", "0.3", "null"],
        ["b (seed 1, 2)", "0.5", "–"],
    ]
    assert settings_tables([("a", "0", one), ("a", "1", one)], "Settings") == (one, None)


def test_figures_in_a_table_are_short_and_sort_by_their_value():
    frame = pd.DataFrame(
        {
            "head": ["a", "b"],
            "mean": [0.98765, math.nan],
            "low": [0.9, math.nan],
            "high": [1.0, math.nan],
            "p": [0.0001, 0.04],
            "seconds": [12.34, 1234.5],
            "detectable": [math.inf, 0.1],
        }
    )
    written = table("caption", frame)
    assert written.columns[:3] == ["Head", "Mean", "Interval of the mean"]
    assert [entry.text for entry in written.rows[0]] == ["a", "0.9877", "0.9000 to 1.0000", "< 0.001", "12.3", "none"]
    assert [entry.text for entry in written.rows[1]] == ["b", "–", "–", "0.040", "1,234", "0.1000"]
    assert [entry.number for entry in written.rows[0]] == [None, 0.98765, 0.9, 0.0001, 12.34, math.inf]
    assert written.numeric == [False, True, True, True, True, True]


def test_no_detectable_difference_sorts_above_all_others_and_is_called_as_elsewhere(tmp_path):
    frame = pd.DataFrame({"head": ["a", "b", "c"], "detectable": [math.inf, 0.1, math.nan]})
    group = Group("Differences", tables=[table("caption", frame)])
    write_page(tmp_path / "report.html", "title", [], [Section("results", "Results", "", [group])])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td class="number" data-number="Infinity">none</td>' in page
    assert '<td class="number" data-number="0.1">0.1000</td>' in page
    assert '<td class="number">–</td>' in page
    assert comparison_tables.formatted(frame)["detectable"].tolist() == ["none", "0.1000", "-"]


def test_a_figure_takes_its_colours_from_the_page():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], **style(0))
    axes.set_title(f"{EVIL} id='x'", parse_math=False)
    text = svg(figure, "f7")
    assert "var(--c0)" in text
    assert "currentColor" in text
    assert "#000000" not in text
    assert "<style" not in text
    assert EVIL not in text
    assert all(name.startswith("f7-") for name in re.findall(r'\bid="([^"]*)"', text))


def test_choices_look_different():
    looks = {tuple(style(number).values()) for number in range(28)}
    assert len(looks) == 28


def test_names_with_dollars_are_no_formulas(tmp_path):
    heads = ("$a_b$ and a name that is far too long for a legend", "$\\x")
    write_report(sweep(tmp_path, heads=heads, datasets=("$y_$",), seeds=(0, 1)), tmp_path / "report.html")
    assert "$a_b$ and a name that is far" in (tmp_path / "report.html").read_text()


@pytest.mark.long
def test_more_heads_than_colours(tmp_path):
    heads = tuple(f"head {number}" for number in range(9))
    write_report(sweep(tmp_path, heads=heads, datasets=("digits",), seeds=(0, 1)), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def studied(folder, values, **kind):
    run = finished_run(folder, **kind)
    rows = [{"epoch": i, "auroc": value, "effective_rank": 10 - i, "loss": None} for i, value in enumerate(values)]
    write_rows(run.study, rows)
    return run


def test_runs_that_were_studied_show_it_epoch_by_epoch(tmp_path):
    for seed, values in enumerate(((0.5, 0.9, 0.7), (0.5, 0.7, 0.9))):
        studied(tmp_path / f"a{seed}", values, seed=seed)
        studied(tmp_path / f"b{seed}", values[::-1], seed=seed, head="ArcFace")
        finished_run(tmp_path / f"c{seed}", seed=seed, head="Softmax")
    whole = compare(tmp_path)
    write_report(whole, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', text)[4:6] == ["epochs", "study"]
    assert "First and last means: AdaCos 0.500 to 0.800; ArcFace 0.800 to 0.500." in text
    assert comparison_tables._studies(whole).keys() == {"study"}
    assert {"study.svg", "study.png"} <= {path.name for path in comparison_tables.write(whole, tmp_path / "out")}


def test_a_study_is_drawn_as_the_mean_over_seeds_in_a_band_of_all():
    tables = [pd.DataFrame({"epoch": [0, 1], "auroc": [0.5, value], "effective_rank": [3, 2]}) for value in (0.6, 0.8)]
    figure = study({"one": {"a": tables}, "two": {"a": tables, "b": tables[:1]}})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [(axes.get_title(), axes.get_ylabel()) for axes in shown] == [
        ("one", "AUROC"),
        ("two", "AUROC"),
        ("", "effective rank"),
        ("", "effective rank"),
    ]
    np.testing.assert_allclose(shown[0].get_lines()[0].get_ydata(), [0.5, 0.7])
    band = shown[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.5, 0.8)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_a_study_of_which_nothing_could_be_measured_is_no_error(tmp_path):
    run = studied(tmp_path / "run", (math.nan, math.nan))
    assert write_run_report(run.path).stat().st_size > 10_000


@pytest.mark.parametrize("content", ["epoch,auroc\na,b\n", "epoch,auroc\n0,1\n", ""])
def test_a_broken_study_is_told(tmp_path, content):
    run = studied(tmp_path / "run", (0.5,))
    run.study.write_text(content)
    with pytest.raises(InputError, match=r"study\.csv (cannot be read|holds no study)"):
        write_run_report(run.path)


@pytest.mark.parametrize("spread", [0.2, 1, 2.5], ids=["linear", "two decades", "five decades"])
def test_nothing_of_a_small_histogram_lies_over_anything_else(spread):
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.lognormal(-4, spread, 60), rng.lognormal(-3, spread, 100)])
    figure = page_plots.smaller(plots.histogram(scores, np.arange(160) >= 60, 0.9, {0.01: 0.02, 0.05: 0.01}))
    FigureCanvasAgg(figure).draw()
    (axes,), (legend,) = figure.axes, figure.legends
    label = axes.xaxis.label.get_window_extent()
    low, high = axes.get_xlim()
    ticks = [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    places = [text.get_window_extent() for text in ticks if text.get_text()]
    assert legend.get_window_extent().y1 <= label.y0
    assert label.y1 <= min(place.y0 for place in places)
    assert len(places) > 1
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(places))
