"""Time, memory and recall of nearest neighbours among up to a million normal embeddings, beside other libraries.

The embeddings are made from those of a run, with a seed: each lies at a uniformly random place between a random real
embedding and one of its 20 nearest, plus Gaussian noise of a tenth of each feature's standard deviation. Normal ones
are made from the arrays normal and calibration, queries from test_normal and test_anomalous, so no query is a copy of
a normal one. Queries have their neighbours at nearly the distances and the local intrinsic dimension of the real ones.
Every side gets the same float32 arrays in a process of its own, in turns over the rounds; a side that takes longer
than a minute is measured once. Columns:

fit s, score s    seconds of both (medians). For an index that is not exact, fitting includes measuring its recall.
                  Where scoring all queries would take longer than --score-limit, as many as fit into it are timed and
                  the seconds scaled, marked ~.
peak MB, held MB  resident memory beyond what the process held with the embeddings loaded: at most, and after fitting.
process MB        the most that the whole process held from then on, the embeddings and all libraries included.
recall@1          share of (at most 1000) queries whose nearest normal embedding is the one that metrad flat finds.
difference        largest distance from the score of metrad's exact scorer of the same name: kNN with k = 1, LOF with
                  k = 20. Scores are 1 - cos; Euclidean distances d of unit vectors are compared as d²/2.
speed-up          seconds of that scorer divided by those of the side: of fit and score together, and of score alone.

faiss flat is FAISS's IndexFlatIP alone, which compares every number of every vector.

A side is left out, with the reason on stderr, where its fit would take longer than --limit, going by the size before.

    python train.py experiment=frozen dataset=fmnist hydra.run.dir=RUN
    OMP_NUM_THREADS=2 python benchmarks/knn.py --embeddings RUN/embeddings/embeddings.safetensors
"""

import argparse
import csv
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import table

QUERIES, ROUNDS, LIMIT, SCORE_LIMIT, LONG = 10_000, 3, 600, 120, 60
TRIAL = 100  # queries that tell how long all will take
RECALLED = 1000  # queries whose neighbours are compared
COLUMNS = [
    "side",
    "fit s",
    "score s",
    "peak MB",
    "held MB",
    "process MB",
    "recall@1",
    "difference",
    "speed-up",
    "of score",
]
NEAR, NOISE = 20, 0.1
ROWS = 2**14
EXACT, LOCAL = "metrad flat", "metrad LOF"


class Foreign:
    """A detector of another library behind the interface of metrad's scorers, on unit vectors for the angle.

    Args:
        make: makes the detector.
        unit: whether it gets the directions of the embeddings alone.
    """

    def __init__(self, make: Callable[[], Any], *, unit: bool) -> None:
        self.detector = make()
        self.unit = unit

    def fit(self, normal: np.ndarray) -> None:
        """Fit the detector."""
        self.detector.fit(self.prepared(normal))

    def prepared(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the embeddings as the detector gets them."""
        from metrad.scorers.search.distances import unit

        return unit(embeddings) if self.unit else embeddings


class Sklearn(Foreign):
    """NearestNeighbors by brute force."""

    def __init__(self, metric: str) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.metric = metric
        super().__init__(
            lambda: NearestNeighbors(n_neighbors=1, algorithm="brute", metric=metric), unit=metric != "cosine"
        )

    def score(self, queries: np.ndarray) -> np.ndarray:
        """Return what is comparable with metrad's score."""
        found = self.detector.kneighbors(self.prepared(queries))[0][:, 0]
        return found if self.metric == "cosine" else found**2 / 2

    def neighbours(self, queries: np.ndarray) -> np.ndarray:
        """Return the positions of the nearest."""
        return self.detector.kneighbors(self.prepared(queries), return_distance=False)[:, 0]


class Faiss:
    """The index that FAISS compares every number of every vector with: IndexFlatIP, without metrad."""

    def fit(self, normal: np.ndarray) -> None:
        """Fill the index."""
        import faiss

        self.index = faiss.IndexFlatIP(normal.shape[1])
        self.index.codes.resize(len(normal) * self.index.code_size)  # room for all at once
        self.index.codes.resize(0)
        for i in range(0, len(normal), ROWS):
            self.index.add(self.prepared(normal[i : i + ROWS]))

    def prepared(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the directions of the embeddings."""
        from metrad.scorers.search.distances import unit

        return unit(embeddings)

    def score(self, queries: np.ndarray) -> np.ndarray:
        """Return 1 - cos, as FAISS rounds it."""
        return 1 - self.index.search(self.prepared(queries), 1)[0][:, 0]

    def neighbours(self, queries: np.ndarray) -> np.ndarray:
        """Return the positions of the nearest."""
        return self.index.search(self.prepared(queries), 1)[1][:, 0]


class Pyod(Foreign):
    """A detector of PyOD, which gives no neighbours."""

    def score(self, queries: np.ndarray) -> np.ndarray:
        """Return what is comparable with metrad's score."""
        found = self.detector.decision_function(self.prepared(queries))
        return found**2 / 2 if self.unit else found


def knn(**settings: object) -> Callable[[], Any]:
    """Return what makes metrad's KNN, whatever its recall."""

    def make() -> object:
        from metrad.scorers import KNN

        return KNN(min_recall=0.01, **settings)

    return make


def lof() -> object:
    from metrad.scorers import LOF

    return LOF(k=20, metric="l2")


def pyod_knn() -> Pyod:
    from pyod.models.knn import KNN

    return Pyod(lambda: KNN(n_neighbors=1), unit=True)


def pyod_lof() -> Pyod:
    from pyod.models.lof import LOF

    return Pyod(lambda: LOF(n_neighbors=20), unit=False)


# What makes a side, and the power of the size that the seconds of its fit grow with.
SIDES: dict[str, tuple[Callable[[], Any], float]] = {
    EXACT: (knn(), 1),
    "metrad fp16": (knn(index="fp16"), 1),
    "metrad sq8": (knn(index="sq8"), 1),
    "metrad ivf": (knn(index="ivf"), 1.2),
    "metrad hnsw": (knn(index="hnsw"), 1.2),
    "faiss flat": (Faiss, 1),
    "sklearn cosine": (lambda: Sklearn("cosine"), 1),
    "sklearn l2": (lambda: Sklearn("euclidean"), 1),
    "pyod KNN": (pyod_knn, 2),
    LOCAL: (lof, 2),
    "pyod LOF": (pyod_lof, 2),
}


@dataclass(frozen=True)
class Measured:
    """One line of the table; seconds of scoring are for all queries."""

    size: int
    side: str
    fit: float
    score: float
    scored: int
    peak: float
    held: float
    process: float
    recall: float | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Task:
    """What a process of its own measures."""

    side: str
    size: int
    queries: int
    limit: float
    score_limit: float
    embeddings: Path
    truth: Path

    @property
    def truth_file(self) -> Path:
        """Where the scores and neighbours lie that this side is compared with."""
        return self.truth / f"{LOCAL if self.side in (LOCAL, 'pyod LOF') else EXACT}-{self.size}.npz"


def mixed(real: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return ``size`` embeddings made from the real ones, see above; nothing but the result is ever held whole."""
    from metrad.scorers.search.indexes import IndexSettings, build, search_others

    near = min(NEAR, len(real) - 1)
    _, neighbours = search_others(build(IndexSettings(), real, "cosine"), np.arange(len(real)), near, "cosine")
    generator = np.random.default_rng(seed)
    noise = NOISE * real.std(axis=0)
    result = np.empty((size, real.shape[1]), np.float32)
    for i in range(0, size, ROWS):
        block = result[i : i + ROWS]
        generator.standard_normal(dtype=np.float32, out=block)
        block *= noise
        share = generator.random((len(block), 1), dtype=np.float32)
        first, rank = generator.integers((len(real), near), size=(len(block), 2)).T
        block += share * real[first]
        block += (1 - share) * real[neighbours[first, rank]]
    return result


def load(file: Path, size: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal embeddings and the queries."""
    from safetensors.numpy import load_file

    real = load_file(file)
    normal = mixed(np.concatenate([real["normal"], real["calibration"]]), size, seed=0)
    return normal, mixed(np.concatenate([real["test_normal"], real["test_anomalous"]]), queries, seed=1)


def resident(key: str) -> float:
    """Return VmRSS, the resident memory, or VmHWM, the most of it so far, in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


def forget_peak() -> None:
    """Let VmHWM begin anew at what is resident now."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def timed(call: Callable[[np.ndarray], Any], argument: np.ndarray) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(argument)
    return time.perf_counter() - start, result


def measure(task: Task, sender: Any) -> None:
    """Measure one side and send what was found."""
    warnings.filterwarnings("ignore")
    normal, queries = load(task.embeddings, task.size, task.queries)
    scorer = SIDES[task.side][0]()
    SIDES[task.side][0]().fit(normal[:100])  # so that imports and caches are no part of the figures
    before = resident("VmRSS")
    forget_peak()
    fit, _ = timed(scorer.fit, normal)
    held = resident("VmRSS") - before
    trial, _ = timed(scorer.score, queries[:TRIAL])
    count = min(len(queries), max(TRIAL, int(task.score_limit / trial * TRIAL)))
    score, scores = timed(scorer.score, queries[:count])
    process = resident("VmHWM")
    found = scorer.neighbours(queries[: min(count, RECALLED)]) if getattr(scorer, "neighbours", None) else None
    result = Measured(task.size, task.side, fit, score / count * len(queries), count, process - before, held, process)
    sender.send(compared(result, task, scores, found))


def compared(result: Measured, task: Task, scores: np.ndarray, found: np.ndarray | None) -> Measured:
    """Return the result with what the comparison with the exact scorer adds, and keep the truth where this is it."""
    local = task.side in (LOCAL, "pyod LOF")
    if task.side in (EXACT, LOCAL):
        np.savez(task.truth_file, scores=scores, found=np.zeros(0) if local else found)
    if not task.truth_file.exists():
        return result
    true = np.load(task.truth_file)
    many = min(len(scores), len(true["scores"]))
    difference = float(np.abs(scores[:many].astype(np.float64) - true["scores"][:many]).max())
    if local or found is None:
        return replace(result, difference=difference)
    few = min(len(found), len(true["found"]))
    return replace(result, difference=difference, recall=float((found[:few] == true["found"][:few]).mean()))


def in_a_process(task: Task) -> Measured | str:
    """Return what a fresh process measures, or why it did not."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(task, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(3 * task.limit + 120):
            return f"not done after {3 * task.limit + 120:.0f} s"
        return receiver.recv()
    except EOFError:
        process.join()
        return f"its process ended with {process.exitcode}; see above"
    finally:
        process.terminate()
        process.join()


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def median(runs: Sequence[Measured]) -> Measured:
    """Return one line for all rounds."""
    last = asdict(runs[-1])
    middle = {name: statistics.median(getattr(run, name) for run in runs) for name in ("fit", "score")}
    worst = {name: max(getattr(run, name) for run in runs) for name in ("peak", "held", "process")}
    return Measured(**{**last, **middle, **worst})


def measure_size(tasks: Sequence[Task], rounds: int, earlier: dict[str, Measured]) -> list[Measured]:
    """Measure the sides of one size in turns; ``earlier`` are the lines of the size before."""
    runs: dict[str, list[Measured]] = {}
    left_out: set[str] = set()
    for i in range(rounds):
        for task in tasks:
            name, size = task.side, task.size
            if name in left_out or (name in runs and runs[name][-1].fit + runs[name][-1].score > LONG):
                continue
            before = earlier.get(name)
            expected = before.fit * (size / before.size) ** SIDES[name][1] if before else 0
            reason = f"fit would take {expected:,.0f} s, over the limit" if expected > task.limit else ""
            reason = reason or ("no result for the size before" if earlier and not before else "")
            result = reason or in_a_process(task)
            if isinstance(result, str):
                log(f"{size:>9,} {name:<15} round {i + 1}: left out: {result}")
                left_out.add(name)
                continue
            log(f"{size:>9,} {name:<15} round {i + 1}: fit {result.fit:.2f} s, score {result.score:.2f} s")
            runs.setdefault(name, []).append(result)
    return [median(runs[task.side]) for task in tasks if task.side in runs]


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def rows(lines: Sequence[Measured], sides: Sequence[str], queries: int) -> list[list[str]]:
    """Return the rows of one size, with dashes for a side without a result."""
    by_side = {line.side: line for line in lines}
    made = []
    for side in sides:
        line, whole = by_side.get(side), by_side.get(LOCAL if "LOF" in side else EXACT)
        if line is None:
            made.append([side, *["-"] * (len(COLUMNS) - 1)])
            continue
        scaled = ("~" if line.scored < queries else "") + f"{line.score:.2f}"
        memory = [f"{value:,.0f}" for value in (line.peak, line.held, line.process)]
        compared = [number(line.recall, ".4f"), number(line.difference, ".1e")]
        both = number(whole and (whole.fit + whole.score) / (line.fit + line.score), ".3g")
        of_score = number(whole and whole.score / line.score, ".3g")
        made.append([side, f"{line.fit:.2f}", scaled, *memory, *compared, both, of_score])
    return made


def read(file: Path) -> list[Measured]:
    """Return the lines of a table that --csv wrote."""
    kinds = {"size": int, "side": str, "scored": int}
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            Measured(**{name: kinds.get(name, float)(value) if value else None for name, value in row.items()})
            for row in csv.DictReader(lines)
        ]


def picture(lines: Sequence[Measured], queries: int) -> Any:
    """Return the figure of cost against the number of normal embeddings; other libraries are dashed or dotted."""
    from metrad.evaluation.plots import cost

    styles = {"me": "o-", "fa": "d-.", "sk": "s--", "py": "^:"}
    panels = {"fit, s": "fit", f"score of {queries:,} queries, s": "score", "peak memory, MB": "peak"}
    curves = {
        title: {
            side: [(line.size, getattr(line, name)) for line in lines if line.side == side]
            for side in SIDES
            if any(line.side == side for line in lines)
        }
        for title, name in panels.items()
    }
    return cost(curves, {side: styles[side[:2]] for side in SIDES}, "normal embeddings")


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, help="embeddings/embeddings.safetensors of a run")
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="numbers of normal embeddings")
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often a side of less than a minute is measured")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that a fit may take")
    parser.add_argument("--score-limit", type=float, default=SCORE_LIMIT, help="seconds that scoring may take")
    parser.add_argument("--picture", type=Path, help="draw cost against size into this file, as docs/images/knn.png")
    parser.add_argument("--csv", type=Path, help="write the table into this file")
    parser.add_argument("--measured", type=Path, help="a table of other sizes, to stand in the picture and table too")
    chosen = parser.parse_args()
    if not chosen.embeddings.is_file():
        parser.error(
            f"--embeddings: there is no {chosen.embeddings}; make one with python train.py experiment=frozen "
            "dataset=fmnist, which leaves embeddings/embeddings.safetensors in its run directory"
        )
    names = chosen.sides.split(",")
    if unknown := sorted(set(names) - set(SIDES)):
        parser.error(f"--sides: no {', '.join(unknown)}; choose of {', '.join(SIDES)}")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{chosen.queries:,} queries, OMP_NUM_THREADS {threads}, {chosen.rounds} rounds in turns")
    lines: list[Measured] = read(chosen.measured) if chosen.measured else []
    with tempfile.TemporaryDirectory() as folder:
        earlier: dict[str, Measured] = {}
        for size in sorted(int(size) for size in chosen.sizes.split(",")):
            task = Task("", size, chosen.queries, chosen.limit, chosen.score_limit, chosen.embeddings, Path(folder))
            tasks = [replace(task, side=name) for name in sorted(names, key=list(SIDES).index)]
            measured = measure_size(tasks, chosen.rounds, earlier)
            lines += measured
            earlier = {line.side: line for line in measured}
            found = rows(measured, [task.side for task in tasks], chosen.queries)
            print(f"\n{size:,} normal embeddings\n{table(COLUMNS, found)}", flush=True)
    if chosen.csv:
        with chosen.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(Measured.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(line) for line in lines)
    if chosen.picture:
        chosen.picture.parent.mkdir(parents=True, exist_ok=True)
        picture(lines, chosen.queries).savefig(chosen.picture)


if __name__ == "__main__":
    main()
