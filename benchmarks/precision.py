"""AUROC and seconds of the article's run by the precision that it trains and embeds in.

Each seed is a sweep over the precisions, ``python train.py -m seed=0 trainer.precision=32-true,bf16-mixed``, forwards
for one seed and backwards for the next. Runs of one seed have the same images, order and initial weights, so
differences are taken run by run.

difference   mean over seeds of AUROC less that of the first precision, with the 95 % interval that ``metrad compare``
             gives: a bootstrap over the pairs, about new seeds. Few seeds make it wide.
train s      seconds of training, start-up not included; ÷ first, the median over seeds of the ratio to the first.
embed s      seconds of the pass that gives the embeddings.

A short run before all others warms up and tells what trainer.precision=auto takes here; --no-warm-up leaves it out.

    OMP_NUM_THREADS=2 python benchmarks/precision.py --seeds 3 --epochs 3 --weights FILE
    python benchmarks/precision.py --precisions 32-true,bf16-mixed,16-mixed      on a GPU
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _fashion_mnist import found, sizes
from _measure import machine, ratio, table, train

TINY = 0.01  # of the images: the run that warms up


def told_by_auto(folder: Path, settings: list[str]) -> str:
    """Return what a run with ``auto`` chose and why."""
    train(*settings, sizes(TINY), "trainer.max_epochs=1", f"hydra.run.dir={folder}")
    speed = json.loads((folder / "environment.json").read_text())["speed"]
    return f"auto takes {speed['precision']} ({speed['precision_reason']}) {speed['images_per_second'] or ''}".rstrip()


def sweep(folder: Path, seed: int, precisions: list[str], settings: list[str]) -> None:
    """Make the runs of one seed."""
    order = precisions[:: 1 if seed % 2 == 0 else -1]
    train("-m", *settings, f"seed={seed}", f"trainer.precision={','.join(order)}", f"hydra.sweep.dir={folder}")


def metrics(folder: Path, seeds: int, precisions: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return what ``metrics.json`` holds for each precision, in the order of the seeds."""
    gathered: dict[str, list[dict[str, Any]]] = {precision: [{}] * seeds for precision in precisions}
    for file in folder.glob("*/metrics.json"):
        chosen = dict(line.strip("- \n").split("=", 1) for line in (file.parent / ".hydra/overrides.yaml").open())
        gathered[chosen["trainer.precision"]][int(chosen["seed"])] = json.loads(file.read_text())
    return gathered


def differences(folder: Path, first: str) -> dict[str, list[str]]:
    """Return for each precision but the first the mean difference from it and the interval."""
    from metrad.reports.comparison.compare import compare

    pairs = compare(folder, by="trainer.precision", baseline=first).pairs
    return {
        row["trainer.precision"]: [f"{row['difference']:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}"]
        for row in pairs.to_dict("records")
    }


def rows(folder: Path, seeds: int, precisions: list[str]) -> list[list[str]]:
    """Return the table's rows."""
    gathered, first = metrics(folder, seeds, precisions), precisions[0]
    apart = differences(folder, first) if len(precisions) > 1 else {}
    trained = {name: [one["seconds"]["train"] for one in runs] for name, runs in gathered.items()}
    made = []
    for name, runs in gathered.items():
        aurocs = [run["auroc"] for run in runs]
        embedding = statistics.median(run["seconds"]["embed"] for run in runs)
        seconds = [f"{statistics.median(trained[name]):.1f}", f"{ratio(trained[name], trained[first]):.2f}"]
        each = " ".join(f"{auroc:.4f}" for auroc in aurocs), " ".join(f"{value:.1f}" for value in trained[name])
        mean = f"{statistics.mean(aurocs):.4f}"
        made.append([name, mean, *apart.get(name, ["", ""]), *seconds, f"{embedding:.1f}", *each])
    return made


def main() -> None:
    """Make the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="further settings of every run, such as backbone=convnet")
    parser.add_argument("--precisions", default="32-true,bf16-mixed", help="as Lightning names them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--weights", default="null", help="a file; random ones if not given")
    parser.add_argument("--share", type=float, default=1.0, help="of the article's images")
    parser.add_argument("--no-warm-up", action="store_true")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("METRAD_DATA", "data")))
    chosen = parser.parse_args()
    precisions = chosen.precisions.split(",")
    found(chosen.data)
    settings = ["dataset=fmnist", f"paths.data={chosen.data}", f"backbone.weights={chosen.weights}", *chosen.overrides]
    training = [sizes(chosen.share), f"trainer.max_epochs={chosen.epochs}"]
    with tempfile.TemporaryDirectory() as folder:
        auto = "" if chosen.no_warm_up else told_by_auto(Path(folder, "auto"), settings)
        sweeps = Path(folder, "sweep")
        for seed in range(chosen.seeds):
            print(f"seed {seed + 1} of {chosen.seeds}: {chosen.precisions}", file=sys.stderr, flush=True)
            sweep(sweeps, seed, precisions, [*settings, *training])
        made = rows(sweeps, chosen.seeds, precisions)
    print(f"Fashion-MNIST, {chosen.seeds} seeds, {chosen.epochs} epochs, {machine()}\n{auto}".rstrip())
    first = precisions[0]
    columns = ["precision", "AUROC, mean", f"difference from {first}", "95 % interval", "train s, median", f"÷ {first}"]
    print(table([*columns, "embed s", "AUROC by seed", "train s by seed"], made))


if __name__ == "__main__":
    main()
