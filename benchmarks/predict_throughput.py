"""Images per second from a folder of JPEGs to embeddings, hand-written and by metrad, side by side in one process.

- Hand-written: torchvision's ImageFolder with Resize, ToTensor and Normalize an image, a DataLoader, model.eval() and
  torch.no_grad(), float32, contiguous. Every pass decodes every image.
- metrad, cold: reading the folder, decoding all images once, drawing the roles, embedding.
- metrad, warm: embedding alone, from images that are decoded already, as in a second pass over them.

MobileNetV2 with the same weights for all: random ones, unless --weights names a file. The system has the files cached.

The embeddings are compared in the same run: for each image the distance between metrad's and the hand-written one, the
largest of all, as a share of the median distance between two images. Both sides resize with antialiasing before they
make floats of the pixels, the hand-written version by Pillow and metrad by torchvision. For most sizes, 128 to 96 among
them, that gives the same pixels, and float32 embeddings differ by about 1e-6; for others (40 to 32, 100 to 96) some
pixels differ by one level of 255, and embeddings by about 0.02. More than --tolerance is an error; for half precision,
whose rounding is a good part of the distance between similar images, more than --half-tolerance.

    OMP_NUM_THREADS=2 python benchmarks/predict_throughput.py [--folder DIR | --count 1000 --pixels 128] [--rounds 5]
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from _measure import in_turns, machine, precisions, ratio, table
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from metrad.data import store
from metrad.data.prepared import PreparedData
from metrad.data.roles import Roles
from metrad.data.sources import ImageFolder
from metrad.data.store import GIB, Storage
from metrad.evaluation.embeddings import embed
from metrad.models.backbones import mobilenet_v2
from metrad.models.base import InputSpec
from metrad.models.embedder import Embedder

BATCH = 128
HAND, COLD, WARM = "hand-written", "metrad, cold", "metrad, warm"
Embeddings = dict[str, np.ndarray]  # by the file's path below the folder
Result = tuple[float, Embeddings]  # images per second, and what they gave


@dataclass(frozen=True)
class Work:
    """What all sides embed, and with what."""

    folder: Path
    model: nn.Module
    spec: InputSpec
    embedder: Embedder
    device: torch.device


def timed(work: Callable[[], Embeddings]) -> Result:
    start = time.perf_counter()
    embeddings = work()
    return len(embeddings) / (time.perf_counter() - start), embeddings


def hand_written(work: Work, workers: int) -> Result:
    """Embed as a user writes it first."""
    size = work.embedder.size
    transform = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize(work.spec.mean, work.spec.std),
        ]
    )

    def run() -> Embeddings:
        data = torchvision.datasets.ImageFolder(str(work.folder), transform=transform)
        parts = []
        with torch.no_grad():
            for images, _ in DataLoader(data, BATCH, num_workers=workers):
                parts.append(work.model(images.to(work.device)).cpu().numpy())
        names = [Path(path).relative_to(work.folder).as_posix() for path, _ in data.samples]
        return dict(zip(names, np.concatenate(parts), strict=True))

    return timed(run)


def opened(work: Work, cache: Path) -> PreparedData:
    """Return the folder's images, decoded; every class but the first is normal, and none is for reference."""
    first, *others = sorted(path.name for path in work.folder.iterdir() if path.is_dir())
    sizes = {"reference": None, "normal": None, "calibration": 0.1, "test_normal": None, "test_anomalous": None}
    roles = Roles(others, first, [], sizes, test_share=0.5)
    source = partial(ImageFolder, work.folder)
    storage = Storage(2 * GIB, 64 * GIB, cache)
    data = PreparedData(source, roles, storage, seed=0, image_size=work.embedder.size)
    data.draw()
    return data


def embedded(work: Work, data: PreparedData, precision: str) -> Embeddings:
    result = embed(work.embedder, data, device=work.device, precision=precision)
    return {
        record.image: embedding
        for role, records in result.records.items()
        for record, embedding in zip(records, result.arrays[role], strict=True)
    }


def cold(work: Work, precision: str) -> Result:
    """Decode and embed; nothing is remembered from before."""
    store._in_memory.cache_clear()
    with tempfile.TemporaryDirectory() as cache:
        return timed(lambda: embedded(work, opened(work, Path(cache)), precision))


def warm(work: Work, data: PreparedData, precision: str) -> Result:
    """Embed alone."""
    return timed(lambda: embedded(work, data, precision))


def difference(ours: Embeddings, theirs: Embeddings) -> float:
    """Return the largest distance between two embeddings of an image, by the median one between two images."""
    names = sorted(ours)  # copies of an image are left out by metrad
    own, other = (np.stack([side[name] for name in names]) for side in (ours, theirs))
    apart = np.linalg.norm(other - other[np.random.default_rng(0).permutation(len(names))], axis=1)
    return float(np.linalg.norm(own - other, axis=1).max() / np.median(apart[apart > 0]))


def pictures(count: int, pixels: int) -> Iterator[Image.Image]:
    """Make smooth images with some noise, which as JPEGs are about as large as photographs."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((pixels, pixels), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = smooth + 8 * generator.standard_normal(smooth.shape, dtype=np.float32)
        yield Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write(folder: Path, count: int, pixels: int) -> None:
    """Write a folder of two classes."""
    for i, picture in enumerate(pictures(count, pixels)):
        file = folder / "ab"[i % 2] / f"{i:06d}.jpg"
        file.parent.mkdir(exist_ok=True)
        picture.save(file, quality=90)


def prepared(folder: Path, size: int, weights: str | None, device: str) -> Work:
    torch.manual_seed(0)
    backbone = mobilenet_v2(weights=weights)
    model = copy.deepcopy(backbone.module).to(device).eval()
    return Work(folder, model, backbone.input_spec, Embedder(backbone, image_size=size), torch.device(device))


def measure(work: Work, rounds: int, precisions: list[str], tolerances: list[float]) -> None:
    """Measure all sides and print the table; end this process if their embeddings disagree."""
    with tempfile.TemporaryDirectory() as cache:
        data = opened(work, Path(cache))
        sides: dict[str, Callable[[], Result]] = {
            f"{HAND} | 32-true | {workers} workers": partial(hand_written, work, workers) for workers in (0, 2)
        }
        for precision in precisions:
            sides[f"{COLD} | {precision} | "] = partial(cold, work, precision)
            sides[f"{WARM} | {precision} | "] = partial(warm, work, data, precision)
        plain = next(iter(sides))
        truth = in_turns(sides, 1)[plain][0][1]  # this turn warms up
        measured = in_turns(sides, rounds)
    rows, wrong = [], []
    for name, results in measured.items():
        speeds = [speed for speed, _ in results]
        middle = f"{statistics.median(speeds):.0f}", f"{ratio(speeds, [speed for speed, _ in measured[plain]]):.2f}"
        apart = difference(results[0][1], truth)
        rows.append([name, *middle, f"{apart:.1e}", " ".join(f"{speed:.0f}" for speed in speeds)])
        if apart > tolerances["32-true" not in name]:
            wrong.append(f"{name}: {apart:.2g}")
    columns = ["side", "precision", "reading", "images/s, median", "÷ hand-written", "difference", "rounds"]
    print(table(columns, rows))
    if wrong:
        sys.exit(f"the embeddings differ from the hand-written ones by more than is tolerated: {'; '.join(wrong)}")


def main() -> None:
    """Measure all sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="one folder of JPEGs a class, at least two; made up if not given")
    parser.add_argument("--count", type=int, default=1000, help="images that are made up")
    parser.add_argument("--pixels", type=int, default=128, help="their height and width")
    parser.add_argument("--image-size", type=int, default=96, help="that the model sees")
    parser.add_argument("--weights", help="a file of MobileNetV2's state dict")
    parser.add_argument("--precisions", default=precisions(), help="as Lightning names them")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--half-tolerance", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as made_up:
        folder = chosen.folder or Path(made_up)
        if chosen.folder is None:
            write(folder, chosen.count, chosen.pixels)
        work = prepared(folder, chosen.image_size, chosen.weights, chosen.device)
        files, size = sum(path.is_file() for path in folder.rglob("*")), f"{chosen.image_size}x{chosen.image_size}"
        print(f"{files} files, MobileNetV2 {size}, batch {BATCH}, {chosen.device}, torch {torch.__version__}, ", end="")
        print(f"{chosen.rounds} rounds in turns, {machine()}")
        measure(work, chosen.rounds, chosen.precisions.split(","), [chosen.tolerance, chosen.half_tolerance])


if __name__ == "__main__":
    main()
