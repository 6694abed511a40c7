"""A source decoded once gives the same images from memory, from disk and on demand, and is never stale."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metrad.data.arrays import OnDemand, resize
from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Decoded, decode_file
from metrad.data.duplicates import content_key, digest
from metrad.data.sources import Digits, ImageFolder, Source
from metrad.data.store import ImageSet, Storage, load
from metrad.errors import InputError

ALL = 2**40
SIZE = 6


def places(cache: Path) -> dict[str, Storage]:
    return {
        "memory": Storage(memory_limit=ALL, disk_limit=ALL, cache=cache),
        "disk": Storage(memory_limit=0, disk_limit=ALL, cache=cache),
        "on demand": Storage(memory_limit=0, disk_limit=0, cache=cache),
    }


def noise(seed: int, shape: tuple[int, ...] = (9, 11, 3)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    """Return a folder of two classes with colour, grey, palette and copied images."""
    folder = tmp_path / "root"
    for name in ("b", "a"):
        (folder / name).mkdir(parents=True)
    noise(0).save(folder / "a/colour.png")
    noise(1, (5, 8)).save(folder / "a/grey.png")
    noise(2).quantize(8).save(folder / "a/palette.png")
    noise(3, (30, 20, 4)).save(folder / "b/alpha.png")
    noise(4, (SIZE, SIZE, 3)).save(folder / "b/exact.png")
    (folder / "b/copy.png").write_bytes((folder / "a/colour.png").read_bytes())
    return folder


def pixels(images: ImageSet) -> np.ndarray:
    return np.asarray(images.images[np.arange(len(images.names))])


def entries(cache: Path) -> list[str]:
    return sorted(entry.name for entry in cache.iterdir() if entry.suffix != ".lock") if cache.exists() else []


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_every_place_gives_each_file_decoded_and_resized(root, tmp_path, place):
    images = load(ImageFolder(root), SIZE, places(tmp_path / "cache")[place], skip_corrupt=False)
    files = [decode_file(root / name) for name in images.names]
    assert len(files) == 6
    assert np.array_equal(pixels(images), np.stack([resize(file.pixels, (SIZE, SIZE)) for file in files]))
    assert [row.tobytes() for row in images.digests] == [file.digest for file in files]
    assert [images.classes[label] for label in images.pool.labels] == [name.split("/")[0] for name in images.names]
    assert images.on_demand == (place == "on demand") == isinstance(images.images, OnDemand)
    assert images.pool.usable.all()
    assert images.corrupt == {}


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_every_place_gives_batches_of_any_order_and_with_repeats(root, tmp_path, place):
    images = load(ImageFolder(root), SIZE, places(tmp_path / "cache")[place], skip_corrupt=False)
    order = np.array([4, 0, 0, 5])
    assert np.array_equal(np.asarray(images.images[order]), pixels(images)[order])


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_copies_share_their_content_number_and_nothing_else_does(root, tmp_path, place):
    images = load(ImageFolder(root), SIZE, places(tmp_path / "cache")[place], skip_corrupt=False)
    content = dict(zip(images.names, images.pool.content, strict=True))
    assert content["a/colour.png"] == content["b/copy.png"]
    assert len(set(content.values())) == 5


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_a_size_of_the_source_goes_before_the_size_of_the_model(root, tmp_path, place):
    storage = places(tmp_path / "cache")[place]
    assert pixels(load(ImageFolder(root, size=3), SIZE, storage, skip_corrupt=False)).shape == (6, 3, 3, 3)


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_an_array_source_stays_the_array_it_is(tmp_path, place):
    source = Digits()
    images = load(source, 32, places(tmp_path / "cache")[place], skip_corrupt=False)
    assert images.images is source.pixels
    assert not images.on_demand
    assert images.digests[5].tobytes() == digest(source.pixels[5].tobytes())
    assert entries(tmp_path / "cache") == []


class Grey(Source):
    """One-channel images from functions of their position, as a user's own source may give them."""

    def __init__(self) -> None:
        self.labels = np.array([0, 1, 1])
        self.classes = ["x", "y"]
        self.names = ["0", "1", "2"]
        self.identity = ("grey",)

    def read(self, position: int) -> Decoded:
        values = np.full((SIZE, SIZE, 3 if position == 2 else 1), 10 * position, dtype=np.uint8)
        return Decoded(values, digest(values.tobytes()))


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_one_channel_images_of_a_source_of_ones_own_are_the_same_everywhere(tmp_path, place):
    images = load(Grey(), SIZE, places(tmp_path / "cache")[place], skip_corrupt=False)
    expected = np.broadcast_to(np.array([0, 10, 20])[:, None, None, None], (3, SIZE, SIZE, 3))
    assert np.array_equal(pixels(images), expected)
    assert np.array_equal(np.asarray(images.images[np.array([1])]), expected[1:2])


class Counting(ImageFolder):
    """An image folder that notes what it decodes."""

    reads: list[int]

    def read(self, position: int) -> Decoded:
        self.reads.append(position)
        return super().read(position)


def test_the_images_of_one_source_are_decoded_once_in_a_sweep(root, tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "reads", [], raising=False)
    for _ in range(3):
        load(Counting(root), SIZE, places(tmp_path / "cache")["memory"], skip_corrupt=False)
    assert sorted(Counting.reads) == list(range(6))


def test_several_processes_share_one_file_and_one_of_them_decodes(root, tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "reads", [], raising=False)
    storage = Storage(memory_limit=ALL, disk_limit=ALL, cache=tmp_path / "cache", shared=True)
    with ThreadPoolExecutor(4) as pool:  # a file's lock keeps out threads as it does processes
        made = list(pool.map(lambda _: load(Counting(root), SIZE, storage, skip_corrupt=False), range(4)))
    assert sorted(Counting.reads) == list(range(6))
    assert all(isinstance(images.images, np.memmap) for images in made)
    assert len(entries(tmp_path / "cache")) == 1


def test_a_cached_source_is_not_decoded_again(root, tmp_path, monkeypatch):
    storage = places(tmp_path / "cache")["disk"]
    first = load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
    assert isinstance(first.images, np.memmap)
    monkeypatch.setattr(ImageFolder, "read", lambda *_: pytest.fail("decoded again"))
    again = load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
    assert np.array_equal(pixels(again), pixels(first))
    assert np.array_equal(again.digests, first.digests)
    assert len(entries(tmp_path / "cache")) == 1


def test_images_in_memory_and_on_disk_cannot_be_overwritten(root, tmp_path):
    for place in ("memory", "disk"):
        images = load(ImageFolder(root), SIZE, places(tmp_path / "cache")[place], skip_corrupt=False)
        with pytest.raises(ValueError, match="read-only"):
            images.images[0] = 1


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_a_changed_file_is_decoded_anew(root, tmp_path, place):
    storage = places(tmp_path / "cache")[place]
    load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
    noise(99).save(root / "a/colour.png")
    images = load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
    changed = images.names.index("a/colour.png")
    assert np.array_equal(pixels(images)[changed], resize(np.asarray(noise(99)), (SIZE, SIZE)))
    assert images.digests[changed].tobytes() == content_key(np.asarray(noise(99)))
    assert len(entries(tmp_path / "cache")) == (2 if place == "disk" else 0)


def test_sizes_and_corrupt_settings_have_entries_of_their_own(root, tmp_path):
    storage = places(tmp_path / "cache")["disk"]
    for size, skip in ((SIZE, False), (SIZE + 1, False), (SIZE, True), (SIZE, False)):
        assert pixels(load(ImageFolder(root), size, storage, skip_corrupt=skip)).shape[1] == size
    assert len(entries(tmp_path / "cache")) == 3


class Inverted(ImageFolder):
    """Another way to read the same files."""

    def read(self, position: int) -> Decoded:
        image = super().read(position)
        return Decoded(255 - image.pixels, image.digest)


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_another_source_over_the_same_files_gets_its_own_pixels(root, tmp_path, place):
    storage = places(tmp_path / "cache")[place]
    plain = load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
    exact = plain.names.index("b/exact.png")
    inverted = load(Inverted(root), SIZE, storage, skip_corrupt=False)
    assert np.array_equal(pixels(inverted)[exact], 255 - pixels(plain)[exact])


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_a_failed_decode_names_the_file_and_leaves_nothing_behind(root, tmp_path, place):
    spoil(root / "b/exact.png")
    storage = places(tmp_path / "cache")[place]
    for _ in range(2):  # the failure itself is not remembered as a result
        with pytest.raises(CorruptImageError, match=r"b/exact\.png"):
            load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
        assert entries(tmp_path / "cache") == []


def test_an_interrupted_decode_leaves_nothing_behind(root, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFolder, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(ImageFolder(root), SIZE, places(tmp_path / "cache")["disk"], skip_corrupt=False)
    assert entries(tmp_path / "cache") == []


def test_what_a_killed_run_left_behind_is_in_nobodys_way(root, tmp_path):
    # in a container every run has the same process number
    storage = places(tmp_path / "cache")["disk"]
    load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
    (entry,) = (tmp_path / "cache" / name for name in entries(tmp_path / "cache"))
    killed = entry.with_name(f"{entry.name}.{os.getpid()}.partial")
    entry.rename(killed)
    (killed / "images.npy").write_bytes(b"half")
    images = load(ImageFolder(root), SIZE, storage, skip_corrupt=False)
    assert np.array_equal(pixels(images)[0], resize(decode_file(root / images.names[0]).pixels, (SIZE, SIZE)))


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_skipped_files_are_marked_and_listed_and_the_others_stay(root, tmp_path, place):
    whole = load(ImageFolder(root), SIZE, places(tmp_path / "other")["memory"], skip_corrupt=False)
    spoil(root / "b/exact.png")
    (root / "a/grey.png").write_text("no image")
    storage = places(tmp_path / "cache")[place]
    for _ in range(2):  # a second time from the cache
        images = load(ImageFolder(root), SIZE, storage, skip_corrupt=True)
        broken = {images.names.index(name) for name in ("b/exact.png", "a/grey.png")}
        assert set(images.corrupt) == broken
        assert all(images.names[i] in message for i, message in images.corrupt.items())
        assert set(np.flatnonzero(~images.pool.usable)) == broken
        good = np.flatnonzero(images.pool.usable)
        assert np.array_equal(np.asarray(images.images[good]), pixels(whole)[good])


@pytest.mark.parametrize("place", ["memory", "disk", "on demand"])
def test_files_skipped_once_still_raise_where_they_should(root, tmp_path, place):
    spoil(root / "b/exact.png")
    storage = places(tmp_path / "cache")[place]
    load(ImageFolder(root), SIZE, storage, skip_corrupt=True)
    with pytest.raises(InputError, match=r"b/exact\.png"):
        load(ImageFolder(root), SIZE, storage, skip_corrupt=False)


def test_limits_decide_by_the_bytes_of_the_pixels(root, tmp_path):
    needed = 6 * SIZE * SIZE * 3
    source = ImageFolder(root)
    for memory, disk, expected in ((needed, 0, "memory"), (needed - 1, needed, "disk"), (0, needed - 1, "on demand")):
        images = load(source, SIZE, Storage(memory, disk, tmp_path / "cache"), skip_corrupt=False)
        kind = "on demand" if images.on_demand else "disk" if isinstance(images.images, np.memmap) else "memory"
        assert kind == expected


def test_a_source_that_cannot_tell_changes_is_never_cached_on_disk(root, tmp_path):
    source = ImageFolder(root)
    source.identity = None
    images = load(source, SIZE, places(tmp_path / "cache")["disk"], skip_corrupt=False)
    assert images.on_demand
    assert entries(tmp_path / "cache") == []
