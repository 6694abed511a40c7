"""Images per second from a folder of photographs to anomaly scores: metrad beside hand-written loops, in turns.

metrad      `Detector.stream` over the folder, as `metrad predict` calls it: scores, p-values, the nearest good image,
            and whether the detector was fitted on the image.
usual loop  as most people write it: Pillow and torchvision's Resize with antialiasing, ToTensor and Normalize in a
            DataLoader with a worker a core, model.eval() in inference_mode, the global average of the features,
            IndexFlatIP of FAISS.
best loop   benchmarks/best_loop.py, the fastest that somebody wrote in an hour who knew the machine and not metrad's
            code, for images of 224 pixels alone. Its time includes reading and packing the weights.

All sides score the same JPEGs by the cosine distance to the nearest of the same good embeddings, of a frozen
MobileNetV2, its last layer, which `metrad fit` took until it took middle layers.

Each turn is a process of its own. The time is from the list of files to the last score; imports, the model
and a first pass over a few images come before. The system has the files cached.

images/s     the median over the rounds.
÷ usual loop the median over the rounds of the ratio to the usual loop.
CPU ms/image milliseconds that all processes of a side computed; it suffers less from other jobs on the machine.
peak MB      resident memory of all processes of a side together, what they share counted once; looked at twice a
             second, on Linux alone.
difference   the largest relative difference of a score from that of the usual loop. Pillow and torchvision round
             differently when they resize, so some pixels differ by one level of 255. More than --tolerance is an error.

--stream N measures memory instead: the detector streams N images, the paths of the folder again and again, and says its
memory after 1,000 and at the end.

    OMP_NUM_THREADS=2 python benchmarks/predict.py [--weights FILE] [--images 2000] [--rounds 3]
    OMP_NUM_THREADS=2 python benchmarks/predict.py --stream 50000 --images 200 --width 64 --height 48 --size 32
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from _measure import Watch, command, in_turns, machine, ratio, table, train
from _photographs import write
from safetensors.numpy import load_file

METRAD, USUAL, BEST = "metrad", "usual loop", "best loop"
BEST_LOOP = Path(__file__).with_name("best_loop.py")
SIZE = 224  # height and width in pixels that the model sees, unless another is given
WARM_UP = 32  # images
EARLY = 1000  # images after which --stream looks at the memory first
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Work:
    """What all sides score, and with what.

    Attributes:
        folder: holds the folders good/, new/ and first/ of images, and run/ of the detector.
        weights: file of MobileNetV2's state dict.
        size: height and width in pixels that the model sees.
    """

    folder: Path
    weights: Path
    size: int

    @property
    def run(self) -> Path:
        """Return the directory of the detector's run."""
        return self.folder / "run"

    def good(self) -> np.ndarray:
        """Return the embeddings of the detector's good images, (N, D) float32."""
        return load_file(self.run / "embeddings" / "embeddings.safetensors")["normal"]


@dataclass(frozen=True)
class Turn:
    """What a side took in one turn, and its scores.

    Attributes:
        speed: images per second.
        cpu: milliseconds that all of its processes computed, by image.
        peak: memory in MB.
        scores: of the images, in order of their names.
    """

    speed: float
    cpu: float
    peak: float
    scores: np.ndarray


def metrad_side(work: Work) -> Callable[[str], np.ndarray]:
    from metrad import Detector

    detector = Detector.load(work.run)
    return lambda name: np.concatenate([batch.scores for batch in detector.stream(work.folder / name)])


def usual_side(work: Work) -> Callable[[str], np.ndarray]:
    import faiss
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms
    from torchvision.models import mobilenet_v2

    transform = transforms.Compose(
        [
            transforms.Resize((work.size, work.size), antialias=True),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    class Images(Dataset[torch.Tensor]):
        def __init__(self, folder: Path) -> None:
            self.paths = sorted(folder.iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, position: int) -> torch.Tensor:
            image: torch.Tensor = transform(Image.open(self.paths[position]).convert("RGB"))
            return image

    model = mobilenet_v2()
    model.load_state_dict(torch.load(work.weights))
    model.eval()
    good = work.good()
    faiss.normalize_L2(good)
    index = faiss.IndexFlatIP(good.shape[1])
    index.add(good)

    def score(name: str) -> np.ndarray:
        scores = []
        with torch.inference_mode():
            for images in DataLoader(Images(work.folder / name), batch_size=32, num_workers=os.cpu_count() or 1):
                embeddings = model.features(images).mean(dim=(2, 3)).numpy()
                faiss.normalize_L2(embeddings)
                nearest, _ = index.search(embeddings, 1)
                scores.append(1 - nearest[:, 0])
        return np.concatenate(scores)

    return score


def best_side(work: Work) -> Callable[[str], np.ndarray]:
    specification = importlib.util.spec_from_file_location("best_loop", BEST_LOOP)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    good = work.good()
    return lambda name: module.score_folder(work.folder / name, work.weights, good)[1]


SIDES = {METRAD: metrad_side, USUAL: usual_side, BEST: best_side}


def take_turn(side: str, work: Work) -> None:
    """Score the folder in this process, and print the seconds; the scores go into a file."""
    score = SIDES[side](work)
    score("first")
    start, before = time.perf_counter(), computed()
    scores = score("new")
    seconds, cpu = time.perf_counter() - start, computed() - before
    np.save(work.folder / "scores.npy", scores)
    print(json.dumps([len(scores) / seconds, 1000 * cpu / len(scores)]))


def computed() -> float:
    """Return the seconds that this process and those it started and that have ended have computed."""
    return sum(os.times()[:4])


def turn(side: str, work: Work) -> Turn:
    """Score the folder in a process of its own."""
    watch = Watch(files=True, pause=0.5)
    said = command(*_own_command(work), f"--turn={side}", watch=watch).said
    return Turn(*json.loads(said.splitlines()[-1]), watch.peak, np.load(work.folder / "scores.npy"))


def _own_command(work: Work) -> list[object]:
    own = [sys.executable, "-W", "ignore", __file__]
    return [*own, f"--folder={work.folder}", f"--weights={work.weights}", f"--size={work.size}"]


def take_stream(work: Work, count: int) -> None:
    """Stream ``count`` images in this process, and print its memory after 1,000 and at the end, as JSON."""
    from metrad import Detector

    detector, rows, done = Detector.load(work.run), [], 0
    paths = sorted((work.folder / "new").iterdir())
    start = time.perf_counter()
    for batch in detector.stream(islice(cycle(paths), count)):
        early, done = done < EARLY, done + len(batch.images)
        if (early and done >= EARLY) or done == count:
            rows.append([f"{done:,}", *resident(), f"{done / (time.perf_counter() - start):.0f}"])
    print(json.dumps(rows))


def resident() -> tuple[str, str]:
    """Return the resident memory of this process in MB, now and at most until now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
    return f"{found['VmRSS'] * 1024 / 1e6:.0f}", f"{found['VmHWM'] * 1024 / 1e6:.0f}"


def random_weights(file: Path, images: list[Path], size: int) -> None:
    """Write weights drawn at random; the normalisations are fitted to the images, or all embeddings would be alike."""
    import torch
    from torchvision.io import decode_image
    from torchvision.models import mobilenet_v2
    from torchvision.transforms.v2 import functional as transforms

    torch.manual_seed(0)
    model = mobilenet_v2()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, here of the one
    batch = torch.stack([transforms.resize(decode_image(str(path)), [size, size]) for path in images]) / 255
    with torch.no_grad():
        model.train()(transforms.normalize(batch, MEAN, STD))
    torch.save(model.state_dict(), file)


def prepared(chosen: argparse.Namespace) -> Work:
    """Make the images, the weights and the detector; what is in the folder already is taken as it is."""
    folder, shape = chosen.folder, (chosen.width, chosen.height)
    good = write(folder / "good", chosen.good, shape, seed=1)
    write(folder / "new", chosen.images, shape, seed=2)
    write(folder / "first", min(WARM_UP, chosen.images), shape, seed=3)
    weights = chosen.weights or folder / "weights.pth"
    if not weights.exists():
        random_weights(weights, good[:WARM_UP], chosen.size)
    work = Work(folder, weights, chosen.size)
    if not work.run.exists():
        plain = ["backbone=mobilenet_v2", "whiten=false", "scorer=knn", f"backbone.weights={weights.absolute()}"]
        source = [f"dataset.source.root={folder.absolute()}", "dataset.source.folders=[good]", "dataset.normal=[good]"]
        train("experiment=inspect", *plain, *source, f"image_size={chosen.size}", f"hydra.run.dir={work.run}")
    return work


def measure(work: Work, rounds: int, tolerance: float) -> None:
    """Measure all sides and print the table; end this process if their scores disagree."""
    sides = {side: partial(turn, side, work) for side in SIDES if side != BEST or work.size == SIZE}
    measured = in_turns(sides, rounds)
    usual = measured[USUAL]
    rows, wrong = [], []
    for side, turns in measured.items():
        speeds, others = [each.speed for each in turns], [each.speed for each in usual]
        apart = max(float(np.max(np.abs(each.scores / usual[0].scores - 1))) for each in turns)
        middle = f"{statistics.median(speeds):.1f}", f"{ratio(speeds, others):.2f}"
        peak, cpu = max(each.peak for each in turns), statistics.median(each.cpu for each in turns)
        each_round = " ".join(f"{a / b:.2f}" for a, b in zip(speeds, others, strict=True))
        rows.append(
            [
                side,
                *middle,
                f"{cpu:.1f}",
                f"{peak:.0f}",
                f"{apart:.1e}",
                " ".join(f"{s:.1f}" for s in speeds),
                each_round,
            ]
        )
        if not apart <= tolerance:
            wrong.append(f"{side}: {apart:.2g}")
    columns = ["images/s", "÷ usual loop", "CPU ms/image", "peak MB", "difference", "rounds", "ratio by round"]
    print(table(["side", *columns], rows))
    if BEST in measured:
        against = ratio([each.speed for each in measured[METRAD]], [each.speed for each in measured[BEST]])
        print(f"\nmetrad ÷ best loop: {against:.2f}")
    if wrong:
        sys.exit(f"the scores differ from those of the usual loop by more than is tolerated: {'; '.join(wrong)}")


def main() -> None:
    """Make the images and the detector, measure all sides in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="images to score")
    parser.add_argument("--good", type=int, default=500, help="good images to fit the detector on")
    parser.add_argument("--width", type=int, default=1024, help="of the images, in pixels")
    parser.add_argument("--height", type=int, default=768, help="of the images, in pixels")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width in pixels that the model sees")
    parser.add_argument("--weights", type=Path, help="a file of MobileNetV2's state dict; random ones if not given")
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep all files there, and take those of an earlier call")
    parser.add_argument("--stream", type=int, help="measure the memory over so many images instead")
    parser.add_argument("--turn", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    if chosen.turn:
        take_turn(chosen.turn, Work(chosen.folder, chosen.weights, chosen.size))
    elif chosen.in_process:
        take_stream(Work(chosen.folder, chosen.weights, chosen.size), chosen.stream)
    else:
        with tempfile.TemporaryDirectory() as folder:
            chosen.folder = (chosen.folder or Path(folder)).absolute()
            report(chosen)


def report(chosen: argparse.Namespace) -> None:
    """Measure what was asked for and print its table."""
    work = prepared(chosen)
    sizes = [path.stat().st_size / 1000 for path in (work.folder / "new").iterdir()]
    print(f"{len(sizes)} JPEGs of {chosen.width}x{chosen.height}, {min(sizes):.0f} to {max(sizes):.0f} kB, ", end="")
    print(f"MobileNetV2 at {work.size} pixels, {len(work.good())} good embeddings, {machine()}\n", flush=True)
    if chosen.stream is None:
        measure(work, chosen.rounds, chosen.tolerance)
        return
    said = command(*_own_command(work), f"--stream={chosen.stream}", "--in-process").said
    print(table(["images", "resident MB", "at most MB", "images/s"], json.loads(said.splitlines()[-1])))


if __name__ == "__main__":
    main()
