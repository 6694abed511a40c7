"""The rendered sets: seeded, each image its own, and masks that have exactly the pixels of a defect."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "_rendered.py")))
SETS, SIDE, rendered = made.SETS, made.SIDE, made.rendered
CASES = [(name, kind) for name in SETS for kind in made.kinds(name)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_defect_changes_the_pixels_of_its_mask_and_hardly_any_other(name, kind):
    good, nothing = rendered(name, None, 3)
    bad, mask = rendered(name, kind, 3)
    assert good.shape == bad.shape == (SIDE, SIDE, 3)
    assert good.dtype == bad.dtype == np.uint8
    assert not nothing.any()
    assert 30 <= mask.sum() <= 0.1 * mask.size
    difference = np.abs(bad.astype(int) - good).max(axis=2)
    assert difference[mask].min() >= 5
    assert difference[~mask].max() <= 6
    assert np.array_equal(bad, rendered(name, kind, 3)[0])


@pytest.mark.parametrize("name", SETS)
def test_good_images_differ_from_each_other(name):
    one, other = (rendered(name, None, seed)[0].astype(int) for seed in (0, 1))
    assert np.abs(one - other).mean() > 3
