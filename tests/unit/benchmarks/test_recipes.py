"""The comparison of two recipes over pairs of classes, on made-up runs."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, wilcoxon
from sklearn.metrics import roc_auc_score

from metrad.evaluation.intervals import delong_variance
from metrad.evaluation.metrics import by_name
from metrad.files import write_json
from tests.helpers.runs import Sweep

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "recipes.py"
PAIRS = [(0, 1), (2, 3), (5, 6)]
ANOMALOUS = np.arange(40) % 3 == 0


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["recipes.py", *map(str, arguments)])
        return runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


@pytest.fixture
def made(tmp_path):
    """Return a sweep of two recipes over three pairs, and the scores by recipe and pair."""
    generator, sweep, scores = np.random.default_rng(0), Sweep(tmp_path / "sweep"), {}
    for number, pair in enumerate(PAIRS):
        for recipe, gap in (("article", 0.5), ("contrast", 0.7 + number)):
            values = np.round(generator.normal(size=len(ANOMALOUS)) + gap * ANOMALOUS, 1)  # with ties
            settings = [f"experiment={recipe}", f"dataset.normal={pair[0]}", f"dataset.anomalous={pair[1]}", "seed=0"]
            auroc = roc_auc_score(ANOMALOUS, values)
            run = sweep.add(settings, auroc, metrics={"split": f"images of {pair}"})
            role = np.where(ANOMALOUS, "test_anomalous", "test_normal")
            table = pd.DataFrame({"image": [f"test/{i}" for i in range(40)], "role": role, "score": values})
            table.sample(frac=1, random_state=number + len(recipe)).to_csv(run.scores, index=False)
            scores[recipe, pair] = values
    return sweep, scores


def kernel(scores):
    """Return whether each anomalous image (rows) is above each normal one (columns), ties by half."""
    odd, normal = scores[ANOMALOUS][:, None], scores[~ANOMALOUS]
    return (odd > normal) + 0.5 * (odd == normal)


def test_each_pair_has_its_difference_with_delongs_interval(script, made, tmp_path, capsys):
    sweep, scores = made
    script(sweep.path, "--out", tmp_path / "a" / "pairs.csv")
    table = pd.read_csv(tmp_path / "a" / "pairs.csv")
    gains = []
    for row in table.itertuples():
        pair = row._1, row._2
        apart = kernel(scores["contrast", pair]) - kernel(scores["article", pair])
        variance = sum(apart.mean(axis).var(ddof=1) / apart.shape[1 - axis] for axis in (0, 1))
        assert row.difference == pytest.approx(row.contrast - row.article, abs=2e-6)
        assert row.difference == pytest.approx(apart.mean(), abs=1e-6)
        assert row.high - row.difference == pytest.approx(norm.ppf(0.975) * np.sqrt(variance), abs=2e-6)
        assert row.difference - row.low == pytest.approx(row.high - row.difference, abs=2e-6)
        gains.append(apart.mean())
    assert len(gains) == 3
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(
        f"all: {np.mean(gains):+.4f} over 3 pairs, ahead in {sum(gain > 0 for gain in gains)}, 95 %: "
    )
    assert said.endswith(f"p = {wilcoxon(gains).pvalue:.2g}")


def test_against_scores_that_tell_nothing_the_error_is_that_of_one_auroc(script, made):
    sweep, scores = made
    difference = script(sweep.path)["difference"]
    for values in scores.values():
        auroc, variance = delong_variance(values, ANOMALOUS)
        assert difference(np.zeros(40), values, ANOMALOUS) == pytest.approx((auroc - 0.5, np.sqrt(variance)))


def test_a_pair_that_only_one_recipe_finished_is_named(script, made, capsys):
    sweep, _ = made
    sweep.add(["experiment=contrast", "dataset.normal=8", "dataset.anomalous=9", "seed=0"], 0.9)
    script(sweep.path)
    assert "not both finished: 8 9" in capsys.readouterr().out


def test_seeds_are_averaged_before_pairs_are_counted(script, made, capsys):
    sweep, _ = made
    for run in list(sweep.path.iterdir()):
        recipe, normal, anomalous, _ = run.name.split("-")
        settings = [f"experiment={recipe}", f"dataset.normal={normal}", f"dataset.anomalous={anomalous}", "seed=1"]
        twin = sweep.add(settings, 0.9, metrics={"split": f"images of {normal}"})
        shutil.copyfile(run / "scores.csv", twin.scores)
    script(sweep.path)
    said = capsys.readouterr().out
    assert said.count("\n| ") == 7  # the rule, and six rows
    assert "over 3 pairs" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipes=contrast"], "--recipes takes two"),
        (["--recipes=contrast,contrast"], "--recipes takes two"),
        (["--recipes=contrast,other"], "no pair with a finished run of each of contrast, other"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_line(script, made, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        script(made[0].path, *arguments)
    assert words in f"{stop.value}{capsys.readouterr().err}"


def test_other_images_and_other_sweeps_are_refused(script, made, tmp_path):
    sweep, _ = made
    one = next(sweep.path.glob("contrast-0-1-*")) / "metrics.json"
    write_json(one, {**dict.fromkeys(by_name(), 0.9), "split": "others"})
    with pytest.raises(SystemExit, match="used other images"):
        script(sweep.path)
    heads = Sweep(tmp_path / "heads").fill(["adacos", "arcface"], seeds=2)
    with pytest.raises(SystemExit, match="no sweep over recipes and pairs: its runs do not differ in experiment"):
        script(heads.path)
