"""Folds with synthetic defects: whole groups, no image in two places, and defects that any access makes alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrad.data.splits import ROLES, Pool, Split, fold_out
from metrad.data.synthetic_defects import KINDS
from metrad.data.synthetic_fold import WithDefects
from metrad.errors import InputError


def split_of(groups, reference):
    """Return a split of normal images, and reference ones behind them, by their groups."""
    labels = np.array([0] * (len(groups) - reference) + [1] * reference)
    pool = Pool(labels, np.arange(len(labels)), np.ones(len(labels), bool), None, np.array(groups))
    indices = {role: np.empty(0, dtype=np.int64) for role in ROLES}
    indices |= {"normal": np.flatnonzero(labels == 0), "reference": np.flatnonzero(labels == 1)}
    return Split(indices, 0), pool


@settings(max_examples=50, deadline=None)
@given(
    groups=st.lists(st.integers(0, 9), min_size=12, max_size=40),
    reference=st.integers(0, 4),
    folds=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_normal_image_is_tested_on_once_and_its_group_is_in_no_fit(groups, reference, folds, seed):
    split, pool = split_of(groups, reference)
    if len(set(groups[: len(groups) - reference])) < folds:
        with pytest.raises(InputError, match=f"selection.folds={folds} takes as many groups of normal images"):
            fold_out(split, pool, number=0, folds=folds, seed=seed)
        return
    found = [fold_out(split, pool, number=n, folds=folds, seed=seed).indices for n in range(folds)]
    tested = np.concatenate([one["test_normal"] for one in found])
    assert sorted(tested.tolist()) == split.indices["normal"].tolist()
    for one in found:
        fitted = np.concatenate([one["normal"], one["reference"]])
        assert not set(pool.groups[fitted]) & set(pool.groups[one["test_normal"]])
        assert not len(one["calibration"])
        assert len(one["normal"])
        assert len(one["test_normal"])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_behind_the_real_ones_have_defects_whatever_is_asked_for_with_them(channels):
    images = np.random.default_rng(0).integers(0, 256, (6, 24, 20, channels), dtype=np.uint8)
    held, others = np.array([1, 4]), np.array([4, 1])
    found = WithDefects(images, 6, held, others, KINDS, seed=3)
    whole = found[np.arange(6 + 2 * len(KINDS))]
    assert np.array_equal(whole[:6], images)
    for place, image in enumerate(whole[6:]):
        own = images[held[place % 2]]
        assert 0 < (image != own).any(axis=2).mean() < 0.5
        assert np.array_equal(found[np.array([6 + place])][0], image)
    assert np.array_equal(found[np.array([13, 2, 6])], whole[[13, 2, 6]])
