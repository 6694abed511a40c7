"""The article's benchmark beside the article's figures, on made-up runs."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.helpers.runs import Sweep

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "article.py"


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["article.py", *map(str, arguments)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture
def made(tmp_path):
    sweep = Sweep(tmp_path / "sweep").fill(["adacos", "arcface"], ["fmnist", "cifar10_folder"], seeds=3)
    for folder in sweep.path.iterdir():
        epochs = {"epoch": [0, 1], "auroc": [0.7, 0.8], "average_precision": 0.5, "effective_rank": 9.0}
        pd.DataFrame({**epochs, "accuracy": [None, 0.5], "loss": [None, 1.0]}).to_csv(folder / "study.csv", index=False)
    sweep.add(["head=softmax", "dataset=fmnist", "seed=0"], state="failed", error="no room")
    return sweep.path


def test_medians_of_the_article_and_of_the_sweep_stand_side_by_side(made, tmp_path, monkeypatch, capsys):
    call(monkeypatch, made, "--out", tmp_path / "out")
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    own = runs[(runs["head"] == "adacos") & (runs["dataset"] == "cifar10")]["auroc"]
    origin = pd.read_csv(ROOT / "docs" / "results" / "origin" / "origin.csv")
    theirs = origin[(origin["head"] == "adacos") & (origin["dataset"] == "cifar10")]["auroc"]
    cells = (10, f"{np.median(theirs):.4f}", 3, f"{np.median(own):.4f}", f"{own.min():.4f} to {own.max():.4f}")
    said = capsys.readouterr().out
    assert f"| cifar10 | adacos | {' | '.join(map(str, cells))} |" in said
    assert "| fmnist | softmax | 0 |  | 0 |  |  |" in said
    assert len(runs) == 13
    assert runs["state"].value_counts().to_dict() == {"finished": 12, "failed": 1}
    assert len(pd.read_csv(tmp_path / "out" / "study.csv")) == 24
    with Image.open(tmp_path / "out" / "beside.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize("missing", ["runs", "studies"])
def test_what_is_missing_is_told_in_one_line(missing, made, tmp_path, monkeypatch):
    for study in made.glob("*/study.csv"):
        study.unlink()
    folder, told = {"runs": (tmp_path / "none", "holds no runs"), "studies": (made, "has a study; study.epoch")}[
        missing
    ]
    with pytest.raises(SystemExit, match=f"error: .* {told}"):
        call(monkeypatch, folder)
