"""What a run costs as its dataset grows: seconds and memory of whole runs at 1, 2, 4 and 8 times the article's images.

Each run is ``python train.py`` in a process of its own. Fashion-MNIST is repeated as often as needed, and in each copy
but the first the lowest bit of every pixel is drawn anew, so that no image is another's copy.

memory     dataset=fmnist, all 70,000 images a factor, kept in one array; the run takes as many times the article's.
streamed   the images that the run takes, as a folder of PNGs that are decoded each time they are asked for
           (dataset.memory_limit_gib=0 dataset.disk_limit_gib=0), by two further processes.

run s        from the start of the command to its end: start-up, an epoch, embedding, scoring and pictures.
epoch s      seconds of an epoch, and images/s in it.
peak MB      resident memory of the largest process at most, pages of the libraries' files included. How many of these
             count varies from run to run by some hundred MB, with what the system has of the files at hand.
own MB       what all processes of the run hold together beside files, at most, what they share counted once; looked at
             ten times a second, and on Linux alone.
array MB     the uint8 array that the images are kept in.

A short run before all others warms up. The lines below the table are straight lines through its rows.

    OMP_NUM_THREADS=2 python benchmarks/growth.py [--factors 1,2,4,8] [--kept memory,streamed] [--backbone mobilenet_v2]
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from _fashion_mnist import Arrays, counts, found, load, repeated, sizes, write
from _measure import Watch, in_turns, machine, table, train
from PIL import Image

SNEAKER, BOOT = 7, 9
MEMORY, STREAMED = "memory", "streamed"


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    seconds: float
    epoch: float
    peak: float
    own: float
    array: float


def write_files(folder: Path, arrays: Arrays, roles: dict[str, int], copy: int) -> None:
    """Write the images of one copy that a run takes, one folder a class in each part."""
    of_class = {("train", number): -(-roles["reference"] // 8) for number in range(10) if number not in (SNEAKER, BOOT)}
    of_class["train", SNEAKER] = roles["normal"] + roles["calibration"]
    of_class["test", SNEAKER], of_class["test", BOOT] = roles["test_normal"], roles["test_anomalous"]
    for (part, number), count in of_class.items():
        images, labels = arrays[part]
        place = folder / part / str(number)
        place.mkdir(parents=True)
        for i, image in enumerate(repeated(images[labels == number][:count], copy)):
            Image.fromarray(image).save(place / f"{i}.png", compress_level=1)


def link(folder: Path, copies: list[Path]) -> None:
    """Make one folder of all copies."""
    for copy in copies:
        for place in copy.glob("*/*"):
            own = folder / place.relative_to(copy)
            own.mkdir(parents=True, exist_ok=True)
            (own / copy.name).symlink_to(place)


class Runs:
    """Makes the runs.

    Args:
        folder: for everything.
        arrays: Fashion-MNIST.
        share: of the article's images at factor 1.
        settings: overrides of every run.
    """

    def __init__(self, folder: Path, arrays: Arrays, share: float, settings: list[str]) -> None:
        self.folder = folder
        self.arrays = arrays
        self.share = share
        self.sizes = counts(share)
        self.settings = settings

    def trained(self, factor: int) -> int:
        """Return how many images an epoch has."""
        return factor * (self.sizes["reference"] + self.sizes["normal"])

    def memory(self, factor: int, *more: str) -> Cost:
        """Make a run whose images are in one array."""
        with tempfile.TemporaryDirectory(dir=self.folder) as data:
            write(Path(data), self.arrays, factor)
            array = factor * sum(images.nbytes for images, _ in self.arrays.values()) / 1e6
            return self._run(factor, array, "dataset=fmnist", f"paths.data={data}", *more)

    def streamed(self, factor: int) -> Cost:
        """Make a run whose images are decoded on demand."""
        copies = [self.folder / "copies" / str(copy) for copy in range(factor)]
        for number, copy in enumerate(copies):
            if not copy.exists():
                write_files(copy, self.arrays, self.sizes, number)
        with tempfile.TemporaryDirectory(dir=self.folder) as data:
            link(Path(data, "images"), copies)
            source = ["dataset=image_folder", f"dataset.source.root={data}/images", f"paths.data={data}"]
            roles = [f"dataset.normal=['{SNEAKER}']", f"dataset.anomalous=['{BOOT}']"]
            limits = ["dataset.memory_limit_gib=0", "dataset.disk_limit_gib=0"]
            return self._run(factor, 0, *source, *roles, *limits)

    def _run(self, factor: int, array: float, *overrides: str) -> Cost:
        watch = Watch()
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            directory = f"hydra.run.dir={folder}/run"
            ended = train(*overrides, sizes(self.share, factor), directory, *self.settings, watch=watch)
            seconds = json.loads(Path(folder, "run", "metrics.json").read_text())["seconds"]
        return Cost(ended.seconds, seconds["train"], ended.peak, watch.peak, array)


def fitted(kept: str, costs: list[Cost], trained: list[int]) -> str:
    """Return what the rows of one kind are, told as straight lines."""
    an_image, constant = np.polyfit(trained, [cost.seconds for cost in costs], 1)
    a_thousand, least = np.polyfit(trained, [cost.own - cost.array for cost in costs], 1)
    return (
        f"{kept}: a run takes {constant:.1f} s and {an_image * 1e3:.2f} ms an image; its processes take "
        f"{least:.0f} MB and {a_thousand * 1e3:+.2f} MB a thousand images, beside the array"
    )


def report(measured: dict[tuple[str, int], list[Cost]], runs: Runs) -> None:
    """Print the table and the lines through its rows."""
    rows, middle = [], {}
    for (kept, factor), costs in measured.items():
        names = ("seconds", "epoch", "peak", "own", "array")
        cost = middle[kept, factor] = Cost(*(statistics.median(getattr(one, name) for one in costs) for name in names))
        times = [f"{cost.seconds:.1f}", f"{cost.epoch:.1f}", f"{runs.trained(factor) / cost.epoch:.0f}"]
        memory = [f"{value:.0f}" for value in (cost.peak, cost.own, cost.array, cost.own - cost.array)]
        each = " ".join(f"{one.seconds:.1f}" for one in costs)
        rows.append([kept, factor, runs.trained(factor), *times, *memory, each])
    columns = ["kept", "factor", "images", "run s", "epoch s", "images/s"]
    print(table([*columns, "peak MB", "own MB", "array MB", "own - array MB", "rounds, run s"], rows))
    for kept in dict.fromkeys(kept for kept, _ in measured):
        factors = [factor for name, factor in measured if name == kept]
        if len(factors) > 1:
            trained = [runs.trained(factor) for factor in factors]
            print(fitted(kept, [middle[kept, factor] for factor in factors], trained))


def main() -> None:
    """Make the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="further settings of every run")
    parser.add_argument("--factors", default="1,2,4,8")
    parser.add_argument("--kept", default=f"{MEMORY},{STREAMED}")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="null", help="a file; random ones if not given")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the article's images that factor 1 takes")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("METRAD_DATA", "data")))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-warm-up", action="store_true", help="leave out the short run before all others")
    chosen = parser.parse_args()
    kinds, factors = chosen.kept.split(","), [int(factor) for factor in chosen.factors.split(",")]
    model = [f"backbone={chosen.backbone}", f"backbone.weights={chosen.weights}", f"image_size={chosen.image_size}"]
    training = [f"trainer.precision={chosen.precision}", f"trainer.max_epochs={chosen.epochs}", "compile=false"]
    arrays = load(found(chosen.data))
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), arrays, chosen.share, [*model, *training, *chosen.overrides])
        if not chosen.no_warm_up:
            runs.memory(1, "trainer.limit_train_batches=2")
        makers: dict[str, Callable[[int], Cost]] = {MEMORY: runs.memory, STREAMED: runs.streamed}
        sides = {(kept, factor): partial(makers[kept], factor) for kept in kinds for factor in factors}
        measured = in_turns(sides, chosen.rounds)
        epochs = f"{chosen.epochs} epochs" if chosen.epochs > 1 else "an epoch"
        print(f"{chosen.backbone}, {chosen.image_size} pixels, {chosen.precision}, {epochs}, {machine()}")
        report(measured, runs)


if __name__ == "__main__":
    main()
