"""False alarms on new parts: thresholds from a split by part beside those from a split by photograph.

The good images of a class are embedded once, by frozen weights. For each seed, the parts to test on are drawn and set
aside: no photograph of them is in any part of a fit. The other parts are split in two ways, with the same number of
images to calibrate with: by part, as ``dataset.group`` does, and by photograph, as if there were no groups. Either way
the detector is a nearest-neighbour index, and thresholds come from the calibration images.

A table says for each false-alarm rate the mean over seeds, with its standard error, of the rate on the new parts (of a
random photograph of a random part), and the number of seeds in which at most that share of the new parts has any alarm.
The first is what a threshold promises on average, the second what one with a confidence promises. The last column is
what the split by photograph seems to keep: the rate on further photographs of the parts that it was fitted on.

    python benchmarks/false_alarms.py --data data [--seeds 20] [--recipe fit] [--out FILE.csv]
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _measure import table

from metrad.data.duplicates import one_of_each
from metrad.data.groups import Pattern, group_numbers
from metrad.data.sources import ImageFolder
from metrad.data.store import GIB, Storage, load
from metrad.evaluation.conformal import (
    calibration_groups_needed,
    confident_threshold,
    conformal_threshold,
    largest_by_group,
)
from metrad.evaluation.forward import CPU_BATCH, Forward
from metrad.models.backbones import mobilenet_v2
from metrad.models.embedder import Embedder
from metrad.models.whitening import within_class_whitening
from metrad.scorers import KNN

TILES = Pattern(r"exp(?P<view>\d)_num_(?P<number>\d+)", gap=60, size=0.1)
KINDS = ("by part", "by photograph")


@dataclass(frozen=True)
class Parts:
    """Embeddings (N, D) of good photographs, and the number of the part that each shows, (N,)."""

    vectors: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Shares:
    """Number of parts to calibrate with and to test on; the others are the index."""

    calibration: int
    test: int


class WhitenedKNN:
    """The scorer of ``experiment=inspect``: embeddings whitened by those of the index, Euclidean distance."""

    def fit(self, vectors: np.ndarray) -> "WhitenedKNN":
        """Fit the whitening and the index on embeddings (N, D)."""
        self.centre, self.whitening = within_class_whitening(vectors, np.zeros(len(vectors), dtype=int))
        self.knn = KNN(metric="l2").fit(self._whitened(vectors))
        return self

    def score(self, vectors: np.ndarray) -> np.ndarray:
        """Return the scores (N,) of embeddings (N, D)."""
        return self.knn.score(self._whitened(vectors))

    def _whitened(self, vectors: np.ndarray) -> np.ndarray:
        return ((vectors - self.centre) @ self.whitening.T).astype(np.float32)


#: Layers whose features are joined (None: the last one's alone), and the scorer, by name.
RECIPES: dict[str, tuple[list[str] | None, Callable[[], KNN | WhitenedKNN]]] = {
    "last": (None, KNN),
    "fit": (["features.10", "features.13", "features.16"], WhitenedKNN),
}


def embedded(data: Path, *, image_size: int, layers: list[str] | None = None) -> Parts:
    """Return the good magnetic tiles, embedded by the frozen weights."""
    import torch

    source = ImageFolder(data / "magnetic_tile", pattern="*.jpg")
    groups = group_numbers(TILES, source.names, columns={}, size_of=source.size_of)
    images = load(source, image_size, Storage(2 * GIB, 0, data / "cache"), skip_corrupt=False)
    free = np.flatnonzero(source.labels == source.classes.index("MT_Free"))
    good, _ = one_of_each(images.pool.content, free, None)
    backbone = mobilenet_v2(weights=str(data / "weights/mobilenet_v2_imagenet.pth"), layers=layers)
    forward = Forward(Embedder(backbone, image_size=image_size).eval(), torch.device("cpu"), None)
    batches = [good[start : start + CPU_BATCH] for start in range(0, len(good), CPU_BATCH)]
    return Parts(np.concatenate([forward(torch.from_numpy(images.images[b])) for b in batches]), groups[good])


@dataclass(frozen=True)
class Split:
    """Positions of the photographs that one way of splitting gives.

    Attributes:
        kind: one of ``KINDS``.
        index: photographs that the detector is fitted on.
        calibration: photographs that thresholds come from.
        groups: part of each calibration photograph; None where photographs count as independent.
        new: photographs of parts that no other role has any of.
        known: further photographs of the parts of index and calibration; none if parts are kept whole.
    """

    kind: str
    index: np.ndarray
    calibration: np.ndarray
    groups: np.ndarray | None
    new: np.ndarray
    known: np.ndarray


def splits(parts: Parts, shares: Shares, seed: int) -> list[Split]:
    """Return both splits of the photographs, with the same new parts and as many calibration photographs."""
    order = np.random.default_rng(seed).permutation(np.unique(parts.groups))
    tested, calibrating = order[: shares.test], order[shares.test : shares.test + shares.calibration]
    new = np.flatnonzero(np.isin(parts.groups, tested))
    calibration = np.flatnonzero(np.isin(parts.groups, calibrating))
    index = np.setdiff1d(np.arange(len(parts.groups)), np.concatenate([new, calibration]))
    by_part = Split(KINDS[0], index, calibration, parts.groups[calibration], new, index[:0])
    drawn = np.random.default_rng([seed, 1]).permutation(np.concatenate([index, calibration]))
    one, other = len(calibration), len(calibration) + len(index) // 3
    return [by_part, Split(KINDS[1], drawn[other:], drawn[:one], None, new, drawn[one:other])]


def measured(
    parts: Parts, split: Split, rate: float, confidence: float, make: Callable[[], KNN | WhitenedKNN] = KNN
) -> list[dict[str, object]]:
    """Return a row for each kind of threshold: its rates on photographs of new parts, and of known ones."""
    scorer = make().fit(parts.vectors[split.index])
    scores, groups = scorer.score(parts.vectors[split.calibration]), split.groups
    of_new, shown = scorer.score(parts.vectors[split.new]), parts.groups[split.new]
    of_known = scorer.score(parts.vectors[split.known]) if len(split.known) else None
    limits = {
        "on average": conformal_threshold(scores, rate, groups),
        f"confidence {confidence:g}": confident_threshold(scores, rate, confidence, groups),
    }
    return [
        {
            "rate": rate,
            "split": split.kind,
            "threshold": name,
            "calibration": len(scores) if groups is None else len(np.unique(groups)),
            "on new parts": pd.Series(of_new > limit).groupby(shown).mean().mean(),
            "parts with an alarm": (largest_by_group(of_new, shown) > limit).mean(),
            "on known parts": np.nan if of_known is None else (of_known > limit).mean(),
        }
        for name, limit in limits.items()
    ]


def summarised(rows: pd.DataFrame) -> list[list[object]]:
    """Return the rows of the table: a line for each rate, split and threshold."""
    lines: list[list[object]] = []
    for (rate, split, threshold), members in rows.groupby(["rate", "split", "threshold"], sort=False):
        new, parts = members["on new parts"], members["parts with an alarm"]
        known = members["on known parts"].mean()
        lines.append(
            [
                *(f"{100 * rate:g} %", split, threshold, f"{members['calibration'].mean():.0f}"),
                f"{100 * new.mean():.1f} ± {100 * new.sem():.1f} %",
                f"{100 * parts.mean():.1f} %",
                f"{int((parts <= rate).sum())} of {len(members)}",
                "" if np.isnan(known) else f"{100 * known:.1f} %",
            ]
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with magnetic_tile and weights")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rates", default="0.05,0.1", help="false-alarm rates")
    parser.add_argument("--recipe", choices=list(RECIPES), default="last", help="fit: that of metrad fit")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--shares", default="80,60", help="parts to calibrate with and to test on")
    parser.add_argument("--out", type=Path, help="file for the rows of all seeds as CSV")
    chosen = parser.parse_args()
    rates, shares = [float(rate) for rate in chosen.rates.split(",")], Shares(*map(int, chosen.shares.split(",")))
    enough = max(calibration_groups_needed(rate, chosen.confidence) for rate in rates)
    if shares.calibration < enough:
        parser.error(f"--shares: these rates take {enough} parts to calibrate with, got {shares.calibration}")
    layers, make = RECIPES[chosen.recipe]
    parts = embedded(chosen.data, image_size=chosen.image_size, layers=layers)
    print(f"{len(parts.groups)} photographs of {len(np.unique(parts.groups))} parts; {chosen.seeds} seeds")
    rows = [
        row
        for rate in rates
        for seed in range(chosen.seeds)
        for split in splits(parts, shares, seed)
        for row in measured(parts, split, rate, chosen.confidence, make)
    ]
    frame = pd.DataFrame(rows)
    head = ["rate", "split", "threshold", "calibration", "on new parts", "new parts with an alarm"]
    print(table([*head, "seeds within the rate", "on known parts"], summarised(frame)))
    if chosen.out:
        frame.to_csv(chosen.out, index=False)


if __name__ == "__main__":
    main()
