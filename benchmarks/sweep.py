"""What a sweep costs: its runs side by side against one after another, and what one more run adds to its own work.

All sweeps are of the same runs, of the demo (scikit-learn's digits) unless other overrides are given, each a command of
its own as users give it, in turns over the rounds. Every process has its share of the CPU threads given.

seconds      from the start of the command to its end, start-up included; the median over the rounds.
of serial    the median over the rounds of the ratio to the sweep one after another.
fixed cost   seconds from the end of one run of the serial sweep to the end of the next, less what the run trained,
             embedded and evaluated: composing its configuration, reading the data, building the model, writing files
             and drawing pictures.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --jobs-per-gpu 1,2,4,8 experiment=article trainer.max_epochs=1      on GPUs
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _measure import in_turns, ratio, table, train

PREPARING = ("prepare", "total")
SERIAL = "one after another"


def sweep(overrides: list[str], threads: int) -> tuple[float, list[float]]:
    """Return the seconds of a sweep, and those that each run but the first cost beyond its own work."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        seconds = train("-m", f"hydra.sweep.dir={folder}", *overrides).seconds
        return seconds, fixed_costs(Path(folder))


def fixed_costs(folder: Path) -> list[float]:
    """Return for each run but the first what it cost beyond its training and evaluation, in seconds."""
    runs = sorted(folder.glob("*/status.json"), key=lambda path: path.stat().st_mtime_ns)
    ends = [path.stat().st_mtime_ns / 1e9 for path in runs]
    seconds = [json.loads(path.with_name("metrics.json").read_text())["seconds"] for path in runs]
    work = [sum(value for name, value in one.items() if name not in PREPARING) for one in seconds]
    return [ends[i] - ends[i - 1] - work[i] for i in range(1, len(runs))]


def sides(chosen: argparse.Namespace) -> dict[str, Callable[[], tuple[float, list[float]]]]:
    """Return the sweeps to measure by what they are called."""
    runs, threads = [f"seed=range({chosen.runs})", *chosen.overrides], chosen.threads
    made = {SERIAL: partial(sweep, runs, threads)}
    for jobs in chosen.jobs:
        share = [*runs, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"]
        made[f"{jobs} at a time"] = partial(sweep, share, max(1, threads // jobs))
    for jobs in chosen.jobs_per_gpu:
        share = [*runs, "hydra/launcher=joblib", f"hydra.launcher.jobs_per_gpu={jobs}"]
        made[f"{jobs} a GPU"] = partial(sweep, share, max(1, threads // (jobs * gpus())))
    return made


def gpus() -> int:
    """Return how many GPUs a sweep may use."""
    from metrad.sweeps.workers import visible_gpus

    return len(visible_gpus())


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["experiment=demo"], help="of every run")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--jobs", type=numbers, help="how many at a time; 2 if no jobs per GPU are given")
    parser.add_argument("--jobs-per-gpu", type=numbers, default=[], help="how many share a GPU, such as 1,2,4,8")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of any sweep")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.jobs is None:
        chosen.jobs = [] if chosen.jobs_per_gpu else [2]
    if chosen.jobs_per_gpu and not gpus():
        sys.exit("--jobs-per-gpu: there is no GPU here; --jobs=2 shares the CPU")
    measured = in_turns(sides(chosen), chosen.rounds)
    serial = [seconds for seconds, _ in measured[SERIAL]]
    rows = []
    for name, results in measured.items():
        seconds = [one for one, _ in results]
        each = " ".join(f"{one:.1f}" for one in seconds)
        rows.append([name, f"{statistics.median(seconds):.1f}", f"{ratio(seconds, serial):.2f}", each])
    print(
        f"{chosen.runs} runs of {' '.join(chosen.overrides)}, {chosen.threads} threads, {chosen.rounds} rounds in turns"
    )
    print(table(["sweep", "seconds", "of serial", "rounds"], rows))
    fixed = [cost for _, costs in measured[SERIAL] for cost in costs]
    if fixed:
        print(f"fixed cost of a run of the serial sweep: {statistics.median(fixed):.2f} s")


if __name__ == "__main__":
    main()
