"""False alarms that the operating envelope predicts for an exposure, beside those of tiles photographed with it.

The good magnetic tiles were photographed under six exposures. For each seed the tiles are drawn that are tested, those
that thresholds come from and those that are compared with, so that no tile has two of these roles. The detector is a
nearest-neighbour index over frozen features.

- One exposure held out: index and calibration have the photographs of the other five exposures. Predicted is the rate
  of the calibration photographs, each changed from its exposure to the one held out, as the envelope changes light.
  Realised is the rate of the photographs of new tiles with the exposure that was held out.
- One exposure alone: index and calibration have the photographs of this exposure, and the camera goes to another one.

How much light lies between two exposures is the median over tiles that have both. Rates are of a random photograph of a
random tile, their mean over seeds, with the standard deviation over seeds.

    python benchmarks/envelope.py --data data [--seeds 20] [--only 3] [--rate 0.05]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _measure import table
from false_alarms import TILES, Shares

from metrad.data.arrays import resize
from metrad.data.changes import CHANGES, changed
from metrad.data.duplicates import content_key
from metrad.data.groups import group_numbers
from metrad.data.sources import ImageFolder
from metrad.evaluation.conformal import conformal_threshold
from metrad.evaluation.envelope import false_alarm_share
from metrad.evaluation.forward import CPU_BATCH, Forward
from metrad.models.backbones import mobilenet_v2
from metrad.models.embedder import Embedder
from metrad.scorers import KNN


@dataclass(frozen=True)
class Tiles:
    """Good photographs, as they are and as they would be under every exposure.

    Attributes:
        parts: number of the tile that each shows, (N,).
        exposures: number of the exposure of each, (N,), from 1.
        vectors: embeddings as under exposure e at ``vectors[:, e - 1]``, (N, E, D); those of the own one are unchanged.
        light: exposure steps of each exposure above the first, (E,).
    """

    parts: np.ndarray
    exposures: np.ndarray
    vectors: np.ndarray
    light: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Rates of false alarms: of new tiles as fitted, predicted, and realised on new tiles."""

    usual: float
    predicted: float
    realised: float


def photographs(data: Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the pixels of the good photographs, their tiles and their exposures, without copies."""
    source = ImageFolder(data / "magnetic_tile", pattern="*.jpg")
    groups = group_numbers(TILES, source.names, columns={}, size_of=source.size_of)
    free = np.flatnonzero(source.labels == source.classes.index("MT_Free"))
    exposures = np.array([int(Path(source.names[i]).name.removeprefix("exp")[0]) for i in free])
    pixels = [source.read(int(i)).pixels for i in free]
    first = np.unique([content_key(image) for image in pixels], return_index=True)[1]
    kept = np.sort(first[exposures[first] > 0])  # one photograph has the number 0
    return [pixels[i] for i in kept], groups[free][kept], exposures[kept]


def light_of(pixels: list[np.ndarray], parts: np.ndarray, exposures: np.ndarray) -> np.ndarray:
    """Return the exposure steps between the first exposure and each, (E,): sums of medians over tiles with both."""
    linear = np.array([np.log2(_linear(image).mean()) for image in pixels])
    steps = [0.0]
    for e in range(2, int(exposures.max()) + 1):
        before = dict(zip(parts[exposures == e - 1], linear[exposures == e - 1], strict=True))
        here = zip(parts[exposures == e], linear[exposures == e], strict=True)
        steps.append(float(np.median([light - before[part] for part, light in here if part in before])))
    return np.cumsum(steps)


def _linear(pixels: np.ndarray) -> np.ndarray:
    value = pixels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def embedded(data: Path, image_size: int) -> Tiles:
    """Return the good tiles, embedded by the frozen weights."""
    import torch

    pixels, parts, exposures = photographs(data)
    light = light_of(pixels, parts, exposures)
    backbone = mobilenet_v2(weights=str(data / "weights/mobilenet_v2_imagenet.pth"))
    forward = Forward(Embedder(backbone, image_size=image_size).eval(), torch.device("cpu"), None)
    brighter, found = CHANGES[0], []
    for target in range(len(light)):
        steps = light[target] - light[exposures - 1]
        for start in range(0, len(pixels), CPU_BATCH):
            some = zip(pixels[start : start + CPU_BATCH], steps[start : start + CPU_BATCH], strict=True)
            images = [resize(changed(image, brighter, step, [0]), (image_size, image_size)) for image, step in some]
            found.append(forward(torch.from_numpy(np.stack(images))))
    vectors = np.concatenate(found).reshape(len(light), len(pixels), -1).swapaxes(0, 1)
    return Tiles(parts, exposures, vectors, light)


def measured(tiles: Tiles, shares: Shares, fitted: np.ndarray, target: int, rate: float, seed: int) -> Outcome:
    """Return the rates of one seed for a detector of the exposures ``fitted`` when the camera goes to ``target``."""
    order = np.random.default_rng(seed).permutation(np.unique(tiles.parts))
    tested, calibrating = order[: shares.test], order[shares.test : shares.test + shares.calibration]
    own, known = tiles.vectors[np.arange(len(tiles.parts)), tiles.exposures - 1], np.isin(tiles.exposures, fitted)
    new, calibration = np.isin(tiles.parts, tested), np.isin(tiles.parts, calibrating) & known
    scorer = KNN().fit(own[known & ~new & ~calibration])
    groups = tiles.parts[calibration]
    threshold = conformal_threshold(scorer.score(own[calibration]), rate, groups)

    def share(vectors: np.ndarray, of: np.ndarray) -> float:
        return false_alarm_share(scorer.score(vectors[of]), threshold, tiles.parts[of], any_image=False)

    return Outcome(
        share(own, new & known),
        share(tiles.vectors[:, target - 1], calibration),
        share(own, new & (tiles.exposures == target)),
    )


def line(tiles: Tiles, shares: Shares, fitted: np.ndarray, target: int, rate: float, seeds: int) -> list[object]:
    """Return a row of a table: the mean and the standard deviation over seeds of each rate, in percent."""
    found = [measured(tiles, shares, fitted, target, rate, seed) for seed in range(seeds)]
    columns = [[getattr(one, name) for one in found] for name in ("usual", "predicted", "realised")]
    steps = tiles.light[target - 1] - tiles.light[fitted - 1].mean()
    return [target, f"{steps:+.2f}", *(f"{100 * np.mean(each):.1f} ± {100 * np.std(each):.1f}" for each in columns)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with magnetic_tile and weights")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.05, help="false-alarm rate of the threshold")
    parser.add_argument("--only", default="1,3,6", help="exposures to fit on alone")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--shares", default="80,60", help="tiles to calibrate with and to test on")
    chosen = parser.parse_args()
    shares = Shares(*map(int, chosen.shares.split(",")))
    tiles = embedded(chosen.data, chosen.image_size)
    print(f"{len(tiles.parts)} photographs of {len(np.unique(tiles.parts))} tiles; {chosen.seeds} seeds")
    every = np.arange(1, len(tiles.light) + 1)
    head = ["exposure", "steps of light from those fitted", "new tiles, as fitted, %", "predicted, %", "realised, %"]
    print(f"\none exposure held out, threshold for {100 * chosen.rate:g} %\n")
    rows = [line(tiles, shares, every[every != e], e, chosen.rate, chosen.seeds) for e in every.tolist()]
    print(table(head, rows))
    for alone in map(int, chosen.only.split(",")):
        print(f"\nfitted on exposure {alone} alone\n")
        fitted = every[every == alone]
        rows = [line(tiles, shares, fitted, e, chosen.rate, chosen.seeds) for e in every.tolist() if e != alone]
        print(table(head, rows))


if __name__ == "__main__":
    main()
