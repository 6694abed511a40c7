"""Two recipes over pairs of classes: the difference of their AUROC, on the same test images.

Takes a sweep over ``experiment=ONE,OTHER`` and pairs (``dataset.normal`` and ``dataset.anomalous``; datasets and seeds
too, where they differ). A row is a pair: the AUROC of both recipes, the other less the one, and DeLong's 95 % interval
of that difference (1988, Biometrics 44(3)), which is about new test images. Below stand the mean difference over the
pairs, seeds averaged first, its 95 % bootstrap interval over pairs, and p by the Wilcoxon signed-rank test over them.
Pairs of one dataset share classes, so they are less independent than these two take them for. Pairs that one of the
recipes has not finished are named.

    python benchmarks/recipes.py multirun/NAME --recipes article,contrast [--out FILE.csv]
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _measure import table
from scipy.stats import norm

from metrad.errors import InputError
from metrad.evaluation.intervals import structural_components
from metrad.files import read_json
from metrad.reports.comparison.paired import paired_bootstrap, wilcoxon_p
from metrad.runs.directory import Run
from metrad.sweeps.table import collect

PAIR = ["dataset.normal", "dataset.anomalous"]


def difference(one: np.ndarray, other: np.ndarray, anomalous: np.ndarray) -> tuple[float, float]:
    """Return the AUROC of the scores ``other`` (N,) less that of ``one`` (N,), and DeLong's standard error of it."""
    pairs = zip(structural_components(one, anomalous), structural_components(other, anomalous), strict=True)
    of_anomalous, of_normal = (b - a for a, b in pairs)
    variance = sum(values.var(ddof=1) / len(values) for values in (of_anomalous, of_normal))
    return float(of_anomalous.mean()), float(np.sqrt(variance))


def gathered(folder: Path, recipes: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return a row for each place where both recipes have finished, indexed by it, and the places where one has not.

    Raises:
        InputError: no place has both, or two runs of one place used other images.
    """
    found = pd.DataFrame(collect(folder))
    missing = [key for key in ("experiment", *PAIR) if key not in found]
    if missing:
        raise InputError(f"{folder} is no sweep over recipes and pairs: its runs do not differ in {', '.join(missing)}")
    keys = [key for key in ("dataset", *PAIR, "seed") if key in found]
    rows, holes = {}, []
    for place, members in found.groupby(keys):
        done = members[members["state"] == "finished"].set_index("experiment")["run"]
        if set(recipes) <= set(done.index):
            rows[place] = beside(*(Run(folder / done[recipe]) for recipe in recipes))
        else:
            holes.append(" ".join(map(str, place)))
    if not rows:
        raise InputError(f"{folder} has no pair with a finished run of each of {', '.join(recipes)}")
    index = pd.MultiIndex.from_tuples(rows, names=keys)
    return pd.DataFrame(rows.values(), index, [*recipes, "difference", "low", "high"]), holes


def beside(one: Run, other: Run) -> list[float]:
    """Return the AUROC of two runs, their difference, and its lower and upper end.

    Raises:
        InputError: they used other images.
    """
    figures = [read_json(run.metrics) for run in (one, other)]
    if figures[0]["split"] != figures[1]["split"]:
        raise InputError(f"{one.path.name} and {other.path.name} used other images than each other")
    table_one, table_other = (pd.read_csv(run.scores).set_index("image") for run in (one, other))
    anomalous = (table_one["role"] == "test_anomalous").to_numpy()
    gain, error = difference(table_one["score"].to_numpy(), table_other["score"][table_one.index].to_numpy(), anomalous)
    reach = float(norm.ppf(0.975)) * error
    return [*(each["auroc"] for each in figures), gain, gain - reach, gain + reach]


def told(name: str, gains: np.ndarray) -> str:
    """Return the mean difference over pairs in words, with its interval and p where there are at least two."""
    said = f"{name}: {gains.mean():+.4f} over {len(gains)} pairs, ahead in {(gains > 0).sum()}"
    if len(gains) < 2:
        return said
    low, high = paired_bootstrap(gains)
    return f"{said}, 95 %: {low:+.4f} to {high:+.4f}, p = {wilcoxon_p(gains):.2g}"


def main() -> None:
    """Print the table and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument(
        "--recipes", default="article,contrast", help="two values of experiment=, the second less the first"
    )
    parser.add_argument("--out", type=Path, help="file for the table as CSV")
    chosen = parser.parse_args()
    recipes = chosen.recipes.split(",")
    if len(set(recipes)) != 2:
        parser.error(f"--recipes takes two, such as article,contrast, got {chosen.recipes}")
    try:
        rows, holes = gathered(chosen.sweep, recipes)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    cells = [
        [*place, *(f"{value:.4f}" for value in row)] for place, row in zip(rows.index, rows.to_numpy(), strict=True)
    ]
    print(table([*rows.index.names, *rows], cells))
    pairs = [name for name in rows.index.names if name != "seed"]
    means = rows.groupby(pairs)["difference"].mean()
    if "dataset" in pairs:
        for name, of_dataset in means.groupby("dataset"):
            print(told(str(name), of_dataset.to_numpy()))
    print("The pairs of one dataset share images, and p takes them for independent: it is a hint and no verdict.")
    print(told("all", means.to_numpy()))
    for hole in holes:
        print(f"not both finished: {hole}")
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(chosen.out, float_format="%.6f")


if __name__ == "__main__":
    main()
