"""Changes of a photograph: what each does, that all keep an image's size and greyness, and that they are repeatable."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from metrad.data.changes import CHANGES, changed, compressed, exposed, shifted, versions

BY_NAME = {change.name: change for change in CHANGES}
EVERY = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)


def picture(height=24, width=30, channels=3, seed=0):
    """A smooth picture (height, width, channels) with values away from both ends."""
    noise = np.random.default_rng(seed).normal(size=(height, width, channels))
    smooth = ndimage.gaussian_filter(noise, (2, 2, 0))
    return (128 + 60 * smooth / abs(smooth).max()).astype(np.uint8)


def distance(one, other):
    return float(np.abs(one.astype(float) - other).mean())


@EVERY
@pytest.mark.parametrize("shape", [(24, 30, 3), (8, 8, 1), (1, 5, 3), (5, 1, 1), (1, 1, 3)])
def test_every_step_keeps_shape_and_type_even_of_tiny_images(change, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for strength in change.strengths:
        found = changed(pixels, change, strength, [1])
        assert (found.shape, found.dtype) == (shape, np.uint8)
        assert found.flags.c_contiguous


@EVERY
def test_every_kind_has_four_steps_or_thirds_whose_effect_rises(change):
    assert len(change.strengths) in (3, 4)
    effects = [distance(picture(), changed(picture(), change, strength, [0])) for strength in change.strengths]
    assert effects == sorted(effects)
    assert 0 < effects[0] < effects[-1]


@EVERY
def test_a_grey_image_stays_grey_and_changes_as_its_one_channel(change):
    grey = picture(channels=1)
    three = changed(np.repeat(grey, 3, axis=2), change, change.strengths[-1], [3])
    np.testing.assert_array_equal(three, np.repeat(changed(grey, change, change.strengths[-1], [3]), 3, axis=2))


@EVERY
def test_one_seed_gives_the_same_pixels(change):
    again = [changed(picture(), change, change.strengths[-1], [7]) for _ in range(2)]
    np.testing.assert_array_equal(*again)


@pytest.mark.parametrize("name", ["noise", "shift", "turn"])
def test_seeds_differ_in_noise_and_direction(name):
    found = {changed(picture(), BY_NAME[name], 4.0, [seed]).tobytes() for seed in range(12)}
    assert len(found) == {"noise": 12, "shift": 4, "turn": 2}[name]


@pytest.mark.parametrize("name", ["brighter", "darker", "noise", "shift", "turn"])
def test_a_change_of_strength_0_changes_nothing(name):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(changed(pixels, BY_NAME[name], 0.0, [0]), pixels)


def test_a_step_of_exposure_doubles_the_light_of_srgb():
    values = np.array([[[0], [64], [128], [188], [255]]], np.uint8)
    more = exposed(values, 1.0, np.random.default_rng())

    def light(value):
        value = value / 255
        return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)

    np.testing.assert_allclose(light(more[0, 1:3]), 2 * light(values[0, 1:3]), rtol=0.01)
    assert more[0, 0, 0] == 0
    assert more[0, 3, 0] == more[0, 4, 0] == 255  # twice the light of 188 is white
    less = changed(values, BY_NAME["darker"], 1.0, [0])
    np.testing.assert_allclose(light(less[0, 1:]), light(values[0, 1:]) / 2, rtol=0.02)


def test_a_shift_moves_pixels_and_fills_the_gap_with_the_edge():
    row = np.arange(5, dtype=np.uint8).reshape(1, 5, 1)
    moved = {tuple(shifted(row, 2, np.random.default_rng(seed)).ravel().tolist()) for seed in range(20)}
    assert moved == {(0, 0, 0, 1, 2), (2, 3, 4, 4, 4), (0, 1, 2, 3, 4)}  # right, left, and up or down in one row


def test_noise_has_its_deviation():
    flat = np.full((200, 200, 1), 128, np.uint8)
    assert changed(flat, BY_NAME["noise"], 8.0, [0]).std() == pytest.approx(8, rel=0.02)


def test_a_turn_moves_a_point_by_its_angle():
    pixels = np.zeros((101, 101, 1), np.uint8)
    pixels[50, 90] = 255
    found = changed(pixels, BY_NAME["turn"], 4.0, [0])[..., 0].astype(float)
    y, x = (np.indices(found.shape) * found).sum((1, 2)) / found.sum() - 50
    assert abs(np.degrees(np.arctan2(y, x))) == pytest.approx(4, abs=0.1)
    assert np.hypot(y, x) == pytest.approx(40, abs=0.2)


def test_jpeg_is_what_a_file_of_this_quality_holds(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "image.jpg", quality=50)
    with Image.open(tmp_path / "image.jpg") as image:
        np.testing.assert_array_equal(compressed(picture(), 50.0, np.random.default_rng()), np.asarray(image))


def test_versions_are_every_step_of_every_change_in_order():
    found = versions(picture(), [5, 6], CHANGES)
    assert len(found) == sum(len(change.strengths) for change in CHANGES)
    np.testing.assert_array_equal(found[0], changed(picture(), CHANGES[0], 1 / 3, [0, 5, 6]))
    np.testing.assert_array_equal(found[-1], changed(picture(), CHANGES[-1], 25.0, [6, 5, 6]))
