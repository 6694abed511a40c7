"""The audit of a given test set: do its good images differ from the training images in something trivial?

Good training and good test images should be alike. If one number an image tells them apart, a detector may call every
new image anomalous, or find anomalies by that number. Test images that metrad draws itself are alike by construction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from metrad.data.properties import BY_NAME, Table, telling, title_of

ALPHA = 0.01  # chance that a clean split gets a warning on its properties, and another on its scores
LEAST = 0.6  # lowest AUROC of a property that is worth a warning, in the better direction
TIE = 0.1  # by which a property may tell less than the best one and still be named, if it comes first in the list
PERMUTATIONS = 999
_FAINT, _ZERO = 1 / 255, np.zeros(1)  # no level or spread of grey counts as lower
MOST_EXACT = 500  # scores on a side, up to which the p-value is exact
MOST_KINDS = 10  # the most frequent file types or cameras that are compared
TRAINING = ("normal", "calibration")
SIDES = {"training": TRAINING, "test": ("test_normal",)}


@dataclass(frozen=True)
class Confound:
    """A property that tells good training from good test images.

    Attributes:
        name: the property.
        auroc: how well it alone tells them apart, in the better direction.
        p_value: chance of so large a difference in any property of a clean split, by permutation.
        along: further properties that differ, which may be of the same cause.
    """

    name: str
    auroc: float
    p_value: float
    along: Sequence[str] = ()

    @property
    def line(self) -> str:
        """The confound in one line, with what to do."""
        along = f"; with it differ the {', the '.join(map(title_of, self.along))}" if self.along else ""
        advice = BY_NAME[self.name].advice if self.name in BY_NAME else "make the images alike in it"
        return (
            f"good test images differ from the training images: the {title_of(self.name)} alone tells them apart with "
            f"AUROC {self.auroc:.3f} (p = {self.p_value:.2g}){along}. False alarms and AUROC may be due to it: {advice}"
        )


def confound(table: Table) -> Confound | None:
    """Return the property that tells good training from good test images best; None if none does.

    Each property is compared by its AUROC, and all together by the largest one under permutations of the images, or of
    their groups, so that about a share ``ALPHA`` of clean splits has a confound. What makes images differ changes
    several properties, as the exposure does, so one is named, and the others that differ stand beside it.

    Args:
        table: properties of training and test images, with groups if several images show one part. Without training
            images there is no confound.

    Source:
        Westfall and Young 1993, Resampling-Based Multiple Testing, section 2.3 (permutation of the maximum).
    """
    differing = {name: found for name, found in comparison(table).items() if found[1] <= ALPHA and found[0] >= LEAST}
    if not differing:
        return None
    highest = max(auroc for auroc, _ in differing.values())
    best = next(name for name, (auroc, _) in differing.items() if auroc >= highest - TIE)
    return Confound(best, *differing[best], [name for name in differing if name != best])


def comparison(table: Table) -> dict[str, tuple[float, float]]:
    """Return for each property in which images differ its AUROC and its family-wise p-value, by name.

    The AUROC is that of good test images against good training images, in the better direction. The arguments are those
    of ``confound``.
    """
    tested = np.isin(table.roles, SIDES["test"])
    chosen = tested | np.isin(table.roles, TRAINING)
    if tested[chosen].all() or not tested[chosen].any():
        return {}
    images, alone = _columns(table.values[chosen]), tested[chosen]
    columns, tested = (images, alone) if table.groups is None else _by_group(images, alone, table.groups[chosen])
    aurocs = {key: _auroc(column, alone) for key, column in images.items()}
    found: dict[str, tuple[float, float]] = {}
    for key, p_value in _p_values(columns, tested).items():  # of the kinds of a property, the one that tells most
        found[key[0]] = max(found.get(key[0], (0.0, 1.0)), (aurocs[key], p_value))
    return found


Key = tuple[str, float]  # a property, and the kind that is compared with all others; 0 for a property without kinds


def _columns(values: np.ndarray) -> dict[Key, np.ndarray]:
    """Return what is compared of ``values`` (N, properties), (N,) by property and kind."""
    columns: dict[Key, np.ndarray] = {}
    for name, column in _beyond_light(telling(values)).items():
        if not BY_NAME[name].is_kind:
            columns[name, 0.0] = column
            continue
        kinds, counts = np.unique(column, return_counts=True)
        for kind in kinds[np.argsort(-counts, kind="stable")][:MOST_KINDS].tolist():
            columns[name, kind] = (column == kind).astype(np.float64)
    return columns


def _beyond_light(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the properties with contrast, colours and sharpness relative to grey, and file size to the content.

    Less light scales them all, and a darker file is a smaller one. So the light would be named by what it scales.
    """
    level, spread = (np.maximum(columns.get(name, _ZERO), _FAINT) for name in ("grey_mean", "grey_spread"))
    relative = {
        "grey_spread": lambda column: np.log2(np.maximum(column, _FAINT) / level),
        "sharpness": lambda column: column - 2 * np.log2(spread),
        "red_green": lambda column: column / level,
        "blue_yellow": lambda column: column / level,
    }
    found = {name: relative.get(name, np.asarray)(column) for name, column in columns.items()}
    for name, content in (("sharpness", ("grey_mean",)), ("bytes_per_pixel", ("grey_mean", "grey_spread"))):
        if name in found:
            found[name] = _unexplained(found[name], [found[cause] for cause in content if cause in found])
    return found


def _unexplained(column: np.ndarray, causes: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``column`` (N,) without what is linear in ``causes``, each (N,)."""
    terms = np.stack([np.ones(len(column)), *causes], axis=1)
    rest: np.ndarray = column - terms @ np.linalg.lstsq(terms, column, rcond=None)[0]
    return rest


def _by_group(
    columns: Mapping[Key, np.ndarray], tested: np.ndarray, groups: np.ndarray
) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """Return the mean of each column over the images of a group on one side, and whether the group is tested."""
    sides, places = np.unique(np.stack([groups, tested]), axis=1, return_inverse=True)
    counts = np.bincount(places)
    means = {key: np.bincount(places, column) / counts for key, column in columns.items()}
    return means, sides[1].astype(bool)


def _auroc(column: np.ndarray, tested: np.ndarray) -> float:
    """Return how well ``column`` (N,) tells the images ``tested`` from the others, in the better direction."""
    ranks = stats.rankdata(column)
    count, others = int(tested.sum()), int((~tested).sum())
    area = (ranks[tested].sum() - count * (count + 1) / 2) / (count * others)
    return float(max(area, 1 - area))


def _p_values(columns: Mapping[Key, np.ndarray], tested: np.ndarray) -> dict[Key, float]:
    """Return the family-wise p-value of each column, by permutations of the images."""
    if not columns:
        return {}
    ranks = np.stack([stats.rankdata(column) for column in columns.values()], axis=1)
    ranks -= ranks.mean(axis=0)
    spread = ranks.std(axis=0)
    ranks /= np.where(spread > 0, spread, 1)
    generator = np.random.default_rng(0)
    shuffled = generator.permuted(np.broadcast_to(tested, (PERMUTATIONS, len(tested))), axis=1).astype(np.float64)
    largest = np.abs(shuffled @ ranks).max(axis=1)
    own = np.abs(tested.astype(np.float64) @ ranks)
    larger = (largest[:, None] >= own - 1e-9).sum(axis=0)
    return dict(zip(columns, ((1 + larger) / (1 + PERMUTATIONS)).tolist(), strict=True))


@dataclass(frozen=True)
class Exchangeability:
    """Whether good test images score as the calibration images do, which the promise of false alarms takes.

    Attributes:
        p_value: of the two-sample test of Kolmogorov and Smirnov; with groups, of the mean of each.
        higher: chance that a test image scores higher than a calibration image, a tie counting one half.
    """

    p_value: float
    higher: float

    @property
    def line(self) -> str | None:
        """A warning in one line; None if the scores do not differ."""
        if self.p_value > ALPHA:
            return None
        where, alarms = ("higher", "more") if self.higher > 0.5 else ("lower", "fewer")
        return (
            f"good test images score {where} than calibration images (p = {self.p_value:.2g}; {100 * self.higher:.0f} "
            f"% of pairs), so false alarms on them are {alarms} than promised: calibrate with images that were taken "
            "as those to come"
        )


def exchangeability(
    calibration: np.ndarray,
    good: np.ndarray,
    calibration_groups: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Exchangeability | None:
    """Compare the scores of calibration images (M,) and good test images (N,); None with fewer than two of either.

    With the group number of each image, the means of the groups are compared: the largest score of a group rises with
    its number of images, in which the two sides may differ.

    Source:
        Hodges 1958, Arkiv för Matematik 3(5) (exact p-values of the two-sample test).
    """
    one, other = _means(calibration, calibration_groups), _means(good, groups)
    if min(len(one), len(other)) < 2:
        return None
    pairs = stats.mannwhitneyu(other, one).statistic / (len(one) * len(other))
    method = "exact" if max(len(one), len(other)) <= MOST_EXACT else "asymp"
    return Exchangeability(float(stats.ks_2samp(one, other, method=method).pvalue), float(pairs))


def _means(scores: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    if groups is None:
        return np.asarray(scores, dtype=np.float64)
    places = np.unique(groups, return_inverse=True)[1]
    means: np.ndarray = np.bincount(places, scores) / np.bincount(places)
    return means


def entry(found: Confound | None, scores: Exchangeability | None) -> dict[str, Any]:
    """Return the entry ``audit`` of ``metrics.json``."""
    differs = None if found is None else {**asdict(found), "along": list(found.along)}
    return {"confound": differs, "exchangeability": None if scores is None else asdict(scores)}


def lines(audit: Mapping[str, Any]) -> list[str]:
    """Return the warnings of an entry ``audit``, one line each; none for a clean split or an empty entry."""
    differs, scores = audit.get("confound"), audit.get("exchangeability")
    found = [Confound(**differs).line] if differs else []
    said = Exchangeability(**scores).line if scores else None
    return [*found, *([said] if said else [])]
