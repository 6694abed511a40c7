"""Generated files in the official layouts, read through torchvision's own classes."""

import gzip
import pickle
import struct
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from PIL import Image
from torchvision.datasets import VisionDataset

from metrad.data.broken_images import CorruptImageError
from metrad.data.decoding import Reading
from metrad.data.duplicates import digest
from metrad.data.sources import Source
from metrad.data.store import Storage, load
from metrad.data.torchvision_sources import open_source
from metrad.errors import InputError

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
RNG = np.random.default_rng(0)
GREY = {"train": RNG.integers(0, 256, (6, 28, 28), dtype=np.uint8), "t10k": RNG.integers(0, 256, (4, 28, 28), np.uint8)}
GREY_LABELS = {"train": [9, 0, 3, 3, 7, 1], "t10k": [2, 9, 0, 5]}
COLOUR = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
PART_NAMES = [f"train/{i}" for i in range(6)] + [f"test/{i}" for i in range(4)]


def idx(array: np.ndarray) -> bytes:
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


def idx_content() -> dict[str, bytes]:
    return {f"{part}-images-idx3-ubyte": idx(pixels) for part, pixels in GREY.items()} | {
        f"{part}-labels-idx1-ubyte": idx(np.array(labels, dtype=np.uint8)) for part, labels in GREY_LABELS.items()
    }


def write_mnist(root: Path, name: str) -> Path:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for file, content in idx_content().items():
        (raw / file).write_bytes(content)
    return raw


def write_pickle(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def rows(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


CIFAR10_LABELS = [3, 0, 9, 9, 5, 1, 2, 4, 6, 7, 8, 3]
CIFAR100_LABELS = [99, 0, 47, 52, 50, 1, 2, 47, 6, 7, 8, 52]
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(root: Path) -> None:
    base = root / "cifar-10-batches-py"
    for batch in range(5):
        part = slice(2 * batch, 2 * batch + 2)
        write_pickle(base / f"data_batch_{batch + 1}", {"data": rows(COLOUR[part]), "labels": CIFAR10_LABELS[part]})
    write_pickle(base / "test_batch", {"data": rows(COLOUR[10:]), "labels": CIFAR10_LABELS[10:]})
    write_pickle(base / "batches.meta", {"label_names": CIFAR10_NAMES, "num_cases_per_batch": 2, "num_vis": 3072})


def write_cifar100(root: Path) -> None:
    base = root / "cifar-100-python"
    for name, part in (("train", slice(0, 10)), ("test", slice(10, 12))):
        labels = CIFAR100_LABELS[part]
        coarse = [label // 5 for label in labels]
        write_pickle(base / name, {"data": rows(COLOUR[part]), "fine_labels": labels, "coarse_labels": coarse})
    fine = [f"fine_{i}" for i in range(100)]
    write_pickle(base / "meta", {"fine_label_names": fine, "coarse_label_names": [f"coarse_{i}" for i in range(20)]})


def exists(path: object, md5: str | None = None) -> bool:
    return Path(str(path)).is_file()


def source_of(dataset: type[VisionDataset], root: Path, **settings: object) -> Source:
    return open_source(partial(dataset, root=str(root), **({"download": False} | settings)))


def all_pixels(source: Source) -> np.ndarray:
    return source.pixels[np.arange(len(source.labels))]


@pytest.mark.parametrize("name", ["FashionMNIST", "MNIST", "KMNIST"])
def test_idx_files_give_grey_images_of_both_parts(tmp_path, name):
    dataset = getattr(torchvision.datasets, name)
    write_mnist(tmp_path, name)
    source = source_of(dataset, tmp_path)
    pixels = all_pixels(source)
    assert pixels.shape == (10, 28, 28, 1)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[..., 0], np.concatenate([GREY["train"], GREY["t10k"]]))
    assert source.labels.tolist() == GREY_LABELS["train"] + GREY_LABELS["t10k"]
    assert source.in_test_part.tolist() == [False] * 6 + [True] * 4
    assert source.names == PART_NAMES
    assert source.classes == dataset.classes


def test_fashion_mnist_classes_are_those_the_shipped_yaml_names(tmp_path):
    write_mnist(tmp_path, "FashionMNIST")
    source = source_of(torchvision.datasets.FashionMNIST, tmp_path)
    assert (source.classes.index("Sneaker"), source.classes.index("Ankle boot")) == (7, 9)


def test_array_images_are_identified_by_their_pixels(tmp_path):
    write_mnist(tmp_path, "MNIST")
    source = source_of(torchvision.datasets.MNIST, tmp_path)
    assert source.read(7).digest == digest(GREY["t10k"][1].tobytes())
    assert np.array_equal(source.read(7).pixels[..., 0], GREY["t10k"][1])


@pytest.mark.parametrize(("train", "expected"), [(True, "train"), (False, "t10k")])
def test_one_part_alone_has_no_test_part(tmp_path, train, expected):
    write_mnist(tmp_path, "MNIST")
    source = source_of(torchvision.datasets.MNIST, tmp_path, train=train)
    assert source.in_test_part is None
    assert source.labels.tolist() == GREY_LABELS[expected]
    assert source.names == [f"all/{i}" for i in range(len(source.labels))]


@pytest.mark.parametrize(
    ("dataset", "write", "labels", "classes"),
    [
        (torchvision.datasets.CIFAR10, write_cifar10, CIFAR10_LABELS, CIFAR10_NAMES),
        (torchvision.datasets.CIFAR100, write_cifar100, CIFAR100_LABELS, [f"fine_{i}" for i in range(100)]),
    ],
)
def test_cifar_pickles_give_colour_images_of_both_parts(tmp_path, monkeypatch, dataset, write, labels, classes):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", exists)  # generated files have other checksums
    write(tmp_path)
    source = source_of(dataset, tmp_path)
    assert np.array_equal(all_pixels(source), COLOUR)
    assert source.labels.tolist() == labels
    assert source.classes == classes
    assert source.in_test_part.tolist() == [False] * 10 + [True] * 2
    assert source.names == [f"train/{i}" for i in range(10)] + ["test/0", "test/1"]
    assert np.array_equal(source.read(11).pixels, COLOUR[11])


MISSING = [
    ("FashionMNIST", [f"{name}.gz" for name in IDX_FILES], "FashionMNIST/raw"),
    ("MNIST", [f"{name}.gz" for name in IDX_FILES], "MNIST/raw"),
    ("CIFAR10", ["cifar-10-python.tar.gz"], ""),
    ("CIFAR100", ["cifar-100-python.tar.gz"], ""),
]


def assert_says_what_to_place(error: InputError, files: list[str], folder: Path) -> None:
    assert all(file in str(error) for file in files)
    assert f"in {folder}" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("name", "files", "folder"), MISSING)
def test_missing_files_are_named_with_the_folder_to_place_them_in(tmp_path, name, files, folder):
    with pytest.raises(InputError) as caught:
        source_of(getattr(torchvision.datasets, name), tmp_path)
    assert_says_what_to_place(caught.value, files, tmp_path / folder)


@pytest.mark.parametrize(("name", "files", "folder"), MISSING)
def test_a_download_without_network_names_the_files_to_place(tmp_path, monkeypatch, name, files, folder):
    def unreachable(*_, **__):
        raise URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(InputError) as caught:
        source_of(getattr(torchvision.datasets, name), tmp_path, download=True)
    assert_says_what_to_place(caught.value, files, tmp_path / folder)


def test_idx_archives_placed_as_told_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", exists)
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for file, content in idx_content().items():
        (raw / f"{file}.gz").write_bytes(gzip.compress(content))
    source = source_of(torchvision.datasets.FashionMNIST, tmp_path, download=True)
    assert source.labels.tolist() == GREY_LABELS["train"] + GREY_LABELS["t10k"]


def test_cifar_archive_placed_as_told_is_read(tmp_path, monkeypatch):
    for module in ("cifar", "utils"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", exists)
    write_cifar10(tmp_path / "made")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made/cifar-10-batches-py", "cifar-10-batches-py")
    source = source_of(torchvision.datasets.CIFAR10, tmp_path, download=True)
    assert np.array_equal(all_pixels(source), COLOUR)


BROKEN_IDX = {
    "empty images": ("train-images-idx3-ubyte", b""),
    "truncated images": ("t10k-images-idx3-ubyte", idx(GREY["t10k"])[:-500]),
    "a web page": ("train-images-idx3-ubyte", b"<html><body>404</body></html>"),
    "header only": ("train-labels-idx1-ubyte", idx(np.zeros(0, np.uint8))),
    "too few labels": ("train-labels-idx1-ubyte", idx(np.zeros(3, np.uint8))),
    "still packed": ("train-images-idx3-ubyte", gzip.compress(idx(GREY["train"]))),
}


@pytest.mark.parametrize("case", BROKEN_IDX)
def test_broken_idx_files_are_one_error(tmp_path, case):
    name, content = BROKEN_IDX[case]
    (write_mnist(tmp_path, "MNIST") / name).write_bytes(content)
    with pytest.raises(InputError, match=r"dataset\.source"):
        source_of(torchvision.datasets.MNIST, tmp_path)


def write_svhn(root: Path) -> None:
    import scipy.io

    for name, part, labels in (
        ("train", slice(0, 7), [10, 1, 2, 9, 9, 3, 10]),
        ("test", slice(7, 12), [4, 10, 1, 1, 2]),
    ):
        content = {"X": COLOUR[part].transpose(1, 2, 3, 0), "y": np.array(labels, dtype=np.uint8)[:, None]}
        scipy.io.savemat(root / f"{name}_32x32.mat", content)


def test_a_dataset_that_keeps_no_array_of_images_is_read_one_image_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", exists)
    write_svhn(tmp_path)
    source = source_of(torchvision.datasets.SVHN, tmp_path)
    assert source.pixels is None
    assert np.array_equal(np.stack([source.read(i).pixels for i in range(12)]), COLOUR)
    assert source.labels.tolist() == [0, 1, 2, 9, 9, 3, 0, 4, 0, 1, 1, 2]
    assert source.classes == list("0123456789")
    assert source.in_test_part.tolist() == [False] * 7 + [True] * 5
    assert source.names == [f"train/{i}" for i in range(7)] + [f"test/{i}" for i in range(5)]
    assert len({source.read(i).digest for i in range(12)}) == 12


def test_a_dataset_read_one_image_at_a_time_loads_resized(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", exists)
    write_svhn(tmp_path)
    for limit in (2**30, 0):
        images = load(
            source_of(torchvision.datasets.SVHN, tmp_path), 32, Storage(limit, 0, tmp_path), skip_corrupt=False
        )
        assert np.array_equal(images.images[np.arange(12)], COLOUR)
        assert len(set(images.pool.content)) == 12


def test_missing_files_of_a_dataset_without_a_list_name_its_folder(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}.*SVHN"):
        source_of(torchvision.datasets.SVHN, tmp_path)


def test_a_dataset_without_parts_has_no_test_part():
    source = open_source(partial(torchvision.datasets.FakeData, size=9, image_size=(3, 6, 5), num_classes=3))
    assert source.in_test_part is None
    assert source.read(8).pixels.shape == (6, 5, 3)
    assert source.names == [f"all/{i}" for i in range(9)]
    assert source.classes == [str(i) for i in range(max(source.labels) + 1)]


class Odd(VisionDataset):
    """Images of several modes, labels with gaps, parts of its own names; labels come with the images only."""

    modes = ("L", "RGBA", "P", "1", "LA", "RGB")

    def __init__(self, root: str = ".", split: str = "train", label: object = int) -> None:
        super().__init__(root)
        if split not in ("train", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are {{'train', 'val'}}.")
        self.label = label
        self.shift = 0 if split == "train" else 3

    def __len__(self) -> int:
        return 6 - self.shift

    def __getitem__(self, index: int) -> tuple[Image.Image, object]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Image.new("L", (4, 5), 255).convert(self.modes[index + self.shift]), self.label(5 * index)


class Unpacking(VisionDataset):
    """Unpacks something whenever it is opened, and fails where another is at it."""

    targets = (0, 1)

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        super().__init__(root)
        half_written = Path(root, "half-written")
        half_written.touch(exist_ok=False)
        time.sleep(0.02)
        half_written.unlink()

    def __len__(self) -> int:
        return len(self.targets)


def test_one_at_a_time_downloads_and_unpacks(tmp_path):
    root = tmp_path / "new"

    def opened(_: int) -> np.ndarray:
        return open_source(partial(Unpacking, root=str(root), download=True)).labels

    with ThreadPoolExecutor(4) as several:
        assert [labels.tolist() for labels in several.map(opened, range(8))] == [[0, 1, 0, 1]] * 8


def test_a_root_where_no_lock_can_be_is_read_all_the_same(tmp_path, monkeypatch):
    def refuse(*args: object, **settings: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("metrad.data.torchvision_sources.FileLock", refuse)
    assert open_source(partial(Unpacking, root=str(tmp_path), download=True)).labels.tolist() == [0, 1, 0, 1]


def test_two_parts_of_other_names_can_be_chosen():
    source = open_source(partial(Odd, split=["train", "val"]))
    assert source.in_test_part.tolist() == [False] * 6 + [True] * 3
    assert source.labels.tolist() == [0, 5, 10, 15, 20, 25, 0, 5, 10]
    assert source.classes == [str(i) for i in range(26)]
    for i in range(9):
        assert np.array_equal(source.read(i).pixels, np.full((5, 4, 3), 255))


def test_one_split_by_name_has_no_test_part():
    source = open_source(partial(Odd, split="val"))
    assert source.in_test_part is None
    assert len(source.labels) == 3


@pytest.mark.parametrize("split", [["train"], ["train", "val", "test"], []])
def test_a_list_of_splits_that_are_not_two_is_refused(split):
    with pytest.raises(InputError, match=r"dataset\.source\.split"):
        open_source(partial(Odd, split=split))


@pytest.mark.parametrize(
    "factory",
    [
        partial(Odd),  # has no split test
        partial(Odd, split="tset"),
        partial(torchvision.datasets.OxfordIIITPet, root="nowhere"),
        partial(torchvision.datasets.EMNIST, root="nowhere"),
    ],
)
def test_a_split_that_the_dataset_lacks_is_an_error_that_names_the_setting(factory):
    with pytest.raises(InputError, match=r"dataset\.source.*split"):
        open_source(factory)


@pytest.mark.parametrize("label", [str, float, lambda n: [n, n]])
def test_labels_that_are_no_classes_are_refused(label):
    with pytest.raises(InputError, match=r"dataset\.source: Odd has no class labels"):
        open_source(partial(Odd, split="train", label=label))


def test_images_that_are_no_pictures_are_refused():
    class Tensors(Odd):
        def __getitem__(self, index: int) -> tuple[object, object]:
            return np.zeros((4, 4)), super().__getitem__(index)[1]

    source = open_source(partial(Tensors, split="train"))
    with pytest.raises(InputError, match=r"Tensors gives .*ndarray.*no PIL image"):
        source.read(0)


def write_folder(root: Path) -> None:
    for name, value in (("a/1.png", 10), ("a/2.png", 20), ("b/1.png", 30)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, 0, 0)).save(root / name)


def test_torchvisions_own_image_folder_can_be_used(tmp_path):
    write_folder(tmp_path)
    source = open_source(partial(torchvision.datasets.ImageFolder, root=str(tmp_path)))
    assert source.classes == ["a", "b"]
    assert source.labels.tolist() == [0, 0, 1]
    assert [source.read(i).pixels[0, 0, 0] for i in range(3)] == [10, 20, 30]


@pytest.mark.parametrize("content", [b"no image", b""])
def test_a_broken_file_of_a_torchvision_dataset_is_named_or_skipped(tmp_path, content):
    write_folder(tmp_path)
    (tmp_path / "a/2.png").write_bytes(content)
    source = open_source(partial(torchvision.datasets.ImageFolder, root=str(tmp_path)))
    with pytest.raises(CorruptImageError, match=r"all/1|a/2\.png"):
        load(source, 4, Storage(2**20, 0, tmp_path), skip_corrupt=False)
    images = load(source, 4, Storage(2**20, 0, tmp_path), skip_corrupt=True)
    assert list(images.corrupt) == [1]
    assert images.pool.usable.tolist() == [True, False, True]


def test_postscript_in_a_torchvision_dataset_starts_no_program(tmp_path, monkeypatch):
    write_folder(tmp_path)
    (tmp_path / "a/2.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for start in ("subprocess.check_call", "subprocess.Popen"):
        monkeypatch.setattr(start, lambda *_, **__: pytest.fail("a program was started"))
    source = open_source(partial(torchvision.datasets.ImageFolder, root=str(tmp_path)))
    with pytest.raises(CorruptImageError, match="all/1"):
        source.read(1)


def test_large_images_of_a_torchvision_dataset_have_the_limit_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit
    write_folder(tmp_path)
    source = open_source(partial(torchvision.datasets.ImageFolder, root=str(tmp_path)))
    assert source.read(0).pixels.shape == (4, 4, 3)
    source.reading = Reading(max_megapixels=1e-5)
    with pytest.raises(CorruptImageError, match=r"all/0.*dataset\.max_megapixels"):
        source.read(0)


def write_emnist(root: Path) -> None:
    raw = root / "EMNIST/raw"
    raw.mkdir(parents=True)
    for part, source in (("train", "train"), ("test", "t10k")):
        (raw / f"emnist-digits-{part}-images-idx3-ubyte").write_bytes(idx(GREY[source]))
        labels = np.array(GREY_LABELS[source], dtype=np.uint8)
        (raw / f"emnist-digits-{part}-labels-idx1-ubyte").write_bytes(idx(labels))


def test_emnist_has_both_parts_though_its_split_is_something_else(tmp_path):
    write_emnist(tmp_path)
    source = source_of(torchvision.datasets.EMNIST, tmp_path, split="digits")
    assert source.labels.tolist() == GREY_LABELS["train"] + GREY_LABELS["t10k"]
    assert source.in_test_part.tolist() == [False] * 6 + [True] * 4


def test_qmnist_labels_are_the_classes_in_its_table(tmp_path):
    raw = tmp_path / "QMNIST/raw"
    raw.mkdir(parents=True)
    for part, source in (("train", "train"), ("test", "t10k")):
        table = np.zeros((len(GREY_LABELS[source]), 8), dtype=np.int32)
        table[:, 0] = GREY_LABELS[source]
        table[:, 1] = 77
        (raw / f"qmnist-{part}-images-idx3-ubyte").write_bytes(idx(GREY[source]))
        (raw / f"qmnist-{part}-labels-idx2-int").write_bytes(idx(table))
    source = source_of(torchvision.datasets.QMNIST, tmp_path)
    assert source.labels.tolist() == GREY_LABELS["train"] + GREY_LABELS["t10k"]
    assert np.array_equal(all_pixels(source)[..., 0], np.concatenate([GREY["train"], GREY["t10k"]]))


@pytest.mark.parametrize(
    ("name", "settings", "file"),
    [("QMNIST", {}, "qmnist-train-images-idx3-ubyte.gz"), ("EMNIST", {"split": "digits"}, "gzip.zip")],
)
def test_missing_files_of_mnists_relatives_are_their_own(tmp_path, name, settings, file):
    with pytest.raises(InputError) as caught:
        source_of(getattr(torchvision.datasets, name), tmp_path, **settings)
    assert_says_what_to_place(caught.value, [file], tmp_path / name / "raw")
    assert " train-images" not in str(caught.value)
