"""Several sources as one: names, parts, pixels, groups and the cache."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from metrad.data.decoding import Reading
from metrad.data.joined_sources import JoinedSources
from metrad.data.manifests import Manifest
from metrad.data.prepared import PreparedData
from metrad.data.roles import Roles
from metrad.data.sources import Digits, ImageFolder, Source
from metrad.data.store import Storage, load
from metrad.errors import InputError
from tests.helpers.layouts import put_images
from tests.helpers.prepared import SIZES


class Squares(Source):
    """Ten images of equal pixels, of a size in pixels, the last four in a test part if there is one."""

    def __init__(self, size: int = 8, *, parts: bool = True) -> None:
        self.classes = ["dark", "light"]
        self.labels = np.arange(10) % 2
        self.names = [f"square {i}" for i in range(10)]
        self.pixels = np.broadcast_to(
            np.arange(0, 250, 25, dtype=np.uint8)[:, None, None, None], (10, size, size, 1)
        ).copy()
        self.in_test_part = np.arange(10) >= 6 if parts else None


def squares(size: int) -> partial:
    return partial(Squares, size)


@pytest.fixture
def folders(tmp_path) -> dict[str, partial]:
    put_images(tmp_path / "line", [f"{c}/{i}.png" for c in ("good", "dent") for i in range(4)])
    put_images(tmp_path / "other", [f"{c}/{i}.png" for c in ("good", "crack") for i in range(3)], seed=1)
    return {name: partial(ImageFolder, tmp_path / name) for name in ("line", "other")}


def test_classes_and_images_have_the_name_of_their_source_so_that_equal_ones_differ(folders):
    source = JoinedSources(folders)
    assert source.classes == ["line/dent", "line/good", "other/crack", "other/good"]
    assert len(set(source.names)) == 14
    assert [source.classes[label] for label in source.labels] == [name.rpartition("/")[0] for name in source.names]


def test_each_image_is_the_one_of_its_own_source(folders):
    source = JoinedSources(folders)
    own = {f"{name}/{text}": (one, i) for name, one in source.sources.items() for i, text in enumerate(one.names)}
    for position, name in enumerate(source.names):
        one, i = own[name]
        assert np.array_equal(source.read(position).pixels, one.read(i).pixels)
        assert source.size_of(position) == one.size_of(i)


def test_how_files_are_read_reaches_every_source(folders):
    source = JoinedSources(folders)
    source.reading = Reading(1)
    assert source.reading == Reading(1)
    assert all(one.reading == Reading(1) for one in source.sources.values())


@pytest.mark.parametrize(
    ("first", "second", "in_test"),
    [
        (True, True, [*range(6, 10), *range(16, 20)]),
        (True, False, [*range(6, 10), *range(10, 20)]),
        (False, True, None),
        (False, False, None),
    ],
)
def test_the_first_source_decides_whether_there_is_a_test_part(first, second, in_test):
    source = JoinedSources({"a": partial(Squares, parts=first), "b": partial(Squares, parts=second)})
    found = source.in_test_part
    assert (None if found is None else np.flatnonzero(found).tolist()) == in_test


def test_images_in_memory_of_one_shape_are_joined_without_a_copy_and_others_are_read():
    one = JoinedSources({"a": squares(8), "b": squares(8)})
    kept = [part.pixels for part in one.sources.values()]
    assert all(array is pixels for array, pixels in zip(one.pixels.arrays, kept, strict=True))
    assert np.array_equal(one.pixels[np.array([1, 11])][:, 0, 0, 0], [25, 25])
    nested = JoinedSources({"x": partial(JoinedSources, {"a": squares(8)}), "b": squares(8)})
    assert nested.classes[0] == "x/a/dark"
    assert len(nested.pixels.arrays) == 2
    mixed = JoinedSources({"a": squares(8), "b": squares(6), "c": partial(Digits)})
    assert mixed.pixels is None
    images = load(mixed, 8, Storage(2**30, 0, Path("unused")), skip_corrupt=False).images
    assert images[np.array([2, 12])].shape == (2, 8, 8, 3)
    assert images[np.array([2, 12])].max(axis=(1, 2, 3)).tolist() == [50, 50]


def test_the_size_is_that_of_all_sources_or_the_one_given(folders):
    line = folders["line"]
    assert JoinedSources({"a": partial(line, size=8), "b": partial(line, size=8)}).size == 8
    assert JoinedSources({"a": partial(line, size=8), "b": partial(line, size=9)}).size is None
    assert JoinedSources(folders, size=5).size == 5
    with pytest.raises(InputError, match=r"dataset\.source\.size"):
        JoinedSources(folders, size=0)


def test_the_cache_is_used_again_until_an_image_of_any_source_changes(folders, tmp_path, monkeypatch):
    storage = Storage(0, 2**30, tmp_path / "cache")
    first = load(JoinedSources(folders), 8, storage, skip_corrupt=False)
    monkeypatch.setattr(ImageFolder, "read", lambda *_: pytest.fail("decoded again"))
    again = load(JoinedSources(folders), 8, storage, skip_corrupt=False)
    assert np.array_equal(first.images[np.arange(14)], again.images[np.arange(14)])
    before = JoinedSources(folders).identity
    put_images(tmp_path / "other", ["crack/1.png"], seed=2)
    assert JoinedSources(folders).identity != before
    assert JoinedSources({"a": folders["line"], "b": partial(Squares)}).identity is None


def test_groups_of_columns_stay_apart_by_source(folders, tmp_path):
    table = tmp_path / "line/parts.csv"
    table.write_text("path,class,part_number\ngood/0.png,good,7\ngood/1.png,good,\n")
    other = tmp_path / "other/parts.csv"
    other.write_text("path,class,part_number\ngood/0.png,good,7\n")
    source = JoinedSources({"a": partial(Manifest, table), "b": partial(Manifest, other), "c": folders["line"]})
    assert source.columns == {"part_number": ["a/7", "", "b/7", *[""] * 8]}


def test_normal_images_of_one_source_and_all_classes_of_another_make_a_split():
    sources = {"here": partial(Squares), "there": partial(Squares, 6)}
    roles = Roles(["here/dark"], ["there/*"], None, {**SIZES, "calibration": 1}, test_share=0.3)
    data = PreparedData(partial(JoinedSources, sources), roles, Storage(2**30, 0, Path("x")), seed=0, image_size=8)
    data.draw()
    assert data.class_names("anomalous") == ["there/dark", "there/light"]
    assert data.class_names("reference") == ["here/light"]
    assert {record.image.partition("/")[0] for record in data.records("test_anomalous")} == {"there"}
    again = PreparedData(partial(JoinedSources, sources), roles, Storage(2**30, 0, Path("x")), seed=0, image_size=8)
    again.restore_split(data.describe_split())
    assert again.split_hash == data.split_hash


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ({}, r"dataset\.source\.sources must be sources by name"),
        ({"": partial(Squares)}, "'' is no name"),
        ({"a/b": partial(Squares)}, "'a/b' is no name"),
        ({1: partial(Squares)}, "1 is no name"),
        ({"a": {"root": "x"}}, r"dataset\.source\.sources\.a must be a source, with _target_"),
        ({"a": "fmnist"}, r"dataset\.source\.sources\.a must be a source, with _target_"),
        ({"a": partial(ImageFolder, "nowhere")}, r"^dataset\.source\.sources\.a\.root: no folder"),
        ({"a": partial(dict)}, r"^dataset\.source\.sources\.a\._target_ must make"),
    ],
)
def test_sources_that_cannot_be_used_are_refused_by_name(sources, says):
    with pytest.raises(InputError, match=says):
        JoinedSources(sources)
