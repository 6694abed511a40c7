"""The article's benchmark beside the article's own figures.

Takes the sweep of ``experiment=benchmark study.epochs=true``, finished or not, and writes what is published of it: a
row a run (runs.csv), a row an epoch of each run (study.csv), and box plots in the article's form, a box for what the
article printed and one for what was measured here (beside.png). It prints the medians of both.

The article's figures are docs/results/origin/origin.csv: ten repeats a head and dataset. It did not measure softmax,
nor the features as the weights come (frozen).

    python benchmarks/article.py multirun/NAME [--out FOLDER]
"""

import argparse
from pathlib import Path

import pandas as pd
from _measure import table
from matplotlib.figure import Figure

from metrad.errors import InputError
from metrad.evaluation import plots
from metrad.files import read_json
from metrad.reports.comparison.input import FROZEN, read_sweep
from metrad.reports.comparison.plots import boxes
from metrad.runs.directory import Run

ORIGIN = Path(__file__).parents[1] / "docs" / "results" / "origin" / "origin.csv"
HEADS = ["l2_softmax", "arcface", "adacos", "softmax", FROZEN]
TITLES = {"fmnist": "Fashion-MNIST, sneaker and ankle boot", "cifar10": "CIFAR-10 (here as JPEGs), deer and horse"}
ARTICLE, HERE = "article", "metrad"
COLUMNS = ["dataset", "head", "seed", "state", "auroc", "average_precision", "fpr_at_95_tpr", "split"]


def gathered(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs, and an epoch a row what the study noted of the finished ones."""
    found = read_sweep(folder, "head").runs
    found["dataset"] = found["dataset"].str.removesuffix("_folder")
    finished = found["state"] == "finished"
    runs = found["folder"].map(Run)
    found.loc[finished, "split"] = [read_json(run.metrics)["split"] for run in runs[finished]]
    studies = [
        pd.read_csv(run.study).assign(dataset=row.dataset, head=row.head, seed=row.seed)
        for run, row in zip(runs, found.itertuples(), strict=True)
        if row.state == "finished" and run.study.is_file()
    ]
    order = ["dataset", "head", "seed"]
    if not studies:
        raise InputError(f"no finished run in {folder} has a study; study.epochs=true makes one")
    epochs = pd.concat(studies)[[*order, "epoch", "auroc", "effective_rank", "accuracy", "loss"]]
    return found[COLUMNS].sort_values(order), epochs.sort_values([*order, "epoch"])


def beside(figures: pd.DataFrame) -> Figure:
    """Draw the AUROCs in ``figures`` by head, a panel a dataset, the article's on the left of metrad's."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (dataset, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
        members = figures[figures["dataset"] == dataset]
        for number, source in enumerate((ARTICLE, HERE)):
            colour = plots.style(number)["color"]
            own = members[members["measured"] == source]
            groups = [own.loc[own["head"] == head, "auroc"] for head in HEADS]
            boxes(axes, groups, shift=0.4 * number - 0.2, share=0.64, colour=colour)
            axes.plot([], [], "o", color=colour, label=f"{source}, {_runs(own)}")
        axes.set_xticks(range(1, len(HEADS) + 1), HEADS)
        axes.set(title=title, ylabel="AUROC")
        axes.grid(axis="y", color="0.9")
        axes.legend(frameon=False, fontsize=9)
    return figure


def _runs(own: pd.DataFrame) -> str:
    counts = sorted(set(own.groupby("head").size()))
    return f"{' or '.join(map(str, counts)) or 'no'} runs a head"


def medians(figures: pd.DataFrame) -> list[list[object]]:
    """Return a row for each dataset and head: runs and median of the article and of metrad, and metrad's range."""
    rows: list[list[object]] = []
    for dataset in TITLES:
        for head in HEADS:
            members = figures[(figures["dataset"] == dataset) & (figures["head"] == head)]
            cells = []
            for source in (ARTICLE, HERE):
                values = members.loc[members["measured"] == source, "auroc"]
                cells += [len(values), f"{values.median():.4f}" if len(values) else ""]
            span = f"{values.min():.4f} to {values.max():.4f}" if len(values) else ""
            rows.append([dataset, head, *cells, span])
    return rows


def main() -> None:
    """Print the medians and write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, help="folder for runs.csv, study.csv and beside.png")
    chosen = parser.parse_args()
    try:
        runs, epochs = gathered(chosen.sweep)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    here = runs[runs["state"] == "finished"].assign(measured=HERE)
    figures = pd.concat([pd.read_csv(ORIGIN).assign(measured=ARTICLE), here])
    print(table(["dataset", "head", "article: runs", "median", "metrad: runs", "median", "range"], medians(figures)))
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        runs.to_csv(chosen.out / "runs.csv", index=False, float_format="%.6f")
        epochs.to_csv(chosen.out / "study.csv", index=False, float_format="%.6f")
        beside(figures).savefig(chosen.out / "beside.png", dpi=150)


if __name__ == "__main__":
    main()
