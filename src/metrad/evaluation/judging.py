"""The figures of any detector from a table of its scores, and the difference of two detectors on the same images."""

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from metrad.data.score_tables import ScoreTable
from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration, alarms, calibration_groups_needed, largest_by_group
from metrad.evaluation.intervals import bootstrap_differences, delong_difference
from metrad.evaluation.measures import Settings, alarm_rates, intervals, thresholds
from metrad.evaluation.metrics import by_class, summary, unmeasured


def judge(table: ScoreTable, settings: Settings) -> dict[str, Any]:
    """Return the figures of a table of scores, computed and named as those of ``metrics.json``.

    The rates of false alarms and detections need a promise that was made before: p-values of the images, or scores of
    calibration images. Without either, ``thresholds`` is empty, since a threshold read off the test images themselves
    would promise too much.

    Raises:
        InputError: a false-alarm rate of ``settings`` needs more calibration images.
    """
    scores, anomalous, groups = table.scores, table.anomalous, table.groups
    per_class = by_class(scores, anomalous, table.kinds) if anomalous.any() else {}
    promises = _promises(table, settings)
    return {
        **(summary(scores, anomalous) if anomalous.any() else unmeasured()),
        **({"per_class": per_class} if per_class else {}),
        "intervals": intervals(scores, anomalous, settings, groups),
        "thresholds": [
            {"false_alarm_rate": rate, **alarm_rates(above, anomalous, settings.level, groups, table.kinds)}
            for rate, above in promises.items()
        ],
        "sizes": {"test_normal": int((~anomalous).sum()), "test_anomalous": int(anomalous.sum())},
        **({} if groups is None else {"groups": _counts(table)}),
    }


def _counts(table: ScoreTable) -> dict[str, int]:
    assert table.groups is not None
    kinds = {"test_normal": ~table.anomalous, "test_anomalous": table.anomalous}
    return {name: len(np.unique(table.groups[kind])) for name, kind in kinds.items()}


def _promises(table: ScoreTable, settings: Settings) -> dict[float, np.ndarray]:
    """Return by false-alarm rate which images are alarms, (N,) booleans; by p-values where the table has them.

    An alarm at p <= rate keeps the promise with any number of calibration images. With few of them there is none.
    """
    asked = settings.false_alarm_rates or []
    if table.p_values is not None:
        p_values = table.p_values
        return {rate: p_values <= rate for rate in settings.wanted}
    if not len(table.calibration):
        if asked:
            raise InputError(
                f"{table.path} has neither p-values nor calibration images for a false-alarm rate of {asked[0]}; add "
                "the column p_value or rows with the label calibration, or leave out --rate"
            )
        return {}
    groups = table.calibration_groups
    count = len(largest_by_group(table.calibration, groups))
    enough = [rate for rate in settings.wanted if calibration_groups_needed(rate) <= count]
    for rate in asked:
        if rate not in enough:
            needed = f"{calibration_groups_needed(rate)} calibration images of different groups"
            raise InputError(
                f"{table.path}: a false-alarm rate of {rate} needs {needed}, got {count}; add rows with the label "
                "calibration, or raise --rate"
            )
    average, _ = thresholds(Calibration(table.calibration, groups), enough, None)
    return {rate: alarms(table.scores, threshold) for rate, threshold in average.items()}


def difference(first: ScoreTable, second: ScoreTable, settings: Settings) -> dict[str, Any]:
    """Return the differences of all metrics of two tables of the same images, ``first`` less ``second``.

    Returns:
        by metric its ``difference`` and the ``interval`` of a paired bootstrap, by group where a table has
        groups; and for ``auroc`` the interval and p-value of DeLong's method, ``delong`` and ``p_value``.

    Raises:
        InputError: the tables do not name the same images with the same labels and groups, or there are too few images.
    """
    order = _order(first, second)
    anomalous, groups, others = first.anomalous, _common_groups(first, second, order), second.scores[order]
    if min((~anomalous).sum(), anomalous.sum()) < 2:
        raise InputError(f"{first.path} needs two normal and two anomalous images for a difference")
    ends = bootstrap_differences(
        first.scores, others, anomalous, level=settings.level, resamples=settings.resamples, groups=groups
    )
    one, other = summary(first.scores, anomalous), summary(others, anomalous)
    found: dict[str, Any] = {
        name: {"difference": one[name] - other[name], "interval": list(between)} for name, between in ends.items()
    }
    try:
        _, low, high, p_value = delong_difference(first.scores, others, anomalous, settings.level, groups)
    except ValueError as error:
        raise InputError(f"{first.path}: {error}") from error
    found["auroc"] |= {"delong": [low, high], "p_value": p_value}
    return found


def _common_groups(first: ScoreTable, second: ScoreTable, order: list[int]) -> np.ndarray | None:
    """Return the groups of the images of ``first``, from the table that has some; None if neither has."""
    other = None if second.groups is None else second.groups[order]
    if first.groups is None or other is None:
        return other if first.groups is None else first.groups
    pairs = len(np.unique(np.stack([first.groups, other]), axis=1).T)
    if pairs != len(np.unique(first.groups)) or pairs != len(np.unique(other)):
        raise InputError(f"{first.path} and {second.path} put the images in other groups; keep the column in one")
    return first.groups


def _order(first: ScoreTable, second: ScoreTable) -> list[int]:
    """Return where the images of ``first`` stand in ``second``."""
    names, others = _names(first), _names(second)
    if set(names) != set(others):
        names, others = _below_one_folder(names, others)
    places = {image: place for place, image in enumerate(others)}
    for image, lacking in [
        *((image, second) for image in names if image not in places),
        *((image, first) for image in sorted(places.keys() - set(names))),
    ]:
        raise InputError(f"{lacking.path} lacks the image {image!r}; two tables are compared on the same images")
    order = [places[image] for image in names]
    differing = np.flatnonzero(second.anomalous[order] != first.anomalous)
    if len(differing):
        image = names[int(differing[0])]
        raise InputError(f"{first.path} and {second.path} do not agree whether {image!r} is anomalous")
    return order


def _names(table: ScoreTable) -> list[str]:
    if table.images is None:
        raise InputError(f"{table.path} names no images, so two tables cannot be paired; add the column image")
    return table.images


def _below_one_folder(names: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """Return the names below the folder that all names of a table share, if the two folders can be the same.

    So a path below the root of a dataset is paired with a path from elsewhere, as in bottle/test/good/000.png and
    /data/mvtec/bottle/test/good/000.png. One folder must end as the other one does. Else the names are as they came.
    """
    tables = [[PurePosixPath(name.replace("\\", "/")).parts for name in each] for each in (names, others)]
    shared = [_shared(table) for table in tables]
    short, long = sorted(shared, key=len)
    if long[len(long) - len(short) :] != short:
        return names, others
    below, other = (
        ["/".join(parts[len(folder) :]) for parts in table] for table, folder in zip(tables, shared, strict=True)
    )
    return (below, other) if set(below) == set(other) else (names, others)


def _shared(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folders that all ``paths`` begin with."""
    least, most = min(paths), max(paths)
    same = [one == other for one, other in zip(least[:-1], most[:-1], strict=False)]
    return least[: same.index(False) if False in same else len(same)]
