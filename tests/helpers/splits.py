"""Pools of images and classes to draw splits from, as strategies of hypothesis."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import strategies as st

from metrad.data.splits import ROLES, Classes, Pool, Split

ALL = dict.fromkeys(ROLES) | {"calibration": 0}


def classes_of(split: Split, pool: Pool, role: str) -> Counter:
    return Counter(pool.labels[split.indices[role]].tolist())


@st.composite
def pools(draw_value, test_part=None):
    """Pools with copies within and across classes and parts, unusable images and classes of no role."""
    labels, content, parts, usable = [], [], [], []
    fresh = itertools.count()
    for label in range(6):
        for part in (False, True):
            for _ in range(draw_value(st.integers(6, 12))):  # enough that no role runs empty
                labels.append(label)
                content.append(next(fresh))
                parts.append(part)
                usable.append(True)
    total = len(labels)
    for _ in range(draw_value(st.integers(0, 15))):
        labels.append(draw_value(st.integers(0, 5)))
        content.append(draw_value(st.integers(0, total - 1)))
        parts.append(draw_value(st.booleans()))
        usable.append(draw_value(st.integers(0, 3)) > 0)
    usable[draw_value(st.integers(0, total - 1))] = False
    order = np.array(draw_value(st.permutations(range(len(labels)))))
    arrays = [np.array(values)[order] for values in (labels, content, usable, parts)]
    return Pool(*arrays[:3], arrays[3] if draw_value(st.booleans() if test_part is None else test_part) else None)


@st.composite
def chosen_classes(draw_value):
    order = draw_value(st.permutations(range(6)))
    normal, anomalous, unused = (draw_value(st.integers(1, 2)), draw_value(st.integers(1, 2)), 1)
    return Classes(
        tuple(order[normal + anomalous + unused :]), tuple(order[:normal]), tuple(order[normal : normal + anomalous])
    )


seeds = st.integers(0, 2**70)
