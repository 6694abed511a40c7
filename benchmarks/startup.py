"""How long commands take to start: to their answer, to the first training step, and in all.

Each command is a process of its own, all in turns over the rounds, beside a bare Python, ``import torch``, and
the imports that a hand-written version of such a run begins with. The first
step is noted by hooks that the training module gets as it is imported, in train.py as it is; a step is done when its
weights are updated. Files are in the system's cache, for one turn of all goes before. CPU seconds are what the process
computed: with one thread, about the time that it takes on an idle machine.

    python benchmarks/startup.py [--rounds 5] [experiment=demo ...]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _measure import TRAIN, command, in_turns, machine, ratio, table

METRAD = Path(sys.executable).with_name("metrad")
TORCH = "python -c 'import torch'"
LIBRARIES = "import torch, torchvision, pytorch_lightning, hydra, faiss"
STEP, DONE, ALL = "first step begins", "first step is done", "whole run"
WANTED = {"metrad --help": 1.0, "python train.py --help": 1.0, "python train.py --cfg job": 1.0}
# Nothing is imported before its time, so that the run starts as it would alone.
WATCH = """
import importlib.util, runpy, sys, time

place, script = sys.argv[1:3]


def note(self, *about):
    with open(place, "a") as file:
        file.write(f"{time.time()} {time.process_time()}\\n")


class Watch:
    def find_spec(self, name, path=None, target=None):
        if name != "metrad.training.learner":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_watch(module):
            load(module)
            module.MetricLearner.on_train_batch_start = module.MetricLearner.on_train_batch_end = note

        spec.loader.exec_module = load_and_watch
        return spec


sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
"""
Times = tuple[float, float]  # seconds, and those that the process computed


def answer(name: str, *arguments: object) -> dict[str, Times]:
    """Return the times of a command under its name."""
    ended = command(*arguments)
    return {name: (ended.seconds, ended.cpu)}


def run(overrides: list[str]) -> dict[str, Times]:
    """Return the times of a run from its start to the marks on its way."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "steps")
        start = time.time()
        ended = command(sys.executable, "-c", WATCH, place, TRAIN, *overrides, f"hydra.run.dir={folder}/run")
        marks = [[float(value) for value in line.split()] for line in place.read_text().splitlines()[:2]]
    name = f"python train.py {' '.join(overrides)}"
    (begins, begins_cpu), (done, done_cpu) = marks
    return {
        f"{name}: {STEP}": (begins - start, begins_cpu),
        f"{name}: {DONE}": (done - start, done_cpu),
        f"{name}: {ALL}": (ended.seconds, ended.cpu),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["experiment=demo"], help="the run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-warm-up", action="store_true", help="leave out the turn that is not counted")
    chosen = parser.parse_args()
    python = sys.executable
    sides: dict[str, Callable[[], dict[str, Times]]] = {
        "python": partial(answer, "python -c pass", python, "-c", "pass"),
        "torch": partial(answer, TORCH, python, "-c", "import torch"),
        "libraries": partial(answer, f"python -c '{LIBRARIES}'", python, "-c", LIBRARIES),
        "metrad": partial(answer, "metrad --help", METRAD, "--help"),
        "help": partial(answer, "python train.py --help", python, TRAIN, "--help"),
        "cfg": partial(answer, "python train.py --cfg job", python, TRAIN, "--cfg", "job"),
        "run": partial(run, chosen.overrides),
    }
    if not chosen.no_warm_up:
        in_turns(sides, 1)
    measured = in_turns(sides, chosen.rounds)
    times = {name: [one[name] for one in values] for values in measured.values() for name in values[0]}
    torch = [seconds for seconds, _ in times[TORCH]]
    rows = []
    for name, values in times.items():
        seconds, computed = zip(*values, strict=True)
        aim = WANTED.get(name, 6.0 if DONE in name else 0)
        middle = [f"{statistics.median(seconds):.2f}", f"{statistics.median(computed):.2f}"]
        each = " ".join(f"{value:.2f}" for value in seconds)
        rows.append([name, *middle, f"{ratio(seconds, torch):.2f}", f"{aim:g}" if aim else "", each])
    columns = ["command", "seconds, median", "CPU seconds", "of import torch", "wanted, idle machine", "rounds"]
    print(f"{chosen.rounds} rounds in turns, {machine()}")
    print(table(columns, rows))


if __name__ == "__main__":
    main()
