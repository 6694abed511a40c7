"""Descriptors against scipy's cosine transform, and near copies against a slow loop."""

import numpy as np
import pytest
from scipy.fft import dctn

from metrad.data.near_copies import DISTANCE_RATIO, EVENNESS, KEPT, descriptors, near_copies, standardised
from tests.helpers.parts import photographs, textures


def test_descriptors_are_scipy_s_low_frequencies_of_the_thumbnail():
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    small = images.mean(axis=3).reshape(5, 32, 2, 32, 2).mean(axis=(2, 4))
    expected = dctn(small, axes=(1, 2), norm="ortho")[:, :KEPT, :KEPT].reshape(5, -1)[:, 1:]
    np.testing.assert_allclose(descriptors(images, np.arange(5)), expected, rtol=1e-3, atol=0.01)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (33, 47, 3), (224, 224, 3)])
def test_images_of_every_size_have_descriptors_of_one_width(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    assert descriptors(images, np.array([2, 0])).shape == (2, KEPT * KEPT - 1)


def test_brightness_does_not_change_a_descriptor():
    images = textures(4) // 2
    brighter = images + 60
    np.testing.assert_allclose(
        descriptors(images, np.arange(4)), descriptors(brighter, np.arange(4)), rtol=1e-3, atol=0.01
    )


def test_deviations_are_made_more_equal():
    vectors = np.random.default_rng(0).normal(size=(300, 2)) * [1, 16]
    rows, centred = standardised(vectors), vectors - vectors.mean(axis=0)
    one, other = centred.std(axis=0)
    expected = centred[:, 1] / centred[:, 0] * (one / other) ** EVENNESS
    np.testing.assert_allclose(rows[:, 1] / rows[:, 0], expected, rtol=1e-3)


def test_standardised_rows_have_length_one_and_a_constant_becomes_zero():
    vectors = np.random.default_rng(0).normal(size=(30, 7)) * [1, 5, 9, 0.1, 2, 0, 3] + 4
    rows = standardised(vectors)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert (rows[:, 5] == 0).all()
    assert (standardised(np.ones((9, 3))) == 0).all()


def slow(vectors, signs):
    """The definition of near copies, pair by pair."""
    distance = np.linalg.norm(vectors[:, None].astype(float) - vectors, axis=2)
    tenth = np.sort(distance, axis=1)[:, 10]
    return [
        (i, j)
        for i in range(len(vectors))
        for j in range(i + 1, len(vectors))
        if vectors[i] @ vectors[j] >= 0.8
        and distance[i, j] <= DISTANCE_RATIO * min(tenth[i], tenth[j])
        and (signs[i] != signs[j]).mean() <= 0.15
    ]


def test_near_copies_are_those_of_the_definition():
    pixels, _ = photographs(40, 2, noise=3)
    vectors = standardised(descriptors(pixels, np.arange(len(pixels))))
    signs = vectors > np.median(vectors, axis=0)
    expected = slow(vectors, signs)
    assert len(expected) >= 20
    assert near_copies(vectors, signs).tolist() == [list(pair) for pair in expected]
