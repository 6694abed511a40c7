"""Splits by group: no group on two sides, whatever the sizes, the seed, the classes and the stand-in."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from metrad.data.splits import ROLES, Classes, Pool, draw, hold_out
from metrad.errors import InputError
from tests.helpers.splits import ALL, chosen_classes, seeds

quick = settings(deadline=None, database=None, max_examples=60, derandomize=True)
thorough = settings(deadline=None, database=None, max_examples=2000)
SIDES = (("reference", "normal"), ("calibration",), ("test_normal", "test_anomalous"))

sizes_asked = st.fixed_dictionaries(
    {
        "reference": st.one_of(st.none(), st.integers(0, 5), st.floats(0, 1)),
        "normal": st.one_of(st.none(), st.integers(1, 2), st.floats(0.4, 0.6)),
        "calibration": st.one_of(st.integers(0, 3), st.floats(0, 0.4)),
        "test_normal": st.one_of(st.none(), st.integers(1, 2)),
        "test_anomalous": st.one_of(st.none(), st.integers(1, 4)),
    }
)


def grouped_pool(seed):
    """A pool as ``pools`` makes, whose groups run across classes and parts: a few large ones to nearly single images.

    It is made of a number alone, since to have hypothesis draw each image takes a hundred times as long.
    """
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), generator.integers(12, 25, 6))
    count = len(labels)
    order, in_test = generator.permutation(count), np.arange(count) % 2 > 0  # each class has images in both parts
    content = np.arange(count)
    copies = generator.integers(0, count, (generator.integers(0, 16), 2))
    content[copies[:, 0]] = content[copies[:, 1]]
    most = generator.choice([5, 20, 60, count])
    groups, usable = generator.integers(0, most + 1, count), generator.random(count) > 0.02
    return Pool(labels[order], content, usable, in_test[order] if generator.random() < 0.5 else None, groups)


grouped_pools = st.builds(grouped_pool, st.integers(0, 2**32 - 1))


def drawn(pool, classes, sizes, seed):
    """A split; groups of so few images may leave none for a role, which is refused by name."""
    try:
        return draw(pool, classes, sizes, test_share=0.5, seed=seed)
    except InputError as error:
        if not any(reason in str(error) for reason in ("leaves none of", "asks for too many images")):
            raise
        reject()


def sides(split, pool):
    """The groups of each side."""
    return [{int(g) for role in side for g in pool.groups[split.indices[role]]} for side in SIDES]


def apart(split, pool):
    training, calibration, test = sides(split, pool)
    return not (training & calibration or training & test or calibration & test)


def check_split(pool, classes, sizes, seed):
    assert apart(drawn(pool, classes, sizes, seed), pool)


def check_folds(pool, classes, sizes, seed, share):
    split = drawn(pool, classes, sizes, seed)
    for held_out in classes.reference:
        try:
            fold, _ = hold_out(split, pool, classes, held_out, share=share, seed=seed)
        except InputError as error:
            if not any(reason in str(error) for reason in ("no images to hold out", "no reference images", "2 normal")):
                raise
            continue
        assert apart(fold, pool)
        assert not {*sides(fold, pool)[0]} & {*pool.groups[split.indices["test_anomalous"]]}
        for role in ("test_normal", "normal", "test_anomalous"):
            assert len(fold.indices[role])


@quick
@given(grouped_pools, chosen_classes(), sizes_asked, seeds)
def test_no_group_stands_on_two_sides(pool, classes, sizes, seed):
    check_split(pool, classes, sizes, seed)


@quick
@given(grouped_pools, chosen_classes(), sizes_asked, seeds, st.floats(0.1, 0.9))
def test_no_group_stands_on_two_sides_of_a_fold_of_a_selection(pool, classes, sizes, seed, share):
    check_folds(pool, classes, sizes, seed, share)


@pytest.mark.long
@thorough
@given(grouped_pools, chosen_classes(), sizes_asked, seeds)
def test_no_group_stands_on_two_sides_in_many_draws(pool, classes, sizes, seed):
    check_split(pool, classes, sizes, seed)


@pytest.mark.long
@thorough
@given(grouped_pools, chosen_classes(), sizes_asked, seeds, st.floats(0.1, 0.9))
def test_no_group_stands_on_two_sides_of_many_folds(pool, classes, sizes, seed, share):
    check_folds(pool, classes, sizes, seed, share)


@quick
@given(grouped_pools, chosen_classes(), sizes_asked, seeds)
def test_single_images_as_groups_change_nothing(pool, classes, sizes, seed):
    pool = replace(pool, groups=None)
    alone = replace(pool, groups=np.random.default_rng(0).permutation(len(pool.labels)) * 7)
    one, other = (draw(p, classes, sizes, test_share=0.5, seed=seed) for p in (pool, alone))
    assert all((one.indices[role] == other.indices[role]).all() for role in ROLES)
    assert other.left_out_for_groups == 0


@quick
@given(grouped_pools, chosen_classes(), sizes_asked, seeds)
def test_a_role_never_gets_more_images_than_its_size(pool, classes, sizes, seed):
    split = drawn(pool, classes, sizes, seed)
    for role, size in sizes.items():
        if isinstance(size, int) and (role != "reference" or classes.reference):
            assert len(split.indices[role]) <= size


def tiles(parts=60, views=5):
    """Good photographs of parts, and defective ones of some of the same parts and of others."""
    labels = [0] * parts * views + [1] * 10 * 2 + [1] * 8
    groups = [part for part in range(parts) for _ in range(views)] + [p for p in range(10) for _ in range(2)]
    groups += [100 + i for i in range(8)]
    count = len(labels)
    return Pool(np.array(labels), np.arange(count), np.ones(count, bool), None, np.array(groups))


@pytest.mark.parametrize("seed", range(5))
def test_the_test_part_takes_whole_parts_and_their_defects(seed):
    pool = tiles()
    split = draw(pool, Classes((), (0,), (1,)), ALL | {"calibration": 0.25}, test_share=0.2, seed=seed)
    groups = {role: set(pool.groups[split.indices[role]].tolist()) for role in ROLES}
    assert len(groups["test_normal"]) == 12
    assert len(split.indices["test_normal"]) == 12 * 5
    defective = {part for part in groups["test_anomalous"] if part < 100}
    assert defective == set(range(10)) & groups["test_normal"]
    assert {part for part in groups["test_anomalous"] if part >= 100} == set(range(100, 108))
    assert split.left_out_for_groups == 2 * (10 - len(defective))
    assert len(groups["calibration"]) == 12
    assert len(split.indices["normal"]) + len(split.indices["calibration"]) == 48 * 5


def test_whether_a_part_has_defects_does_not_decide_its_side():
    """Else calibration parts would be better than test parts, and no rate could hold."""
    pool = tiles()
    tested = [
        draw(pool, Classes((), (0,), (1,)), ALL, test_share=0.2, seed=seed).indices["test_normal"]
        for seed in range(200)
    ]
    defective = np.mean([len({*pool.groups[images].tolist()} & {*range(10)}) for images in tested])
    assert defective == pytest.approx(2, abs=0.3)


def test_a_group_of_the_source_s_own_test_part_is_not_trained_on():
    in_test = np.array([False, False, True, False, True])
    groups = np.array([1, 2, 1, 3, 4])
    pool = Pool(np.array([0, 0, 0, 0, 1]), np.arange(5), np.ones(5, bool), in_test, groups)
    split = draw(pool, Classes((), (0,), (1,)), ALL, test_share=0.2, seed=0)
    assert split.indices["normal"].tolist() == [1, 3]
    assert split.indices["test_normal"].tolist() == [2]
    assert split.left_out_for_groups == 1


def test_groups_that_leave_a_role_without_images_are_named_as_the_cause():
    """Part numbers that begin anew in each class put defects into the groups of good parts."""
    pool = Pool(np.array([0] * 20 + [1] * 5), np.arange(25), np.ones(25, bool), None, np.zeros(25, dtype=int))
    with pytest.raises(InputError, match=r"makes 1 groups of the 20 normal images, and 5 of the 5 anomalous"):
        draw(pool, Classes((), (0,), (1,)), ALL, test_share=0.2, seed=0)
