"""Synthetic defects: seeded, in the image's range, masks of exactly what changed, and blending without an edge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrad.data.synthetic_defects import KINDS, with_defect
from metrad.errors import InputError

SHAPES = st.tuples(st.integers(8, 48), st.integers(8, 48))


def noise(shape, seed):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 2**32 - 1), colour=st.sampled_from([None, 0, 128, 255]))
def test_the_mask_has_exactly_what_changed(kind, shape, seed, colour):
    image = noise(shape, seed) if colour is None else np.full((*shape, 3), colour, dtype=np.uint8)
    before, other = image.copy(), noise(shape, seed + 1) if seed % 2 else None
    changed, mask = with_defect(image, kind, seed, other=other)
    assert changed.dtype == np.uint8
    assert mask.any()
    assert np.array_equal(mask, (changed != before).any(axis=2))
    assert np.array_equal(image, before)
    assert np.array_equal(changed, with_defect(image, kind, seed, other=other)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_local_and_others_follow_from_other_seeds(kind):
    image = noise((64, 96), 0)
    found = [with_defect(image, kind, [seed, 1]) for seed in range(20)]
    assert max(mask.mean() for _, mask in found) <= 0.2
    assert len({changed.tobytes() for changed, _ in found}) == 20


def test_a_blended_patch_leaves_no_edge():
    ramp = np.repeat(np.linspace(40, 200, 96)[:, None, None], 96, axis=1).repeat(3, axis=2).astype(np.uint8)
    dark = np.full((96, 96, 3), 30, dtype=np.uint8)
    dark[40:56, 40:56] = 90
    for seed in range(20):
        changed = with_defect(ramp, "blended_patch", seed, other=dark)[0].astype(int)
        steps = np.abs(np.diff(changed - ramp, axis=0)).max()
        assert steps < 62  # the patch's own edges stay; those to the image would add up to 170


def test_a_blended_texture_has_pixels_of_the_other_image():
    image, other = np.full((40, 40, 3), 100, dtype=np.uint8), noise((40, 40), 1)
    changed, mask = with_defect(image, "blended_texture", 0, other=other)
    assert len(np.unique(changed[mask], axis=0)) > 10


@pytest.mark.parametrize(
    ("image", "kind", "other", "words"),
    [
        (noise((16, 16), 0), "crack", None, "crack is no kind of synthetic defect; allowed: cutpaste, scar"),
        (noise((16, 16), 0) / 255, "scar", None, "got float64"),
        (noise((16, 4), 0), "scar", None, "at least 8 pixels"),
        (noise((16, 16), 0), "scar", noise((16, 17), 0), "other must be uint8 .16, 16, 3."),
    ],
)
def test_what_is_no_image_or_no_kind_is_refused(image, kind, other, words):
    with pytest.raises(InputError, match=words):
        with_defect(image, kind, 0, other=other)
