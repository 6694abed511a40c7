"""Whether reference classes that stand in for anomalies rank recipes as the anomalies themselves do.

Takes a sweep of runs with ``selection=pseudo_anomaly selection.apply=false study.epochs=true``: each has the mean AUROC
over the classes held out, and the AUROC of its test images, after every epoch by every scorer. A recipe is one epoch,
one scorer and one choice of what the runs of the sweep differ in; its figures are means over the seeds.

The interval of Spearman's correlation is a bootstrap over the recipes. Recipes of one training are alike, so it is
narrower than that of recipes drawn anew would be. The last line tells what choosing by the classes held out costs: the
test AUROC of the recipe that they prefer, beside the best and the median one. **These are test figures**: the study is
about the choice and makes none.

    python benchmarks/pseudo_anomaly.py multirun/NAME [--out FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _measure import table
from matplotlib.figure import Figure
from scipy.stats import bootstrap, spearmanr

from metrad.app.build import OWN_SCORER
from metrad.errors import InputError
from metrad.evaluation import plots
from metrad.reports.comparison.input import read_sweep
from metrad.runs.directory import Run


def of_run(run: Run) -> pd.DataFrame:
    """Return a row for each epoch and scorer: the mean over the classes held out, and the test images' AUROC."""
    held_out = pd.read_csv(run.selection_table).groupby(["epoch", "scorer"])["auroc"].mean().rename("held_out")
    columns = pd.read_csv(run.study).set_index("epoch").filter(like="auroc")
    columns.columns = [name.removeprefix("auroc ").replace("auroc", OWN_SCORER) for name in columns.columns]
    studied = columns.reset_index().melt("epoch", var_name="scorer", value_name="test")
    return held_out.reset_index().merge(studied, on=["epoch", "scorer"])


def gathered(folder: Path, by: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of all finished runs, and the columns that tell a recipe apart within a dataset."""
    found = read_sweep(folder, by)
    keys = [key for key in (*found.conditions, by) if key != "dataset"]
    parts = []
    for row in found.runs[found.runs["state"] == "finished"].to_dict("records"):
        parts.append(
            of_run(Run(row["folder"])).assign(
                seed=row["seed"], dataset=row.get("dataset", ""), **{k: row[k] for k in keys}
            )
        )
    return pd.concat(parts, ignore_index=True), [*keys, "epoch", "scorer"]


def correlation(recipes: pd.DataFrame, seed: int = 0) -> tuple[float, float, float]:
    """Return Spearman's correlation of the two AUROCs over recipes, and its 95 % interval."""
    pair = recipes["held_out"].to_numpy(), recipes["test"].to_numpy()
    found = bootstrap(
        pair,
        lambda a, b: spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    ends = found.confidence_interval
    return float(spearmanr(*pair).statistic), float(ends.low), float(ends.high)


def picture(datasets: dict[str, pd.DataFrame]) -> Figure:
    """Draw each recipe by its two AUROCs, a panel a dataset."""
    figure = Figure(figsize=(5 * len(datasets), 4.4), layout="constrained")
    for axes, (name, recipes) in zip(np.ravel(figure.subplots(1, len(datasets))), datasets.items(), strict=True):
        for number, (scorer, rows) in enumerate(recipes.groupby("scorer")):
            axes.scatter(rows["held_out"], rows["test"], color=plots.style(number)["color"], label=str(scorer), s=18)
        axes.set(title=name, xlabel="mean AUROC of the classes held out", ylabel="AUROC of the test images")
        axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Print a table of recipes and the correlation for each dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--by", default="head", help="what the runs differ in, beside what else was swept over")
    parser.add_argument("--out", type=Path, help="folder for recipes.csv and recipes.png")
    chosen = parser.parse_args()
    try:
        rows, keys = gathered(chosen.sweep, chosen.by)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    datasets = {}
    for name, of_dataset in rows.groupby("dataset"):
        recipes = of_dataset.groupby(keys, sort=False)[["held_out", "test"]].mean().reset_index()
        datasets[str(name)] = recipes = recipes.sort_values("held_out", ascending=False)
        rho, low, high = correlation(recipes)
        print(f"\n{name}: {len(recipes)} recipes, {of_dataset['seed'].nunique()} seeds")
        print(
            table(
                [*keys, "held out", "test"],
                [[*map(str, row[:-2]), *(f"{x:.4f}" for x in row[-2:])] for row in recipes.to_numpy()],
            )
        )
        print(f"Spearman {rho:.2f} (95 %: {low:.2f} to {high:.2f})")
        test = recipes["test"]
        print(f"chosen by the classes held out: {test.iloc[0]:.4f}; best {test.max():.4f}, median {test.median():.4f}")
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        rows.to_csv(chosen.out / "recipes.csv", index=False, float_format="%.6f")
        picture(datasets).savefig(chosen.out / "recipes.png")


if __name__ == "__main__":
    main()
