"""The reports that commands write: of a trained run, of a sweep, of a CSV."""

import os
import subprocess
import sys

import pytest

from tests.helpers.runs import finished_run, sweep

TABLE = "head,seed,auroc\na,0,0.9\na,1,0.8\nb,0,0.7\nb,1,0.6\n"


def test_the_report_of_a_trained_run(metrad, finished_run, tmp_path):
    result = metrad("report", finished_run.path, "--out", tmp_path / "own.html")
    assert (result.code, result.out, result.err) == (0, "report: own.html\n", "")
    text = (tmp_path / "own.html").read_text()
    for section in ("results", "roc", "scores", "epochs", "evidence", "settings"):
        assert f'<section id="{section}"' in text


def test_a_comparison_ends_in_a_report(metrad, tmp_path):
    sweep(tmp_path / "sweep", seeds=(0, 1))
    result = metrad("compare", "sweep")
    assert (result.code, result.err) == (0, "")
    assert "report.html)" in result.out
    assert '<section id="evidence"' in (tmp_path / "sweep/comparison/report.html").read_text()


def test_a_csv_has_a_report_too(metrad, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    assert metrad("compare", "--csv", "table.csv").code == 0
    assert '<section id="results"' in (tmp_path / "table-comparison/report.html").read_text()


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    reader, writer = os.pipe()
    os.close(reader)  # as after `| head`
    command = [sys.executable, "-c", "from metrad.app.cli import main; main()", "compare", "--csv", table]
    with os.fdopen(writer) as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert (tmp_path / "table-comparison/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ("nowhere is not a run directory",)),
        (["sweep"], ("metrad compare sweep",)),
        (["sweep/run", "--out", "no/folder/r.html"], ("no/folder/r.html", "cannot be written")),
        (["sweep/run", "--out", "sweep"], ("sweep cannot be written",)),
    ],
)
def test_what_cannot_be_reported_is_told_in_a_line(refused, tmp_path, arguments, words):
    finished_run(tmp_path / "sweep/run")
    refused("report", *arguments, words=words)


def test_a_broken_run_leaves_the_old_report_of_the_sweep(metrad, refused, tmp_path):
    sweep(tmp_path / "sweep", seeds=(0, 1))
    report = tmp_path / "sweep/comparison/report.html"
    assert metrad("compare", "sweep").code == 0
    before = report.read_bytes()
    (tmp_path / "sweep/0-digits-0/scores.csv").write_text("broken")
    refused("compare", "sweep", words=("0-digits-0/scores.csv",))
    assert report.read_bytes() == before
