"""The study of stand-in anomalies, on made-up runs whose correlation is known."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from tests.helpers.runs import Sweep

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "pseudo_anomaly.py"
SCORERS = ("scorer", "knn_5")


def study(run, held_out, test):
    """Write what a run leaves, of (epochs, scorers) figures; each class held out is off by as much in one direction."""
    places = [(epoch, scorer) for epoch in range(len(test)) for scorer in range(len(SCORERS))]
    rows = [
        {"settings": "as configured", "held_out": name, "epoch": e, "scorer": SCORERS[s], "auroc": held_out[e, s] + off}
        for e, s in places
        for name, off in (("a", 0.01), ("b", -0.01))
    ]
    pd.DataFrame(rows).to_csv(run.selection_table, index=False)
    columns = {"epoch": range(len(test)), "auroc": test[:, 0], "effective_rank": 3.0, "auroc knn_5": test[:, 1]}
    pd.DataFrame(columns).to_csv(run.study, index=False)


@pytest.fixture
def made(tmp_path):
    generator, sweep = np.random.default_rng(0), Sweep(tmp_path / "sweep")
    figures = {}
    for head in ("adacos", "arcface"):
        for seed in range(2):
            held_out = generator.uniform(0.6, 0.9, (3, 2))
            test = held_out / 2 + generator.uniform(0, 0.2, (3, 2))
            study(sweep.add([f"head={head}", f"seed={seed}"], 0.9), held_out, test)
            figures[head, seed] = np.stack([held_out, test])
    return sweep.path, figures


def test_recipes_are_means_over_seeds_and_their_ranks_are_compared(made, tmp_path, monkeypatch, capsys):
    folder, figures = made
    monkeypatch.setattr("sys.argv", ["pseudo_anomaly.py", str(folder), "--out", str(tmp_path / "out")])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr().out
    means = np.stack([(figures[head, 0] + figures[head, 1]) / 2 for head in ("adacos", "arcface")])
    held_out, test = means[:, 0].ravel(), means[:, 1].ravel()
    assert "12 recipes, 2 seeds" in said
    assert f"Spearman {spearmanr(held_out, test).statistic:.2f} (95 %: " in said
    assert f"chosen by the classes held out: {test[held_out.argmax()]:.4f}; best {test.max():.4f}" in said
    first = next(line for line in said.splitlines() if line.startswith("| a") and "---" not in line)
    assert f"{held_out.max():.4f} | {test[held_out.argmax()]:.4f}" in first
    assert len(pd.read_csv(tmp_path / "out" / "recipes.csv")) == 24
    assert (tmp_path / "out" / "recipes.png").stat().st_size > 5000


def test_a_folder_without_runs_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pseudo_anomaly.py", str(tmp_path)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    with pytest.raises(SystemExit, match=r"error: .* holds no runs"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
