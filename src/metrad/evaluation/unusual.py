"""The good images that are most unlike the others. A folder of good parts may hold defects, which stand out here."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metrad.data.prepared import ImageRecord
from metrad.evaluation.embeddings import Embedded
from metrad.scorers.search.distances import Metric, prepared
from metrad.scorers.search.indexes import IndexSettings, build, search, search_others

GOOD_ROLES = ("normal", "calibration", "test_normal")
MOST = 64  # nearest images among which one of another group is looked for


@dataclass(frozen=True)
class UnusualImage:
    """A good image, its role, and its distance to the nearest normal training image of another group."""

    record: ImageRecord
    role: str
    distance: float
    nearest: ImageRecord


def most_unusual(
    embedded: Embedded, groups: Mapping[str, np.ndarray] | None = None, metric: Metric = "cosine"
) -> list[UnusualImage]:
    """Return all good images, of the roles ``GOOD_ROLES``, the most unusual first.

    A training image is compared with the other training images and
    not with those of its own group, so that it is judged like an image that is not trained on.

    Args:
        embedded: embeddings of these roles; with a single training image, that image is left out.
        groups: group number of each image, (N,), by role; None if each image is a group of its own.
        metric: the distance.
    """
    normal, records = embedded.arrays["normal"], embedded.records["normal"]
    index = build(IndexSettings(), normal, metric)
    found: list[UnusualImage] = []
    for role in GOOD_ROLES:
        if role == "normal":
            if len(normal) < 2:
                continue
            own = np.arange(len(normal)) if groups is None else groups["normal"]
            distances, places = _among_others(index, own, metric)
        else:
            near = search(index, prepared(embedded.arrays[role], metric), 1, metric, None)
            distances, places = (each[:, 0] for each in near)
        each = zip(embedded.records[role], distances.tolist(), places.tolist(), strict=True)
        found += [UnusualImage(record, role, distance, records[place]) for record, distance, place in each]
    return sorted(found, key=lambda one: -one.distance)


def _among_others(index: object, groups: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Return distance and position (N,) of the nearest image of another group.

    If there is none among the ``MOST`` nearest ones, it is the nearest of them.

    ``groups`` (N,) are the group numbers of the images in ``index``.
    """
    count = len(groups)
    largest = int(np.unique(groups, return_counts=True)[1].max())
    distances, places = search_others(index, np.arange(count), min(largest, count - 1, MOST), metric, None)
    other = (groups[places] != groups[:, None]).argmax(axis=1)
    rows = np.arange(count)
    return distances[rows, other], places[rows, other]
