"""Comparisons over many conditions, such as all pairs of classes: one table, one picture a head, the rest folded."""

import re

import numpy as np
import pandas as pd
import pytest

from metrad.reports.comparison import tables as comparison_tables
from metrad.reports.comparison.compare import compare_csv
from metrad.reports.comparison.plots import classes, of_classes, pictures
from metrad.reports.comparison.statistics import MANY
from metrad.reports.report import write_report

HEADER = "head,dataset,dataset.normal,dataset.anomalous,seed,auroc\n"


def table_of(tmp_path, heads=("adacos", "arcface"), datasets=("fmnist",), count=5, skip=()):
    """Compare made-up figures over all pairs of ``count`` classes, of which arcface is 0.01 behind in each."""
    generator, lines = np.random.default_rng(0), []
    for dataset in datasets:
        for a, b in ((a, b) for a in range(count) for b in range(count) if a != b):
            auroc = generator.uniform(0.6, 0.9)
            for i, head in enumerate(heads):
                if (head, a, b) not in skip:
                    lines.append(f"{head},{dataset},{a},{b},0,{auroc - 0.01 * i:.6f}\n")
    file = tmp_path / "figures.csv"
    file.write_text(HEADER + "".join(lines))
    return compare_csv(file)


def test_a_row_is_a_pair_and_a_column_a_head(tmp_path):
    result = table_of(tmp_path)
    table = result.by_condition
    assert list(table) == ["dataset", "dataset.normal", "dataset.anomalous", "adacos", "arcface"]
    assert len(table) == 20 > MANY
    assert result.many
    np.testing.assert_allclose(table["adacos"] - table["arcface"], 0.01, atol=1e-9)
    runs = result.runs.set_index(["head", "dataset.normal", "dataset.anomalous"])["auroc"]
    assert table.set_index(["dataset.normal", "dataset.anomalous"])["arcface"]["3", "1"] == runs["arcface", "3", "1"]


def test_pairs_of_one_dataset_are_one_block_over_which_nothing_is_tested(tmp_path):
    for heads in (("adacos", "arcface"), ("a", "b", "c")):
        result = table_of(tmp_path, heads=heads)
        assert (result.overall, result.wilcoxon_p, result.friedman_p) == (None, None, None)
        notes = " ".join(result.notes)
        assert "All 20 conditions share images or draw them from one pool, so they are one block." in notes
        assert "nan" not in notes


def test_pairs_of_several_datasets_are_averaged_by_dataset(tmp_path):
    result = table_of(tmp_path, datasets=[f"d{i}" for i in range(6)], count=3)
    assert (result.averaged, result.ranked) == (36, 6)
    assert result.wilcoxon_p == pytest.approx(2 / 2**6)
    notes = " ".join(result.notes)
    assert "Conditions that share images are one block and are averaged: 36 conditions make 6 blocks." in notes
    assert "Wilcoxon's signed-rank test over the blocks shows that they differ (p = 0.031)." in notes
    three = table_of(tmp_path, heads=("a", "b", "c"), datasets=[f"d{i}" for i in range(3)], count=3)
    assert three.wilcoxon_p is None
    assert three.friedman_p == pytest.approx(1 / 36)


def test_the_terminal_gets_the_means_and_not_every_row(tmp_path):
    result = table_of(tmp_path, skip={("adacos", 0, 1)})
    text = comparison_tables.report(result)
    assert "summary and pairs, a row a condition and more: in the files" in text
    assert len(text.splitlines()) < 20 + 25  # in all there are 60 rows
    means = result.by_condition[result.compared].dropna().mean()
    assert re.search(rf"mean of 19\s+{means.iloc[0]:.4f}\s+{means.iloc[1]:.4f}", text)
    few = comparison_tables.report(table_of(tmp_path, count=3))
    assert "mean of" not in few
    assert "in the files" not in few


def test_the_files_have_everything_the_long_tables_folded(tmp_path):
    result = table_of(tmp_path)
    files = {file.name: file for file in comparison_tables.write(result, tmp_path / "out")}
    assert {"classes.svg", "differences.svg"} <= set(files)
    assert "seeds.svg" not in files
    table = pd.read_csv(files["comparison.csv"])
    assert table["table"].value_counts().to_dict() == {"summary": 40, "pairs": 20, "conditions": 21}
    markdown = files["comparison.md"].read_text()
    assert markdown.count("<details>") == markdown.count("</details>") == 2
    assert markdown.index("## Conditions") < markdown.index("<details>")


def test_classes_stand_in_the_order_of_their_numbers_with_a_hole_on_the_diagonal(tmp_path):
    panels = of_classes(table_of(tmp_path, datasets=("mnist", "fmnist"), count=11))
    assert list(panels) == ["adacos, mnist", "arcface, mnist", "adacos, fmnist", "arcface, fmnist"]
    for table in panels.values():
        assert list(table.index) == list(table.columns) == [str(i) for i in range(11)]
        assert np.isnan(np.diag(table)).all()
        assert np.isnan(table.to_numpy()).sum() == 11


def test_each_cell_has_its_figure(tmp_path):
    panels = of_classes(table_of(tmp_path, count=4))
    figure = classes(panels, "auroc")
    for axes, table in zip(figure.axes, panels.values(), strict=True):
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert len(written) == 12
        assert written[0.5, 2.5] == f"{table.loc['2', '0']:.2f}".removeprefix("0")
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("anomalous class", "normal class")
    assert "from 0.5 (dark) to 1 (light)" in figure.get_suptitle()
    assert "from 0 (dark)" in classes(panels, "fpr_at_95_tpr").get_suptitle()


def test_more_than_twelve_classes_are_colours_alone(tmp_path):
    (panel, _) = classes(of_classes(table_of(tmp_path, count=13)), "auroc").axes
    assert list(panel.texts) == []


@pytest.mark.parametrize("column", ["dataset.normal", "dataset.anomalous"])
def test_without_pairs_of_classes_there_is_no_such_picture(tmp_path, column):
    result = table_of(tmp_path)
    file = tmp_path / "figures.csv"
    pd.read_csv(file).drop(columns=column).assign(seed=range(40)).to_csv(file, index=False)
    assert of_classes(compare_csv(file, unpaired=True)) == {}
    assert "classes" in pictures(result)


def test_the_report_folds_what_is_long(tmp_path):
    result = table_of(tmp_path, count=9)
    write_report(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', page) == ["results", "runs"]
    assert "Best mean AUROC over 72 conditions: adacos" in page
    assert page.count("<svg ") == 2  # a picture by class for each head
    assert "AUROC by normal and anomalous class, arcface, fmnist: 0." in page
    for folded in ("AUROC over runs", "Differences in AUROC", "Finished runs"):
        assert re.search(rf"<summary>{folded}[^<]*: \d+ rows</summary>", page), folded
    assert "<caption><span>Mean AUROC over runs: a row a condition</span></caption>" in page
    assert page.index("a row a condition") < page.index("<details>")
