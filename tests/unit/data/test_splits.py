"""Splits: disjoint by position and by content, drawn by the seed, exactly as large as asked."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrad.data.splits import ROLES, Classes, Pool, draw, head_labels
from metrad.errors import InputError
from tests.helpers.splits import ALL, chosen_classes, classes_of, pools, seeds

quick = settings(deadline=None, database=None, max_examples=80, derandomize=True)


def pool_of(counts: dict[int, int], test_counts: dict[int, int] | None = None) -> Pool:
    """Return images of distinct content, so many of each class, in a mixed order."""
    entries = [(c, False) for c, n in counts.items() for _ in range(n)]
    entries += [(c, True) for c, n in (test_counts or {}).items() for _ in range(n)]
    order = np.random.default_rng(5).permutation(len(entries))
    labels = np.array([entries[i][0] for i in order], dtype=np.int64)
    in_test = np.array([entries[i][1] for i in order], dtype=bool)
    everything = np.arange(len(entries))
    return Pool(labels, everything, np.ones(len(entries), bool), None if test_counts is None else in_test)


sizes_asked = st.fixed_dictionaries(
    {
        "reference": st.one_of(st.none(), st.integers(0, 5), st.floats(0, 1)),
        "normal": st.one_of(st.none(), st.integers(1, 2), st.floats(0.4, 0.6)),
        "calibration": st.one_of(st.integers(0, 1), st.floats(0, 0.3)),
        "test_normal": st.one_of(st.none(), st.integers(1, 2), st.floats(0.6, 1)),
        "test_anomalous": st.one_of(st.none(), st.integers(1, 4), st.floats(0.3, 1)),
    }
)


@quick
@given(pools(), chosen_classes(), sizes_asked, seeds)
def test_roles_are_disjoint_by_position_and_by_content(pool, classes, sizes, seed):
    split = draw(pool, classes, sizes, test_share=0.5, seed=seed)
    assert tuple(split.indices) == ROLES
    drawn = np.concatenate(list(split.indices.values()))
    assert len(set(drawn.tolist())) == len(drawn)
    assert len(set(pool.content[drawn].tolist())) == len(drawn)
    assert pool.usable[drawn].all()
    for indices in split.indices.values():
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()


@quick
@given(pools(), chosen_classes(), sizes_asked, seeds)
def test_each_role_holds_its_classes_only(pool, classes, sizes, seed):
    split = draw(pool, classes, sizes, test_share=0.5, seed=seed)
    allowed = {"reference": classes.reference, "test_anomalous": classes.anomalous}
    for role in ROLES:
        assert set(classes_of(split, pool, role)) <= set(allowed.get(role, classes.normal))


@quick
@given(pools(test_part=st.just(True)), chosen_classes(), sizes_asked, seeds)
def test_roles_keep_to_the_part_of_the_source_they_belong_to(pool, classes, sizes, seed):
    split = draw(pool, classes, sizes, test_share=0.5, seed=seed)
    for role in ROLES:
        assert (pool.in_test_part[split.indices[role]] == role.startswith("test")).all()


@quick
@given(pools(), chosen_classes(), seeds)
def test_every_content_of_the_roles_is_used_once_and_every_copy_counted(pool, classes, seed):
    sizes = ALL if pool.in_test_part is None else ALL | {"calibration": 1}
    split = draw(pool, classes, sizes, test_share=0.5, seed=seed)
    members = {*classes.reference, *classes.normal, *classes.anomalous}
    contents = [
        c for c, label, good in zip(pool.content, pool.labels, pool.usable, strict=True) if good and label in members
    ]
    assert split.copies_left_out == len(contents) - len(set(contents))
    if pool.in_test_part is None:
        assert sum(map(len, split.indices.values())) == len(set(contents))


@quick
@given(pools(), chosen_classes(), sizes_asked, seeds)
def test_the_same_seed_draws_the_same_split(pool, classes, sizes, seed):
    one, two = (draw(pool, classes, sizes, test_share=0.5, seed=seed) for _ in range(2))
    assert one.copies_left_out == two.copies_left_out
    for role in ROLES:
        assert np.array_equal(one.indices[role], two.indices[role])


@quick
@given(pools(), chosen_classes(), sizes_asked, seeds)
def test_counts_are_met_exactly_and_fractions_rounded(pool, classes, sizes, seed):
    split = draw(pool, classes, sizes, test_share=0.5, seed=seed)
    whole = draw(pool, classes, ALL, test_share=0.5, seed=seed)
    for role, size in sizes.items():
        available = len(whole.indices["normal" if role == "calibration" else role])
        taken = len(split.indices["calibration"]) if role == "normal" else 0
        if size is None:
            assert len(split.indices[role]) == available - taken
        else:
            assert len(split.indices[role]) == (size if isinstance(size, int) else round(size * available))


@quick
@given(pools(), chosen_classes(), st.floats(0.1, 0.9), seeds)
def test_several_classes_are_shared_out_in_proportion(pool, classes, fraction, seed):
    whole = draw(pool, classes, ALL, test_share=0.5, seed=seed)
    split = draw(pool, classes, ALL | {"reference": fraction, "test_anomalous": fraction}, test_share=0.5, seed=seed)
    for role in ("reference", "test_anomalous"):
        available = classes_of(whole, pool, role)
        share = len(split.indices[role]) / len(whole.indices[role])
        for label, count in available.items():
            assert abs(classes_of(split, pool, role)[label] - share * count) < 1


def test_different_seeds_draw_different_images_for_every_role():
    pool = pool_of({0: 30, 1: 40, 2: 30})
    sizes = {"reference": 10, "normal": 10, "calibration": 5, "test_normal": 4, "test_anomalous": 10}
    splits = [draw(pool, Classes((2,), (1,), (0,)), sizes, test_share=0.3, seed=seed) for seed in range(30)]
    for role in ROLES:
        assert len({tuple(split.indices[role]) for split in splits}) >= 29


def test_drawing_is_fair_to_early_and_late_images():
    pool = pool_of({0: 10, 1: 40})
    drawn = Counter()
    for seed in range(200):
        sizes = ALL | {"normal": 8}
        drawn.update(draw(pool, Classes((), (1,), (0,)), sizes, test_share=0.5, seed=seed).indices["normal"].tolist())
    counts = [drawn[i] for i in np.flatnonzero(pool.labels == 1)]
    assert np.mean(counts) == 40
    assert 15 < min(counts) <= max(counts) < 70  # 40 expected, standard deviation 5.7


@pytest.mark.parametrize("test_counts", [None, {0: 20, 1: 20}])
def test_the_size_of_one_role_does_not_move_the_images_of_others(test_counts):
    pool = pool_of({0: 20, 1: 40, 2: 20, 3: 20}, test_counts)
    classes = Classes((3, 2), (1,), (0,))
    sizes = {"reference": 10, "normal": 10, "calibration": 5, "test_normal": 4, "test_anomalous": 5}
    base = draw(pool, classes, sizes, test_share=0.5, seed=3)
    for role in ROLES:
        other = draw(pool, classes, sizes | {role: 7}, test_share=0.5, seed=3)
        still = [r for r in ROLES if r != role and (role, r) != ("normal", "calibration")]
        assert all(np.array_equal(other.indices[r], base.indices[r]) for r in still)
        assert len(other.indices[role]) == 7


def test_of_copies_in_both_parts_the_one_in_the_test_part_stays():
    pool = pool_of({1: 3, 2: 2}, {0: 1, 1: 2})
    content = pool.content.copy()
    content[pool.labels == 1] = [9, 8, 7, 8, 9]  # one content thrice would be possible too: parts are mixed
    pool = Pool(pool.labels, content, pool.usable, pool.in_test_part)
    split = draw(pool, Classes((2,), (1,), (0,)), ALL, test_share=0.5, seed=0)
    in_test = set(content[(pool.labels == 1) & pool.in_test_part])
    assert set(content[split.indices["test_normal"]]) == in_test
    assert set(content[split.indices["normal"]]) == {7, 8, 9} - in_test
    assert split.copies_left_out == 2


def test_a_reference_image_that_is_a_copy_of_a_test_image_is_left_out():
    pool = Pool(np.array([2, 2, 1, 1, 0]), np.array([5, 6, 7, 8, 5]), np.ones(5, bool), np.array([0, 0, 0, 1, 1], bool))
    split = draw(pool, Classes((2,), (1,), (0,)), ALL, test_share=0.5, seed=0)
    assert split.indices["reference"].tolist() == [1]
    assert split.indices["test_anomalous"].tolist() == [4]
    assert split.copies_left_out == 1


def test_copies_in_classes_of_no_role_are_neither_counted_nor_in_the_way():
    pool = Pool(np.array([3, 3, 1, 1, 0]), np.array([5, 5, 5, 6, 7]), np.ones(5, bool), None)
    split = draw(pool, Classes((), (1,), (0,)), ALL, test_share=0.5, seed=0)
    assert split.copies_left_out == 0
    assert sum(map(len, split.indices.values())) == 3


def test_a_broken_copy_does_not_push_out_the_good_one():
    pool = Pool(np.array([1, 1, 1, 0]), np.array([5, 5, 6, 7]), np.array([False, True, True, True]), None)
    split = draw(pool, Classes((), (1,), (0,)), ALL, test_share=0.5, seed=0)
    assert sorted([*split.indices["normal"], *split.indices["test_normal"]]) == [1, 2]
    assert split.copies_left_out == 0


def test_without_a_test_part_the_share_is_taken_of_each_normal_class():
    pool = pool_of({0: 7, 1: 10, 2: 30, 3: 5})
    split = draw(pool, Classes((3,), (1, 2), (0,)), ALL, test_share=0.2, seed=1)
    assert classes_of(split, pool, "test_normal") == {1: 2, 2: 6}
    assert classes_of(split, pool, "normal") == {1: 8, 2: 24}
    assert classes_of(split, pool, "test_anomalous") == {0: 7}
    assert classes_of(split, pool, "reference") == {3: 5}


def test_labels_may_be_large_and_far_apart():
    pool = pool_of({10**6: 4, 7: 6, 123456: 5})
    split = draw(pool, Classes((123456,), (10**6,), (7,)), ALL, test_share=0.5, seed=2**64)
    assert classes_of(split, pool, "normal") == {10**6: 2}
    assert classes_of(split, pool, "reference") == {123456: 5}


def test_one_image_a_class_is_enough_for_the_reference():
    pool = pool_of({0: 1, 1: 2} | dict.fromkeys(range(2, 30), 1))
    split = draw(pool, Classes(tuple(range(2, 30)), (1,), (0,)), ALL, test_share=0.5, seed=0)
    assert [len(split.indices[role]) for role in ROLES] == [28, 1, 0, 1, 1]


def test_no_reference_classes_leave_the_reference_empty():
    split = draw(pool_of({0: 3, 1: 4}), Classes((), (1,), (0,)), ALL, test_share=0.5, seed=0)
    assert split.indices["reference"].tolist() == []
    assert split.indices["reference"].dtype == np.int64


@pytest.mark.parametrize("size", [None, 0, 0.5, 8000])
def test_a_size_for_the_reference_counts_only_if_it_has_classes(size):
    classes, sizes = Classes((), (1,), (0,)), ALL | {"reference": size}
    split = draw(pool_of({0: 3, 1: 4}), classes, sizes, test_share=0.5, seed=0)
    expected = draw(pool_of({0: 3, 1: 4}), classes, ALL, test_share=0.5, seed=0)
    for role in ROLES:
        np.testing.assert_array_equal(split.indices[role], expected.indices[role])


def test_fractions_that_add_up_to_one_use_every_image():
    sizes = ALL | {"normal": 0.5, "calibration": 0.5}
    split = draw(pool_of({0: 3}, {0: 1, 1: 1}), Classes((), (0,), (1,)), sizes, test_share=0.5, seed=0)
    assert len(split.indices["normal"]) + len(split.indices["calibration"]) == 3
    pool = pool_of({0: 7}, {0: 1, 1: 1})  # 3.5 and 3.5: both round up
    split = draw(pool, Classes((), (0,), (1,)), sizes, test_share=0.5, seed=0)
    assert [len(split.indices[role]) for role in ("normal", "calibration")] == [4, 3]


HUNDRED = pool_of({0: 100, 1: 100, 2: 100}, {0: 100, 1: 100, 2: 100})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"reference": 101}, r"dataset\.sizes\.reference=101.*there are 100"),
        ({"normal": 101}, r"dataset\.sizes\.normal=101.*there are 100"),
        ({"normal": None, "calibration": 101}, r"dataset\.sizes\.calibration=101.*there are 100"),
        ({"test_normal": 10**18}, r"dataset\.sizes\.test_normal=10+ .*there are 100"),
        ({"test_anomalous": 101}, r"dataset\.sizes\.test_anomalous=101.*there are 100"),
        (
            {"normal": 60, "calibration": 41},
            r"dataset\.sizes\.calibration=41.*there are 100, 60 of them taken by normal",
        ),
        ({"reference": -1}, r"dataset\.sizes\.reference=-1.*negative"),
        ({"calibration": -5}, r"dataset\.sizes\.calibration=-5.*negative"),
        ({"normal": 1.5}, r"dataset\.sizes\.normal=1\.5.*fraction"),
        ({"reference": 8000.0}, r"dataset\.sizes\.reference=8000\.0.*fraction"),
        ({"reference": -0.1}, r"dataset\.sizes\.reference=-0\.1.*fraction"),
        ({"test_normal": float("nan")}, r"dataset\.sizes\.test_normal=nan.*fraction"),
        ({"calibration": float("inf")}, r"dataset\.sizes\.calibration=inf.*fraction"),
        ({"normal": None, "calibration": None}, r"dataset\.sizes\.normal.*dataset\.sizes\.calibration.*null"),
        ({"normal": 0}, r"dataset\.sizes\.normal=0.*at least 1"),
        ({"normal": 0.001}, r"dataset\.sizes\.normal=0\.001.*at least 1"),
        ({"normal": None, "calibration": 1.0}, r"dataset\.sizes\.normal.*at least 1"),
        ({"test_normal": 0}, r"dataset\.sizes\.test_normal=0.*at least 1"),
        ({"test_anomalous": 0.0}, r"dataset\.sizes\.test_anomalous=0\.0.*at least 1"),
        # no role is quietly given less than was asked for
        ({"normal": 0.9, "calibration": 0.3}, r"dataset\.sizes\.calibration=0\.3.*there are 100, 90 of them taken"),
        ({"normal": 95, "calibration": 0.1}, r"dataset\.sizes\.calibration=0\.1.*there are 100, 95 of them taken"),
        ({"normal": 1.0, "calibration": 0.1}, r"dataset\.sizes\.calibration=0\.1.*there are 100"),
    ],
)
def test_sizes_that_cannot_be_met_are_an_error_that_names_the_key(sizes, message):
    with pytest.raises(InputError, match=message):
        draw(HUNDRED, Classes((2,), (1,), (0,)), ALL | sizes, test_share=0.2, seed=0)


@pytest.mark.parametrize(
    ("train", "test", "role"),
    [
        ({1: 5}, {0: 5}, "test_normal"),
        ({1: 5}, {1: 5}, "test_anomalous"),
        ({0: 5}, {0: 5, 1: 5}, "normal"),
        ({0: 5, 1: 1}, None, "test_normal"),
        ({1: 5}, None, "test_anomalous"),
    ],
)
def test_a_role_without_images_is_an_error_that_names_it(train, test, role):
    with pytest.raises(InputError, match=rf"dataset\.sizes\.{role}.*at least 1"):
        draw(pool_of(train, test), Classes((), (1,), (0,)), ALL, test_share=0.2, seed=0)


def test_classes_whose_images_are_all_broken_are_an_error():
    pool = pool_of({0: 5, 1: 5})
    pool = Pool(pool.labels, pool.content, pool.labels == 0, None)
    with pytest.raises(InputError, match=r"dataset\.sizes\.normal"):
        draw(pool, Classes((), (1,), (0,)), ALL, test_share=0.2, seed=0)


@quick
@given(st.permutations(range(9)), st.integers(0, 6), st.integers(1, 3))
def test_head_labels_number_reference_then_normal_in_the_order_of_the_lists(order, references, normals):
    classes = Classes(tuple(order[:references]), tuple(order[references : references + normals]), ())
    labels = head_labels(np.arange(9), classes)
    assert labels.dtype == np.int64
    assert [labels[c] for c in classes.reference] == list(range(references))
    assert [labels[c] for c in classes.normal] == list(range(references, references + normals))
    assert all(labels[c] == -1 for c in order[references + normals :])


def test_head_labels_follow_the_images_not_the_classes():
    classes = Classes((40, 7), (1000,), (3,))
    assert head_labels(np.array([1000, 7, 40, 7, 3, 5]), classes).tolist() == [2, 1, 0, 1, -1, -1]
    assert head_labels(np.array([], dtype=np.int64), classes).tolist() == []
