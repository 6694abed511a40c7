"""The effective rank written out: singular values by turning columns until they stand upright on each other."""

import math

import numpy as np
from numpy.typing import ArrayLike

SWEEPS = 15  # it converges quadratically; six columns take about six


def singular_values(matrix: ArrayLike) -> list[float]:
    """Lengths of the columns once every two of them are orthogonal; one-sided Jacobi (Hestenes 1958)."""
    columns = [list(column) for column in np.asarray(matrix, dtype=np.float64).T.tolist()]
    for _ in range(SWEEPS):
        for i in range(len(columns)):
            for j in range(i + 1, len(columns)):
                _turn(columns, i, j)
    return sorted((math.sqrt(math.fsum(x * x for x in column)) for column in columns), reverse=True)


def _turn(columns: list[list[float]], i: int, j: int) -> None:
    a = math.fsum(x * x for x in columns[i])
    b = math.fsum(x * x for x in columns[j])
    c = math.fsum(x * y for x, y in zip(columns[i], columns[j], strict=True))
    if c == 0:
        return
    angle = 0.5 * math.atan2(2 * c, a - b)
    cos, sin = math.cos(angle), math.sin(angle)
    pairs = list(zip(columns[i], columns[j], strict=True))
    columns[i] = [cos * x + sin * y for x, y in pairs]
    columns[j] = [cos * y - sin * x for x, y in pairs]


def effective_rank(matrix: ArrayLike) -> float:
    """exp(H(p_1, …, p_Q)), H the Shannon entropy by the natural logarithm and 0 ln 0 = 0; definition 1 of the paper."""
    sigma = singular_values(matrix)
    p = [value / math.fsum(sigma) for value in sigma]
    return math.exp(-math.fsum(value * math.log(value) for value in p if value > 0))


def spread_rank(embeddings: ArrayLike) -> float:
    """The same of the embeddings less their mean."""
    rows = np.asarray(embeddings, dtype=np.float64).tolist()
    mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    return effective_rank([[x - m for x, m in zip(row, mean, strict=True)] for row in rows])
