"""The study of recipes: its whitening is metrad's own, and regret is 0 for the best and what was lost for others."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from metrad.models.whitening import within_class_whitening
from metrad.scorers import Mahalanobis

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "stand_ins.py"
with pytest.MonkeyPatch.context() as patched:
    patched.syspath_prepend(SCRIPT.parent)
    stand_ins = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
RNG = np.random.default_rng(0)
FIT, TESTED = RNG.standard_normal((30, 60)) * np.linspace(1, 3, 60), RNG.standard_normal((8, 60))


def test_whitening_without_a_matrix_is_that_of_the_product():
    centre, matrix = within_class_whitening(FIT, np.zeros(30, dtype=int))
    np.testing.assert_allclose(stand_ins.whitening(FIT)(TESTED), (TESTED - centre) @ matrix.T, rtol=1e-8)


def test_the_length_of_a_whitened_vector_is_the_distance_of_mahalanobis():
    [found] = stand_ins.scores(stand_ins.Recipe(224, "last", "lw", "mahalanobis"), FIT, TESTED)
    wanted = Mahalanobis().fit(FIT.astype(np.float32)).score(TESTED.astype(np.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def rows(*figures):
    halves = [np.tile([one, other], (4, 1)) for one, other in figures]
    return pd.DataFrame({"halves": halves})


def test_regret_is_what_the_best_of_one_half_has_more_on_the_other():
    some = rows((0.9, 0.8), (0.7, 0.6))
    assert stand_ins.regret(some, 0) == 0
    assert stand_ins.regret(some, 1) == pytest.approx(0.2)


def test_choosing_by_a_half_gains_nothing_from_the_luck_of_that_half():
    some = rows((0.9, 0.5), (0.5, 0.9))  # each is best on one half and worst on the other
    assert stand_ins.regret(some, 0) == pytest.approx(0.5 * (0.5 - 0.5) + 0.5 * (0.5 - 0.9))


def test_the_recipes_and_the_fixed_ones_are_known_and_different():
    names = [str(recipe) for recipe in stand_ins.RECIPES]
    assert len(set(names)) == len(names) >= 20
    assert set(stand_ins.FIXED.values()) <= set(stand_ins.RECIPES)
