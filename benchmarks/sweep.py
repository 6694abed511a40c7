"""What a sweep costs: its runs side by side against one after another, and what one more run adds to its own work.

Both sweeps are of the same runs of the demo (scikit-learn's digits), each a command of its own as users give it, in
turns over the rounds; the figures are medians. Every process has its share of the CPU threads given.

serial, parallel   seconds from the start of the command to its end, start-up included.
fixed cost         seconds from the end of one run of the serial sweep to the end of the next, less what the run
                   trained, embedded and evaluated: composing its configuration, reading the data, building the model,
                   writing files and drawing pictures.

    python benchmarks/sweep.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"
PREPARING = ("prepare", "total")


def timed(folder: Path, *overrides: str, threads: int) -> float:
    """Return the seconds that a sweep took."""
    command = [sys.executable, TRAIN, "-m", "experiment=demo", f"hydra.sweep.dir={folder}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"the sweep failed: {done.stderr}")
    return time.perf_counter() - start


def fixed_costs(folder: Path) -> list[float]:
    """Return for each run but the first what it cost beyond its training and evaluation, in seconds."""
    runs = sorted(folder.glob("*/status.json"), key=lambda path: path.stat().st_mtime_ns)
    ends = [path.stat().st_mtime_ns / 1e9 for path in runs]
    seconds = [json.loads(path.with_name("metrics.json").read_text())["seconds"] for path in runs]
    work = [sum(value for name, value in one.items() if name not in PREPARING) for one in seconds]
    return [ends[i] - ends[i - 1] - work[i] for i in range(1, len(runs))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of either sweep")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    seeds, threads = f"seed=range({chosen.runs})", chosen.threads
    serial, parallel, fixed = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(chosen.rounds):
            own = Path(folder) / f"serial-{i}"
            serial.append(timed(own, seeds, threads=threads))
            fixed += fixed_costs(own)
            jobs = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={chosen.jobs}"]
            parallel.append(timed(Path(folder) / f"parallel-{i}", seeds, *jobs, threads=max(1, threads // chosen.jobs)))
            print(f"round {i + 1}: serial {serial[-1]:.1f} s, parallel {parallel[-1]:.1f} s", file=sys.stderr)
    one, many = statistics.median(serial), statistics.median(parallel)
    print(f"{chosen.runs} demo runs, {threads} threads, {chosen.rounds} rounds in turns")
    print(f"serial       {one:8.1f} s")
    print(f"{chosen.jobs} at a time  {many:8.1f} s   {many / one:.2f} of serial")
    print(f"fixed cost   {statistics.median(fixed):8.2f} s   a run of the serial sweep, beyond training and evaluation")


if __name__ == "__main__":
    main()
