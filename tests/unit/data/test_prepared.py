"""The data module: the user's classes become numbers, batches hold what they should, and a split can be had again."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metrad.data.batches import EpochShuffle
from metrad.data.decoding import Decoded, Decoding, Reading
from metrad.data.duplicates import digest
from metrad.data.prepared import PreparedData
from metrad.data.roles import Roles, resolve_classes
from metrad.data.sources import ImageFolder, Source
from metrad.data.splits import ROLES, Classes
from metrad.data.store import Storage
from metrad.errors import InputError
from metrad.training.datamodule import MetradDataModule
from tests.helpers.prepared import SIZES, Numbered, module, numbered, roles

NAMES = ["cat", "dog", "elk", "fox"]


class Given(Source):
    """Images of three classes in turns, called by their numbers."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.classes = ["0", "1", "2"]
        self.labels = np.arange(len(pixels)) % 3
        self.names = [str(i) for i in range(len(pixels))]
        self.pixels = pixels


@pytest.fixture
def root(tmp_path):
    """Return a folder of three classes of twelve small noise images."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "elk"):
        for i in range(12):
            path = tmp_path / "root" / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(path)
    return tmp_path / "root"


def folder(root: Path, **settings) -> PreparedData:
    return module(partial(ImageFolder, root), roles(), **settings)


@pytest.mark.parametrize(
    ("normal", "anomalous", "reference", "expected"),
    [
        ("cat", "dog", None, Classes((2, 3), (0,), (1,))),
        (["cat"], ["dog"], None, Classes((2, 3), (0,), (1,))),
        (0, 1, None, Classes((2, 3), (0,), (1,))),
        ([3, "cat"], 1, [2], Classes((2,), (3, 0), (1,))),
        (("dog",), ("fox", 0), ["elk"], Classes((2,), (1,), (3, 0))),
        ("cat", ["dog", "elk", "fox"], None, Classes((), (0,), (1, 2, 3))),
        ("cat", "dog", [], Classes((), (0,), (1,))),
        ("cat", [], [], Classes((), (0,), ())),
        ("cat", [], None, Classes((1, 2, 3), (0,), ())),
        (NAMES, [], None, Classes((), (0, 1, 2, 3), ())),
        (None, [], ["fox"], Classes((3,), (0, 1, 2), ())),
        ("cat", "dog", "fox", Classes((3,), (0,), (1,))),
        ("cat", "dog", ["fox", "elk"], Classes((3, 2), (0,), (1,))),
        ("dog", None, [], Classes((), (1,), (0, 2, 3))),
        ("dog", None, ["fox"], Classes((3,), (1,), (0, 2))),
        (None, 2, [], Classes((), (0, 1, 3), (2,))),
        (None, ["fox", "cat"], ["dog"], Classes((1,), (2,), (3, 0))),
    ],
)
def test_classes_by_name_and_number_in_the_order_given(normal, anomalous, reference, expected):
    assert resolve_classes(roles(normal, anomalous, reference), NAMES) == expected


@pytest.mark.parametrize(
    ("normal", "anomalous", "expected"),
    [("cat", None, Classes((), (0,), (1, 2, 3))), (None, "fox", Classes((), (0, 2), (3,)))],
)
def test_classes_without_training_images_can_be_all_that_are_left_of_the_anomalous_alone(normal, anomalous, expected):
    assert resolve_classes(roles(normal, anomalous, []), NAMES, frozenset({0, 2})) == expected


@pytest.mark.parametrize(("normal", "anomalous", "role"), [(NAMES, None, "anomalous"), (None, NAMES, "normal")])
def test_where_no_class_is_left_for_a_role_it_is_told(normal, anomalous, role):
    with pytest.raises(InputError, match=rf"dataset\.{role} names no class"):
        resolve_classes(roles(normal, anomalous, []), NAMES)


def test_a_string_is_one_class_not_its_letters():
    assert resolve_classes(roles("ab", "a"), ["a", "ab", "b"]) == Classes((2,), (1,), (0,))


@pytest.mark.parametrize(
    ("names", "asked", "place"),
    [
        (["7", "3", "0"], 0, 2),  # the class called 0, not the first one
        (["7", "3", "0"], "3", 1),
        (["7", "3", "0"], 7, 0),
        (["a", "1", "b"], 2, 2),  # no class is called 2
        (["0 - zero", "1 - one"], 1, 1),
        (["10", "x"], 10, 0),
    ],
)
def test_a_number_is_the_class_of_that_name_before_the_one_at_that_place(names, asked, place):
    other = next(i for i in range(len(names)) if i != place)
    assert resolve_classes(roles([asked], [names[other]], []), names).normal == (place,)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (roles("wolf"), r"dataset\.normal.*'wolf'.*cat, dog, elk, fox"),
        (roles(anomalous=["dog", "Dog"]), r"dataset\.anomalous.*'Dog'.*cat, dog, elk, fox"),
        (roles(reference=["wolf"]), r"dataset\.reference.*'wolf'.*cat, dog, elk, fox"),
        (roles(4), r"dataset\.normal.*4.*cat, dog, elk, fox"),
        (roles(-1), r"dataset\.normal.*-1.*cat, dog, elk, fox"),
        (roles("0"), r"dataset\.normal.*'0'.*cat, dog, elk, fox"),
        (roles(""), r"dataset\.normal.*''.*cat, dog, elk, fox"),
        (roles([]), r"dataset\.normal.*cat, dog, elk, fox"),
        (roles("cat", "cat"), r"cat plays two roles"),
        (roles("cat", ["dog", 0]), r"cat plays two roles"),
        (roles("cat", "dog", ["dog", "elk"]), r"dog plays two roles"),
        (roles("cat", "dog", ["cat"]), r"cat plays two roles"),
    ],
)
def test_classes_that_cannot_be_are_an_error_that_says_what_there_is(chosen, message):
    with pytest.raises(InputError, match=message):
        resolve_classes(chosen, NAMES)


def test_a_class_listed_twice_in_one_role_is_an_error_that_names_that_role():
    with pytest.raises(InputError, match=r"dataset\.normal.*cat"):
        resolve_classes(roles(["cat", "cat"]), NAMES)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (7, 4), (8, 4), (9, 4), (10, 4), (5, 4), (3, 10), (100, 7)])
def test_each_epoch_is_a_permutation_less_a_last_batch_of_one(count, batch_size):
    sampler = EpochShuffle(count, batch_size, seed=3)
    lone = count % batch_size == 1 and count > 1
    for epoch in range(4):
        sampler.set_epoch(epoch)
        batches = [batch.tolist() for batch in sampler]
        assert len(batches) == len(sampler)
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert len(batches[-1]) > 1 or count == 1
        positions = [i for batch in batches for i in batch]
        assert len(set(positions)) == len(positions) == count - lone
        assert set(positions) <= set(range(count))


def order(sampler: EpochShuffle) -> list[int]:
    return torch.cat(list(sampler)).tolist()


def test_the_order_depends_on_seed_and_epoch_alone():
    first, resumed = EpochShuffle(50, 8, seed=1), EpochShuffle(50, 8, seed=1)
    orders = []
    for epoch in range(5):
        first.set_epoch(epoch)
        orders.append(order(first))
        torch.rand(3), np.random.default_rng().random()
    resumed.set_epoch(3)
    assert order(resumed) == order(resumed) == orders[3]
    other = EpochShuffle(50, 8, seed=2)
    other.set_epoch(3)
    assert len({tuple(o) for o in (*orders, order(other))}) == 6


def test_seed_and_epoch_are_not_added_up():
    one, two = EpochShuffle(50, 8, seed=1), EpochShuffle(50, 8, seed=2)
    one.set_epoch(2)
    two.set_epoch(1)
    assert order(one) != order(two)


def test_the_image_left_out_of_a_lone_last_batch_is_another_one_each_epoch():
    sampler = EpochShuffle(9, 4, seed=0)
    missing = set()
    for epoch in range(30):
        sampler.set_epoch(epoch)
        missing |= set(range(9)) - set(order(sampler))
    assert len(missing) > 5


def batches(data: PreparedData, epoch: int = 0, batch_size: int = 7) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    loader = MetradDataModule(data, batch_size=batch_size).train_dataloader()
    loader.sampler.set_epoch(epoch)
    yield from loader


def test_training_batches_hold_each_reference_and_normal_image_with_its_label():
    data = numbered()
    seen = {}
    for images, labels in batches(data):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (4, 4, 3)
        assert (images == images[:, :1, :1, :1]).all()
        seen |= dict(zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))
    assert set(seen) == {*data.split.indices["reference"], *data.split.indices["normal"]}
    head = {3: 0, 1: 1, 2: 2}  # reference [3, 1] first, then normal [2]
    assert all(label == head[position % 4] for position, label in seen.items())
    for role in ("calibration", "test_normal", "test_anomalous"):
        assert not set(seen) & set(data.split.indices[role])


def test_with_rotations_each_image_comes_in_four_turns_that_are_classes_of_their_own():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    data = module(partial(Given, pixels), replace(roles(1, 0, [2]), rotations=True))
    expected = [
        (np.rot90(pixels[i], turn).tolist(), {2: 0, 1: 1}[i % 3] + 2 * turn)
        for i in data.train_indices
        for turn in range(4)
    ]
    found = [(image.tolist(), int(label)) for batch in batches(data) for image, label in zip(*batch, strict=True)]
    assert data.epoch_images == len(found)
    assert sorted(found) == sorted(expected)
    assert data.head_classes == ["2", "1"] + [f"{name} at {angle}°" for angle in (90, 180, 270) for name in "21"]


def test_rotations_need_square_images():
    pixels = np.arange(30, dtype=np.uint8)[:, None, None, None] + np.zeros((30, 4, 6, 3), np.uint8)
    module(partial(Given, pixels), roles(1, 0, [2]))
    with pytest.raises(InputError, match=r"dataset\.rotations=true needs square images, and these are 4 by 6"):
        module(partial(Given, pixels), replace(roles(1, 0, [2]), rotations=True))


def test_training_order_changes_with_the_epoch_and_not_with_the_loader():
    data = numbered()
    one, again, later = (torch.cat([labels for _, labels in batches(data, epoch)]).tolist() for epoch in (0, 0, 1))
    assert one == again != later


def test_images_come_in_the_order_asked_for_with_their_positions():
    data = numbered()
    asked = np.array([30, 2, 2, 17, 5])
    images, positions = zip(*data.batches(asked, 2), strict=True)
    assert [len(batch) for batch in images] == [2, 2, 1]
    assert torch.cat(positions).tolist() == asked.tolist()
    assert torch.cat(images)[:, 0, 0, 0].tolist() == asked.tolist()


def test_batches_are_ones_own_to_change():
    data = numbered()
    for images, _ in data.batches(np.arange(40), 40):
        images.zero_()
    assert next(iter(data.batches(np.array([9]), 1)))[0].unique().tolist() == [9]


@pytest.mark.parametrize("workers", [0, 2])
def test_on_demand_with_workers_gives_the_batches_of_memory(root, tmp_path, workers):
    memory = folder(root)
    streamed = folder(root, storage=Storage(0, 0, tmp_path / "cache", workers))
    assert streamed.image_set.on_demand
    assert MetradDataModule(streamed, batch_size=7).train_dataloader().num_workers == workers
    assert MetradDataModule(memory, batch_size=7).train_dataloader().num_workers == 0
    for epoch in (0, 2):
        pairs = zip(batches(memory, epoch), batches(streamed, epoch), strict=True)
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)
    assert memory.describe_split() == streamed.describe_split()


def test_a_file_that_breaks_after_the_scan_is_named_by_the_worker(root, tmp_path):
    data = folder(root, storage=Storage(0, 0, tmp_path / "cache", workers=1))
    for path in root.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    loaded = iter(data.batches(np.array([0]), 1))
    with pytest.raises(InputError, match=r"\d\d\.png cannot be read"):
        next(loaded)
    loaded._shutdown_workers()  # left to the garbage collector, with queues already gone, it waits for 5 s


def test_description_names_the_images_of_each_role(root):
    data = folder(root)
    said = data.describe_split()
    assert list(said["images"]) == list(ROLES)
    for role, names in said["images"].items():
        assert names == [data.image_set.names[i] for i in data.split.indices[role]]
    assert {name.split("/")[0] for name in said["images"]["reference"]} == {"elk"}
    assert said["classes"] == {"reference": ["elk"], "normal": ["cat"], "anomalous": ["dog"]}
    assert said["head_classes"] == ["elk", "cat"]
    assert said["copies_left_out"] == 0
    assert said["seed"] == 0


def test_description_lists_copies_and_broken_files(root):
    (root / "elk/00.png").write_text("no image")
    (root / "dog/00.png").write_bytes((root / "cat/00.png").read_bytes())
    said = folder(root, skip_corrupt=True).describe_split()
    assert said["corrupt_left_out"] == ["elk/00.png"]
    assert said["copies_left_out"] == 1
    everyone = [name for names in said["images"].values() for name in names]
    assert len(everyone) == 34
    assert "elk/00.png" not in everyone


def test_identical_pictures_in_other_files_play_one_role_and_the_copies_are_named(root):
    for path in sorted((root / "cat").iterdir()):
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
    said = folder(root).describe_split()
    assert said["copies_left_out"] == 12
    assert said["copies"] == {f"cat/{i:02d}.png": f"cat/{i:02d}.bmp" for i in range(12)}
    names = [name[:-4] for images in said["images"].values() for name in images]
    assert len(names) == len(set(names)) == 36


def test_files_that_are_not_read_are_counted_in_the_description(root):
    (root / "cat/notes.txt").write_text("12 parts")
    assert folder(root).describe_split()["endings_left_out"] == {".txt": 1}


@pytest.fixture
def deep(tmp_path):
    """Return a folder of three classes of twelve images of 12 bits in 16; one of the anomalous class has 15 bits."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "elk"):
        for i in range(12):
            path = tmp_path / "deep" / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, 4096, (8, 8)).astype(np.uint16)
            values[0, 0] = 4095 if name != "dog" or i else 32000
            Image.fromarray(values).save(path)
    return tmp_path / "deep"


def places(cache: Path) -> dict[str, Storage]:
    return {
        "memory": Storage(2**30, 2**30, cache),
        "disk": Storage(0, 2**30, cache),
        "on demand": Storage(0, 0, cache, workers=0),
    }


def levels(data: PreparedData, name: str) -> np.ndarray:
    position = data.image_set.names.index(name)
    return np.asarray(data.image_set.images[np.array([position])])[0, ..., 0]


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_the_range_is_that_of_the_training_images_and_larger_values_are_clipped(deep, tmp_path, place):
    for _ in range(2):  # a second time from what is kept
        data = folder(deep, storage=places(tmp_path / "cache")[place])
        said = data.describe_split()
        assert (said["decoder"], said["range"]) == (2, 12)
        assert data.clipped == ("dog/00.png" in said["images"]["test_anomalous"])
        for name in ("cat/03.png", "dog/00.png"):
            with Image.open(deep / name) as image:
                values = np.asarray(image)
            expected = np.round(np.minimum(values, 4095) * (255 / 4095)).astype(np.uint8)
            assert np.array_equal(levels(data, name), expected)


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_a_given_range_is_taken(deep, tmp_path, place):
    data = folder(deep, storage=places(tmp_path / "cache")[place], reading=Reading(depth=15))
    assert data.describe_split()["range"] == 15
    assert levels(data, "cat/03.png").max() == round(4095 * 255 / 32767)
    assert data.clipped == 0


def test_the_split_does_not_depend_on_the_range(deep):
    hashes = {folder(deep, reading=Reading(depth=depth)).split_hash for depth in (None, 8, 12, 16)}
    assert len(hashes) == 1


def test_a_sweep_decodes_deep_images_once_for_their_values_and_once_for_their_range(deep, monkeypatch):
    reads = []
    read = ImageFolder.read
    monkeypatch.setattr(ImageFolder, "read", lambda self, i: reads.append(i) or read(self, i))
    for seed in range(4):
        folder(deep, seed=seed)
    assert len(reads) == 2 * 36


def test_images_of_8_bits_have_no_range_and_deep_ones_of_the_test_alone_have_16_bits(root):
    assert folder(root).describe_split()["range"] is None
    Image.fromarray(np.full((5, 7), 300, dtype=np.uint16)).save(root / "dog/03.png")
    assert folder(root).describe_split()["range"] == 16


def test_a_restored_split_keeps_its_range(deep, root):
    said = json.loads(json.dumps(folder(deep, reading=Reading(depth=14)).describe_split()))
    again = folder(deep)
    again.restore_split(said)
    assert again.describe_split() == said
    assert levels(again, "cat/03.png").max() == round(4095 * 255 / 16383)


def test_an_image_that_changes_between_two_passes_is_refused(deep, monkeypatch):
    read, passes = ImageFolder.read, []

    def changing(self, position):
        image = read(self, position)
        passes.append(position)
        return Decoded(image.pixels, bytes(16)) if len(passes) > 36 and position == 3 else image

    monkeypatch.setattr(ImageFolder, "read", changing)
    with pytest.raises(InputError, match=r"cat/03\.png has changed since"):
        folder(deep)


@pytest.mark.parametrize("kind", ["another picture", "another level of one pixel"])
def test_an_image_that_changes_while_it_is_decoded_on_demand_is_refused(root, tmp_path, kind):
    data = folder(root, storage=places(tmp_path / "cache")["on demand"])
    path = root / data.image_set.names[0]
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[:1, :1] ^= 1
    Image.fromarray(pixels if kind != "another picture" else 255 - pixels).save(path)
    with pytest.raises(InputError, match="has changed since this run first read it"):
        next(iter(data.batches(np.array([0]), 1)))
    next(iter(data.batches(np.array([1]), 1)))


@pytest.mark.parametrize("place", ["memory", "on demand"])
def test_an_image_at_its_own_size_has_the_range_of_the_run_and_is_kept_as_it_was(deep, tmp_path, place):
    data = folder(deep, storage=places(tmp_path / "cache")[place])
    position = data.image_set.names.index("cat/03.png")
    found = data.decoded(position).pixels
    assert (found.shape, found.dtype, found.max()) == ((8, 8, 3), np.uint8, 255)
    np.testing.assert_array_equal(found[..., 0], levels(data, "cat/03.png"))
    Image.new("L", (8, 8)).save(deep / "cat/03.png")
    with pytest.raises(InputError, match=r"cat/03\.png has changed since"):
        data.decoded(position)


def test_an_image_that_is_only_written_again_while_it_is_decoded_on_demand_is_the_same(root, tmp_path):
    data = folder(root, storage=places(tmp_path / "cache")["on demand"])
    path = root / data.image_set.names[0]
    with Image.open(path) as image:
        image.load()
        image.save(path, compress_level=0)
    next(iter(data.batches(np.array([0]), 1)))


def former_hash(data: PreparedData, root: Path) -> str:
    """Return the hash of metrad 0.1: over names and bytes of the files."""
    content = hashlib.blake2b(digest_size=16)
    for role, indices in data.split.indices.items():
        content.update(role.encode())
        for i in indices:
            name = data.image_set.names[i]
            content.update(name.encode() + digest((root / name).read_bytes()))
    return content.hexdigest()


def former_description(data: PreparedData, root: Path) -> dict:
    later = ("decoder", "range", "copies", "endings_left_out")
    said = {key: value for key, value in data.describe_split().items() if key not in later}
    return {**said, "hash": former_hash(data, root)}


def test_a_split_of_metrad_0_1_is_compared_and_decoded_as_it_was_then(deep):
    said = former_description(folder(deep), deep)
    again = folder(deep)
    again.restore_split(said)
    assert again.split_hash == said["hash"]
    assert again.decoding == Decoding(1, None)
    assert levels(again, "cat/03.png").max() == round(4095 / 257)
    with Image.open(deep / "elk/00.png") as image:
        image.load()
        image.save(deep / "elk/00.png", compress_level=0)  # the same pixels, other bytes
    with pytest.raises(InputError, match="have changed"):
        folder(deep).restore_split(said)


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_a_split_of_an_unknown_decoder_is_refused(root, version):
    data = folder(root)
    with pytest.raises(InputError, match=r"decoded by version .* knows 1 and 2"):
        data.restore_split({**data.describe_split(), "decoder": version})


def test_the_hash_of_arrays_is_that_of_metrad_0_1():
    data = numbered()
    said = {key: value for key, value in data.describe_split().items() if key not in ("decoder", "range")}
    data.restore_split(said)
    assert data.split_hash == said["hash"] == "326fba2f39fe8c6d8217209127ebd32b"


def test_hash_changes_with_the_split_and_with_the_content(root):
    data = folder(root)
    hashes = {data.describe_split()["hash"], folder(root, seed=1).describe_split()["hash"]}
    Image.new("RGB", (5, 7)).save(root / "elk/03.png")
    hashes.add(folder(root).describe_split()["hash"])
    assert len(hashes) == 3
    assert folder(root).describe_split()["hash"] in hashes


def test_a_described_split_can_be_taken_up_again(root):
    old = folder(root, seed=1)
    said = json.loads(json.dumps(old.describe_split()))
    new = folder(root, seed=2)
    assert new.describe_split()["images"] != said["images"]
    new.restore_split(said)
    for role in ROLES:
        assert np.array_equal(new.split.indices[role], old.split.indices[role])
        assert new.split.indices[role].dtype == np.int64
    assert new.describe_split() | {"seed": 1} == said


def test_a_split_can_be_taken_up_where_the_folder_has_moved_and_grown(root, tmp_path):
    said = folder(root).describe_split()
    moved = root.rename(tmp_path / "elsewhere")
    Image.new("RGB", (5, 7)).save(moved / "cat/000.png")  # comes first, so that every position shifts
    data = folder(moved)
    data.restore_split(said)
    assert data.describe_split()["images"] == said["images"]


@pytest.mark.parametrize("role", ROLES)
def test_a_missing_image_is_refused_and_named(root, role):
    said = folder(root).describe_split()
    name = said["images"][role][0]
    (root / name).unlink()
    with pytest.raises(InputError, match=f"1 images.* {name}"):
        folder(root).restore_split(said)


@pytest.mark.parametrize("role", ROLES)
def test_a_changed_image_is_refused(root, role):
    said = folder(root).describe_split()
    Image.new("RGB", (5, 7)).save(root / said["images"][role][-1])
    with pytest.raises(InputError, match="have changed"):
        folder(root).restore_split(said)


def test_a_changed_array_is_refused():
    data = numbered()
    said = data.describe_split()
    other = module(partial(Numbered, count=48), roles("class 2", "class 0", ["class 3", "class 1"]))
    other.restore_split(said)  # more images than before are no harm
    assert other.describe_split()["hash"] == said["hash"]
    said["images"]["normal"][0], said["images"]["test_normal"][0] = (
        said["images"]["test_normal"][0],
        said["images"]["normal"][0],
    )
    with pytest.raises(InputError, match="have changed"):
        other.restore_split(said)


def test_images_of_classes_with_unusual_names_can_be_described_and_taken_up(root):
    (root / "elk").rename(root / "Élan ☂ 日本")
    said = json.loads(json.dumps(folder(root).describe_split(), ensure_ascii=False))
    assert said["classes"]["reference"] == ["Élan ☂ 日本"]
    folder(root).restore_split(said)


def test_too_few_images_name_the_key_and_how_many_there_are(root):
    chosen = Roles("cat", "dog", None, SIZES | {"reference": 13}, test_share=0.3)
    with pytest.raises(InputError, match=r"dataset\.sizes\.reference=13.*there are 12"):
        module(partial(ImageFolder, root), chosen)


def test_every_class_of_the_head_has_images_to_learn_from(root):
    # as in MVTec AD: defects in the test part only, and not all of them are asked for
    for old, new in (("cat", "train/good"), ("dog", "test/crack"), ("elk", "test/hole")):
        (root / new).parent.mkdir(exist_ok=True)
        (root / old).rename(root / new)
    (root / "test/good").mkdir()
    (root / "train/good/00.png").rename(root / "test/good/00.png")
    try:
        data = module(partial(ImageFolder, root), roles("good", "crack"))
    except InputError as refused:
        hole_is_named = "hole" in str(refused)
    else:
        hole_is_named = True
        assert set(data.image_set.pool.labels[data.train_indices]) == set(data.classes.seen)
    assert hole_is_named


def test_unknown_class_is_told_before_anything_is_decoded(root, monkeypatch):
    monkeypatch.setattr(ImageFolder, "read", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"'wolf'.*cat, dog, elk"):
        module(partial(ImageFolder, root), roles("wolf"))


def test_one_image_a_class_leaves_nothing_to_test_and_says_so(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), (NAMES.index(name), 0, 0)).save(tmp_path / name / "only.png")
    with pytest.raises(InputError, match=r"dataset\.sizes\.(test_normal|calibration)"):
        folder(tmp_path)


def found_by_itself(source, **settings):
    return module(source, replace(roles("cat", "dog", ["elk"]), group="auto"), **settings)


def test_groups_are_found_in_images_of_16_bits_and_their_range_is_that_of_the_training_images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "elk"):
        for i in range(12):
            path = tmp_path / "deep" / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 4096, (8, 8), dtype=np.uint16)).save(path)
    data = found_by_itself(partial(ImageFolder, tmp_path / "deep"))
    assert data.image_set.depth == 12
    assert data.found == ["36 images have no near copies and no series of running numbers among them"]
    assert all(len(numbers) == len(data.split.indices[role]) for role, numbers in data.groups.items())


def test_a_restored_split_has_the_found_groups_and_looks_for_none(root, monkeypatch):
    first = found_by_itself(partial(ImageFolder, root))
    description = json.loads(json.dumps(first.describe_split()))
    monkeypatch.setattr("metrad.data.prepared.find", None)
    again = PreparedData(
        partial(ImageFolder, root), first.roles, Storage(2**30, 0, Path("unused")), seed=0, image_size=8
    )
    again.restore_split(description)
    assert {role: numbers.tolist() for role, numbers in again.groups.items()} == description["groups"]
    assert again.describe_split() == description


def test_images_without_names_or_with_groups_are_not_searched_for_unnamed_groups(root, monkeypatch):
    monkeypatch.setattr("metrad.data.prepared.find", None)
    assert numbered().unnamed_groups() == ""
    grouped = module(partial(ImageFolder, root), replace(roles("cat", "dog", ["elk"]), group=r"(?P<part>\d+)"))
    assert grouped.unnamed_groups() == ""


def test_images_of_noise_are_said_to_have_no_unnamed_groups(root):
    assert folder(root).unnamed_groups() == ""


def test_copies_and_images_without_a_role_are_not_searched_for_groups(root):
    (root / "cat" / "99.png").write_bytes((root / "cat" / "00.png").read_bytes())
    (root / "fox").mkdir()
    Image.new("RGB", (8, 8)).save(root / "fox" / "0.png")
    data = found_by_itself(partial(ImageFolder, root))
    assert data.found[0].startswith("36 images")
