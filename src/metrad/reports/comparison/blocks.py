"""Blocks of a comparison: conditions that share images count once in a test over the conditions.

Five values of ``scorer.k`` on one dataset are five conditions, but the same runs scored five times. A test that took
them for five datasets would find differences in noise.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Cell = dict[Any, float]  # the metric by seed
Place = tuple[Any, ...]  # the values of the conditions


def blocks(places: Sequence[Place], origins: Sequence[Collection[str]]) -> dict[Place, int]:
    """Return the number of the block of each condition, from 0.

    Two conditions are in one block if they share an origin, or if each shares one with a third condition of the block.

    Args:
        places: the condition of each run.
        origins: the names of the images of each run, such as its source and the hash of its split.
    """
    numbers = {place: i for i, place in enumerate(dict.fromkeys(places))}
    names = {name: len(numbers) + i for i, name in enumerate(dict.fromkeys(name for own in origins for name in own))}
    edges = [(numbers[place], names[name]) for place, own in zip(places, origins, strict=True) for name in own]
    rows, columns = np.array(edges, dtype=int).reshape(-1, 2).T
    size = len(numbers) + len(names)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    order = {label: i for i, label in enumerate(dict.fromkeys(labels[: len(numbers)].tolist()))}
    return {place: order[int(labels[number])] for place, number in numbers.items()}


def block_means(
    cells: Mapping[Place, Mapping[str, Cell]], block_of: Mapping[Place, int], values: Sequence[str], *, paired: bool
) -> tuple[np.ndarray, int]:
    """Return the means of ``values`` in each block, (blocks, values), and the number of conditions averaged in them.

    A condition counts if all values have runs in it, and its mean is over the seeds that all values have. The mean of a
    block is over its conditions.

    Args:
        cells: the metric by condition, value and seed.
        block_of: the block of each condition.
        values: the compared values.
        paired: whether runs of one seed are pairs; if not, the mean of a condition is over all seeds of each value.
    """
    means: dict[int, list[list[float]]] = {}
    for place, members in cells.items():
        own = [members.get(value, {}) for value in values]
        common = set.intersection(*(set(cell) for cell in own))
        chosen = [[cell[seed] for seed in cell if seed in common or not paired] for cell in own]
        if all(chosen):
            means.setdefault(block_of[place], []).append([float(np.mean(cell)) for cell in chosen])
    averaged = [np.mean(rows, axis=0) if len(rows) > 1 else np.array(rows[0]) for rows in means.values()]
    return np.array(averaged).reshape(-1, len(values)), sum(map(len, means.values()))
