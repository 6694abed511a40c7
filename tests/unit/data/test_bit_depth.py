"""Bit depth: the range that holds the training images, and its values as 8 bits."""

import numpy as np
import pytest

from metrad.data.bit_depth import USUAL, depth_of, peak, to_8_bits, usual_depth


@pytest.mark.parametrize(
    ("largest", "depth"),
    [(0, 8), (1, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16384, 16), (65535, 16)],
)
def test_the_smallest_usual_depth_that_holds_a_value(largest, depth):
    assert usual_depth(largest) == depth


def test_the_depth_of_images_is_that_of_their_largest_value_and_16_without_one_of_more_than_8_bits():
    assert depth_of(np.array([0, 700, 3000])) == 12
    assert depth_of(np.array([0, 0])) == depth_of(np.array([], dtype=int)) == 16


def test_peak_of_8_bits_is_0_and_of_a_black_deep_image_1():
    assert peak(np.full((2, 2, 3), 9, dtype=np.uint8)) == 0
    assert peak(np.zeros((2, 2, 3), dtype=np.uint16)) == 1
    assert peak(np.array([[[5, 4095, 7]]], dtype=np.uint16)) == 4095


@pytest.mark.parametrize("depth", range(8, 17))
def test_the_range_becomes_0_to_255_to_the_nearest_level_and_larger_values_255(depth):
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256, 1)
    top = (1 << depth) - 1
    exact = np.minimum(values, top) * (255 / top)
    scaled = to_8_bits(values, depth)
    np.testing.assert_allclose(scaled, exact, atol=0.5 + 1e-9)
    assert scaled[values >= top].min() == 255
    assert len(np.unique(scaled)) == 256
    assert np.array_equal(to_8_bits(values, depth, white_is_zero=True), 255 - scaled)


def test_16_bits_are_scaled_as_metrad_0_1_scaled_them():
    values = np.arange(1 << 16, dtype=np.uint16)
    assert np.array_equal(to_8_bits(values, 16), ((values.astype(int) + 128) // 257).astype(np.uint8))


@pytest.mark.parametrize("depth", USUAL)
def test_8_bits_stay_as_they_are(depth):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert to_8_bits(pixels, depth) is pixels
