"""The effective rank against its slow twin, and at its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrad.evaluation.spectrum import effective_rank, spread_rank
from tests.reference.evaluation import spectrum as slow


def matrix(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 6))
def test_it_equals_its_twin(seed, rows, columns):
    # Singular values that fall from 1 to 10⁻⁶, as those of embeddings do
    vectors = matrix(seed, rows, columns) * np.geomspace(1, 1e-6, columns)
    assert effective_rank(vectors) == pytest.approx(slow.effective_rank(vectors), rel=1e-9)


@given(st.integers(0, 2**32), st.integers(3, 8), st.integers(1, 6))
def test_the_rank_about_the_mean_equals_its_twin(seed, rows, columns):
    vectors = (5 + matrix(seed, rows, columns)).astype(np.float32)
    assert spread_rank(vectors) == pytest.approx(slow.spread_rank(vectors), rel=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9))
def test_rank_one_is_one(seed, rows, columns):
    assert effective_rank(np.outer(matrix(seed, rows), matrix(seed + 1, columns))) == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("length", [1e-12, 1.0, 1e12])
def test_n_orthogonal_vectors_of_one_length_give_n(n, length):
    orthonormal = np.linalg.qr(matrix(n, 40, 40))[0][:n]
    assert effective_rank(length * orthonormal) == pytest.approx(n)
    assert spread_rank(length * orthonormal) == pytest.approx(max(0, n - 1))  # the mean takes one direction


def test_two_singular_values_give_the_entropy_of_a_coin():
    # H(1/4, 3/4) = 0.5623 nats
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(np.exp(0.5623351446188083))


@given(st.integers(0, 2**32), st.integers(2, 9), st.integers(1, 9))
def test_it_lies_between_one_and_the_rank_and_knows_no_scale_order_or_turn(seed, rows, columns):
    vectors = matrix(seed, rows, columns)
    rank = effective_rank(vectors)
    assert 1 <= rank <= np.linalg.matrix_rank(vectors) + 1e-9
    turn = np.linalg.qr(matrix(seed + 1, columns, columns))[0]
    for other in (1e-3 * vectors, vectors[::-1], vectors @ turn, vectors.T):
        assert effective_rank(other) == pytest.approx(rank)


@given(st.integers(0, 2**32), st.floats(-1e3, 1e3))
def test_the_rank_about_the_mean_knows_no_origin(seed, shift):
    vectors = matrix(seed, 12, 5)
    assert spread_rank(vectors + shift) == pytest.approx(spread_rank(vectors), rel=1e-6)


def test_a_common_mean_hides_the_spread_unless_it_is_taken_off():
    vectors = 100 + matrix(0, 50, 8)
    assert effective_rank(vectors) < 1.5
    assert spread_rank(vectors) > 7


@pytest.mark.parametrize("vectors", [np.zeros((4, 3)), np.ones((1, 3)), np.ones((4, 3), np.float32)])
def test_vectors_that_do_not_differ_spread_over_nothing(vectors):
    assert spread_rank(vectors) == 0
