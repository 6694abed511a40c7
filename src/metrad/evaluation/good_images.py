"""How the figures of a scorer change with the number of good images that it is fitted on."""

import logging
import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration, alarms
from metrad.evaluation.measures import thresholds
from metrad.evaluation.metrics import DETECTED, FALSE_ALARMS, by_name, ranked
from metrad.progress import bar

if TYPE_CHECKING:  # they import torch
    from metrad.evaluation.embeddings import Embedded
    from metrad.evaluation.evaluate import Evaluation, Groups
    from metrad.scorers import Scorer

log = logging.getLogger(__name__)

SIZES = (20, 50, 100, 300)
DRAWS = 10  # random subsets of each size


def curve(
    scorer: "Scorer", embedded: "Embedded", whole: "Evaluation", groups: "Groups | None" = None
) -> list[dict[str, Any]]:
    """Return the figures of ``scorer`` fitted on random subsets of the normal images, and on all of them.

    The images of each draw are the first ones of a random order, in which those of a group follow each other, so the
    subsets of a draw contain each other. Calibration and test images stay the same, and so do the embeddings: they are
    those of a network and a whitening that may have been fitted to all images.

    Args:
        scorer: refitted here to each subset.
        embedded: embeddings of all roles.
        whole: the evaluation of ``scorer`` on all normal images, with the false-alarm rates of its thresholds.
        groups: group number of each image by role; None if each image is a group of its own.

    Returns:
        a row for each of ``SIZES`` below the number of normal images, and for this number: ``images``, ``draws``, and
        of each figure the mean over draws, ``auroc``, ``false_alarms_at_RATE`` and ``detected_at_RATE``, with the
        lowest and the highest value. Without anomalous test images there are false alarms alone. A size with which the
        scorer cannot be fitted is logged and left out.
    """
    total = len(embedded.arrays["normal"])
    generators = [np.random.default_rng(draw) for draw in range(DRAWS)]
    own = {role: np.asarray(numbers) for role, numbers in (groups or {}).items()}
    orders = [_order(total, own.get("normal"), generator) for generator in generators]
    rows = []
    for size in bar([size for size in SIZES if size < total], "good images"):
        try:
            kept = [order[:size] for order in orders]
            found = [_refitted(scorer, embedded, whole, each, own.get("calibration")) for each in kept]
        except InputError as error:
            log.warning("%d good images are left out: %s", size, error)
            continue
        rows.append(_row(size, found))
    return [*rows, _row(total, [_figures(whole, whole.scores, whole.calibration)])]


def _order(count: int, groups: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """Return the positions of ``count`` images in random order, those of a group one after another."""
    if groups is None:
        return generator.permutation(count)
    numbers = np.unique(groups, return_inverse=True)[1]
    places = generator.permutation(int(numbers.max()) + 1)[numbers]
    return np.lexsort((generator.random(count), places))


def _refitted(
    scorer: "Scorer", embedded: "Embedded", whole: "Evaluation", kept: np.ndarray, groups: np.ndarray | None
) -> dict[str, float]:
    """Return the figures of ``scorer`` after it is fitted on the normal images at the positions ``kept``, (n,).

    ``groups`` are the group numbers of the calibration images.
    """
    classes = np.unique(embedded.normal_classes[kept], return_inverse=True)[1]
    scorer.fit(embedded.arrays["normal"][kept], classes, reference=embedded.reference)
    calibration = Calibration(scorer.score(embedded.arrays["calibration"]), groups)
    return _figures(whole, scorer.score(embedded.test), calibration)


def _figures(whole: "Evaluation", scores: np.ndarray, calibration: Calibration) -> dict[str, float]:
    anomalous = whole.anomalous
    found = {"auroc": by_name()["auroc"].of_sample(*ranked(scores, anomalous))} if anomalous.any() else {}
    rates = [entry["false_alarm_rate"] for entry in whole.metrics["thresholds"]]
    for rate, threshold in thresholds(calibration, rates, None)[0].items():
        above = alarms(scores, threshold)
        found[f"{FALSE_ALARMS}{rate:g}"] = float(above[~anomalous].mean())
        if anomalous.any():
            found[f"{DETECTED}{rate:g}"] = float(above[anomalous].mean())
    return found


def _row(size: int, draws: list[dict[str, float]]) -> dict[str, Any]:
    return {"images": size, "draws": len(draws), **dict(_spread(draws))}


def _spread(draws: list[dict[str, float]]) -> Iterator[tuple[str, float]]:
    for name in draws[0]:
        values = [each[name] for each in draws]
        yield name, statistics.fmean(values)
        yield f"{name}_low", min(values)
        yield f"{name}_high", max(values)


def readable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of ``curve`` with each figure in one text, its mean and in brackets its lowest and highest."""
    return [{"images": int(row["images"]), "draws": int(row["draws"]), **_texts(row)} for row in rows]


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    names = [name for name in row if f"{name}_low" in row and f"{name}_high" in row]
    return {name: f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})" for name in names}
