"""Sources of images: the contract, image folders, and scikit-learn's digits."""

import fnmatch
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from metrad.data.arrays import Joined
from metrad.data.decoding import Decoded, Reading, decode_file, size_in_header
from metrad.data.duplicates import digest
from metrad.errors import InputError

IMAGE_ENDINGS = (
    *("png", "jpg", "jpeg", "jfif", "jpe", "bmp", "dib", "tif", "tiff", "webp", "gif"),
    *("ppm", "pgm", "pbm", "pnm"),
)
# Below this mean file size in bytes, decoding spends most of its time in Python, and threads slow it down:
# 60,000 JPEGs of 2 KB took 6 s in one thread and 12 s in two.
_WORTH_A_THREAD = 20_000


class Source:
    """Labelled images, decoded one at a time.

    Attributes:
        classes: class names; a label is a position in this list.
        labels: (N,) integers.
        names: path or number of each image, for messages and reports.
        in_test_part: (N,) booleans, True for images of the source's own test part; None if it has none.
        pixels: all images, (N, height, width, channels) uint8, if the source holds them in memory, else None.
        size: height and width in pixels that images are kept at; None for the input size of the model.
        identity: hashable value that changes when the content changes; None if changes cannot be detected.
        threads: whether decoding in several threads is faster.
        reading: how image files are read; set by ``PreparedData``.
        left_out: number of files that are not read, by their ending, such as ``.txt``.
        columns: further texts of each image by the name of the column, such as the part that it shows.
        named: whether ``names`` are names that somebody gave to files, and not just positions.
    """

    classes: list[str]
    labels: np.ndarray
    names: list[str]
    in_test_part: np.ndarray | None = None
    pixels: np.ndarray | Joined | None = None
    size: int | None = None
    identity: Hashable | None = None
    threads: bool = False
    reading: Reading = Reading()
    left_out: Mapping[str, int] = MappingProxyType({})
    columns: Mapping[str, Sequence[str]] = MappingProxyType({})
    named: bool = False

    @property
    def trainable_classes(self) -> frozenset[int]:
        """Numbers of the classes that have images outside the test part."""
        labels = self.labels if self.in_test_part is None else self.labels[~self.in_test_part]
        return frozenset(np.unique(labels).tolist())

    def read(self, position: int) -> Decoded:
        """Return the image at ``position``, with 8 bits, or with up to 16 if its file has more than 8."""
        assert self.pixels is not None
        pixels = self.pixels[position]
        return Decoded(pixels, digest(pixels.tobytes()))

    def size_of(self, position: int) -> tuple[int, int]:
        """Return the width and height of the image at ``position`` in pixels."""
        height, width = self.read(position).pixels.shape[:2]
        return width, height


class ImageFolder(Source):
    """A folder with one subfolder of images per class, named by the class; images may lie deeper.

    If the root has both a ``train`` and a ``test`` folder, these are the training and the test part.

    Args:
        root: path of the folder.
        pattern: one or several shell patterns for image files, such as ``*.jpg``; null for the usual image endings.
            Case is ignored, and hidden files never match.
        size: height and width in pixels that images are kept at; null for the input size of the model. For small
            images of one size, set it to that size.

    Raises:
        InputError: the folder does not exist, holds no matching images, or a folder in it cannot be read.
    """

    named = True

    def __init__(
        self, root: str | Path, *, pattern: str | Sequence[str] | None = None, size: int | None = None
    ) -> None:
        self.root = Path(root)
        self.size = size
        if size is not None and size < 1:
            raise InputError(f"dataset.source.size must be at least 1, or null, got {size}")
        if not self.root.is_dir():
            raise InputError(
                f"dataset.source.root: no folder {self.root.absolute()}; put one folder of images per class there, or "
                "set paths.data (or METRAD_DATA) to the folder of your data"
            )
        patterns = (
            [pattern] if isinstance(pattern, str) else list(pattern or (f"*.{ending}" for ending in IMAGE_ENDINGS))
        )
        has_parts = all((self.root / part).is_dir() for part in ("train", "test"))
        parts = [self.root / "train", self.root / "test"] if has_parts else [self.root]
        walk = _Walk(patterns)
        # sorted folder by folder, as Path objects sort, but kept as strings, which take a fifth of the memory
        found = sorted(
            (image for part in parts for image in walk.images(part, in_test=part.name == "test")),
            key=lambda image: (*image[:2], image[2].replace(os.sep, "\0")),
        )
        self.left_out = dict(sorted(walk.left_out.items()))
        filled = {in_test for in_test, *_ in found}
        others = f"; there are {listed(self.left_out)}" if self.left_out else ""
        if has_parts and len(filled) < 2:
            part = "train" if True in filled or not filled else "test"
            raise InputError(
                f"dataset.source.root: train and test of {self.root} are the two parts of the data, each with one "
                f"folder of images a class, and the class folders of {part} have no images that match "
                f"{', '.join(patterns)}{others}; if train and test are classes, rename them"
            )
        if not found:
            raise InputError(
                f"dataset.source: no images that match {', '.join(patterns)} in the class folders of {self.root}"
                f"{others}"
            )
        in_test, names, self.paths, signature = zip(*found, strict=True)
        self.classes = sorted(set(names))
        self.labels = np.searchsorted(self.classes, names)
        self.names = [_readable(Path(path).relative_to(self.root).as_posix()) for path in self.paths]
        self.in_test_part = np.array(in_test) if has_parts else None
        self.identity = digest(repr((self.paths, signature)).encode("utf-8", "surrogateescape"))
        self.threads = sum(size for size, *_ in signature) / len(found) > _WORTH_A_THREAD

    def read(self, position: int) -> Decoded:
        """Return the image at ``position`` as RGB, with up to 16 bits if its file has more than 8."""
        return decode_file(Path(self.paths[position]), self.reading)

    def size_of(self, position: int) -> tuple[int, int]:
        """Return the width and height of the image at ``position`` by its file's header; 0 if it has none."""
        return size_in_header(Path(self.paths[position]), self.reading)


Found = tuple[bool, str, str, tuple[int, ...]]


class _Walk:
    """Finds the images in class folders that match one of ``patterns``, and counts the other files by ending."""

    def __init__(self, patterns: list[str]) -> None:
        self.patterns = [pattern.lower() for pattern in patterns]
        self.left_out: Counter[str] = Counter()

    def images(self, part: Path, *, in_test: bool) -> Iterator[Found]:
        """Yield the images in the class folders of ``part``."""
        for class_folder in _class_folders(part):
            class_name = _readable(class_folder.name)
            seen = set()
            for folder, folders, files in os.walk(class_folder, followlinks=True, onerror=_refuse):
                real = os.path.realpath(folder)
                if real in seen:  # a link back to a folder above
                    folders.clear()
                    continue
                seen.add(real)
                folders[:] = [name for name in folders if name[0] != "."]
                for name in files:
                    if self._matches(name):
                        path = Path(folder, name)
                        yield in_test, class_name, str(path), _signature(path)

    def _matches(self, name: str) -> bool:
        if name[0] == ".":
            return False
        if any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in self.patterns):
            return True
        self.left_out[_readable(Path(name).suffix.lower()) or "no ending"] += 1
        return False


def listed(left_out: Mapping[str, int]) -> str:
    """Return counts of files by ending in words, the most frequent first: '12 .heic, 3 .txt'."""
    return ", ".join(f"{count:,} {ending}" for ending, count in sorted(left_out.items(), key=lambda item: -item[1]))


def _class_folders(part: Path) -> list[Path]:
    try:
        entries = sorted(entry for entry in part.iterdir() if entry.name[0] != ".")
    except OSError as error:
        _refuse(error)
    for entry in entries:
        if entry.is_symlink() and not entry.exists():
            raise InputError(f"dataset.source.root: {entry} is a link that leads nowhere; restore or remove it")
    return [entry for entry in entries if entry.is_dir()]


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"dataset.source.root: the folder {error.filename} cannot be read ({error.strerror}), so its images would be "
        "missing; make it readable or move it elsewhere"
    ) from error


def _signature(path: Path) -> tuple[int, ...]:
    """Return the size and times of a file, or (0,) for a broken link, which decoding will report."""
    try:
        stat = path.stat()
    except OSError:
        return (0,)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _readable(name: str) -> str:
    """Return a file name as printable text, even if its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Digits(Source):
    """scikit-learn's bundled handwritten digits: 1,797 grey images of 8 by 8 pixels."""

    def __init__(self) -> None:
        bunch = _bundled_digits()
        self.pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        self.labels = np.asarray(bunch.target, dtype=np.int64)
        self.classes = [str(name) for name in bunch.target_names]
        self.names = [str(i) for i in range(len(self.labels))]


@cache
def _bundled_digits() -> Any:
    """Return scikit-learn's digits, cached because their text file takes a third of a second to read."""
    from sklearn.datasets import load_digits

    return load_digits()
