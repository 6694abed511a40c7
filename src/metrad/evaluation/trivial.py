"""The trivial properties of the test images beside a detector: how well each alone tells anomalous images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metrad.data.properties import BY_NAME, telling, title_of
from metrad.evaluation.intervals import delong_difference, structural_components


def trivial(
    scores: np.ndarray, anomalous: np.ndarray, values: np.ndarray, level: float, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the entries of ``metrics.json`` on trivial properties; empty without normal or anomalous images.

    An AUROC counts in the better direction, as max(a, 1 - a), and so is at least 0.5. A property that has kinds, such
    as the file type, counts by the kind that tells the anomalous images best.

    Args:
        scores: scores of the test images by the detector, (N,).
        anomalous: whether each is anomalous, (N,) booleans.
        values: their properties, (N, properties), as ``data.properties`` measures them.
        level: confidence level of the interval.
        groups: group number of each image, (N,); None if each is a group of its own.

    Returns:
        ``trivial``, the AUROC of each property in which the images differ, by name, and ``beyond_trivial``: the best
        property, and DeLong's paired interval of the detector's AUROC less that of the property, if there is one.
    """
    if anomalous.all() or not anomalous.any():
        return {}
    aligned = {name: _aligned(name, column, anomalous) for name, column in telling(values).items()}
    aurocs = {name: _auroc(ranks, anomalous) for name, ranks in aligned.items()}
    if not aurocs:
        return {"trivial": {}}
    best = max(aurocs, key=lambda name: aurocs[name])
    found: dict[str, Any] = {"property": best, "auroc": aurocs[best]}
    try:
        difference, low, high, _ = delong_difference(scores, aligned[best], anomalous, level, groups)
    except ValueError:  # a single image or group of a kind has no variance
        return {"trivial": aurocs, "beyond_trivial": found}
    return {"trivial": aurocs, "beyond_trivial": {**found, "difference": difference, "interval": [low, high]}}


def _aligned(name: str, column: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Return a property (N,) turned so that it is higher for anomalous images; of kinds, the best one against all."""
    if BY_NAME[name].is_kind:
        kinds = [(column == kind).astype(np.float64) for kind in np.unique(column)]
        return max((_turned(kind, anomalous) for kind in kinds), key=lambda kind: _auroc(kind, anomalous))
    return _turned(column, anomalous)


def _turned(column: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    return column if _auroc(column, anomalous) >= 0.5 else -column


def _auroc(column: np.ndarray, anomalous: np.ndarray) -> float:
    return float(structural_components(column, anomalous)[0].mean())


def not_beyond(metrics: Mapping[str, Any]) -> str | None:
    """Return a sentence if a detector is not clearly better than the best trivial property; else None.

    ``metrics`` is the content of ``metrics.json``. Without an interval, as with a single image of a kind or in an older
    run, nothing is said.
    """
    best = metrics.get("beyond_trivial", {})
    if "interval" not in best or best["interval"][0] > 0:
        return None
    name, (low, high) = title_of(best["property"]), best["interval"]
    return (
        f"the detector is not clearly better than a trivial property: the {name} alone has AUROC "
        f"{best['auroc']:.4f} on these test images, in the better direction, and the detector {metrics['auroc']:.4f} "
        f"(difference {low:+.4f} to {high:+.4f})"
    )
