"""Sources of images: the contract, image files, image folders, and scikit-learn's digits."""

import logging
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from metrad.data.decoding import Decoded, Reading, decode_file, size_in_header
from metrad.data.duplicates import digest
from metrad.data.joined_arrays import Joined
from metrad.data.walking import ImageNames, folders_below, readable
from metrad.errors import InputError
from metrad.quoting import argument, setting

log = logging.getLogger(__name__)

IMAGE_ENDINGS = (
    *("png", "jpg", "jpeg", "jfif", "jpe", "bmp", "dib", "tif", "tiff", "webp", "gif"),
    *("ppm", "pgm", "pbm", "pnm"),
)
# Folders whose images count to the training part, since no test image may feed a choice.
VALIDATION_PARTS = ("val", "valid", "validation", "dev")
_MASK = re.compile(r"[_-](mask|gt|ground_?truth)$", re.IGNORECASE)
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
        root: folder that ``names`` are relative to; None if the images are no files.
        patterns: shell patterns that image files had to match; None for the usual image endings.
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
    root: Path | None = None
    patterns: tuple[str, ...] | None = None
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


class Found(NamedTuple):
    """One image file.

    Attributes:
        in_test: whether it is of the test part.
        class_name: name of its class.
        path: its path.
        signature: its size and times, as by ``signature``.
    """

    in_test: bool
    class_name: str
    path: str
    signature: tuple[int, ...]


class FileSource(Source):
    """Images in files, which a subclass finds.

    Attributes:
        paths: path of each image.
    """

    paths: Sequence[str]
    named = True

    def fill(self, found: Sequence[Found], names: Iterable[str], *, has_parts: bool) -> None:
        """Set classes, labels, names, parts and identity from the files ``found``, at least one, in this order.

        Args:
            found: the files.
            names: name of each, for messages and reports.
            has_parts: whether the source has a test part of its own.
        """
        in_test, classes, self.paths, signatures = zip(*found, strict=True)
        self.classes = sorted(set(classes))
        self.labels = np.searchsorted(self.classes, classes)
        self.names = list(names)
        self.in_test_part = np.array(in_test) if has_parts else None
        self.identity = digest(repr((self.paths, signatures)).encode("utf-8", "surrogateescape"))
        self.threads = sum(size for size, *_ in signatures) / len(found) > _WORTH_A_THREAD

    def read(self, position: int) -> Decoded:
        """Return the image at ``position`` as RGB, with up to 16 bits if its file has more than 8."""
        return decode_file(Path(self.paths[position]), self.reading)

    def size_of(self, position: int) -> tuple[int, int]:
        """Return the width and height of the image at ``position`` by its file's header; 0 if it has none."""
        return size_in_header(Path(self.paths[position]), self.reading)


class ImageFolder(FileSource):
    """A folder with one subfolder of images per class, named by the class; images may lie deeper.

    If the root has both a ``train`` and a ``test`` folder, these are the training and the test part. Images of a
    ``val`` folder beside ``train`` (or ``valid``, ``validation``, ``dev``) count to the training part. If no subfolder
    has images, the images in the root itself are one class, which has the name of the root.

    Args:
        root: path of the folder.
        pattern: one or several shell patterns for image files, such as ``*.jpg``; null for the usual image endings.
            Case is ignored, and hidden files never match.
        size: height and width in pixels that images are kept at; null for the input size of the model. For small
            images of one size, set it to that size.
        folders: paths below the root, such as ``train/good``; each is a class of this name, and no other folder is
            read. Null for every subfolder.
        test: name of the folder of the test part, such as ``val`` where there is no ``test``.

    Raises:
        InputError: a folder does not exist, the root holds no matching images, or a folder in it cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        pattern: str | Sequence[str] | None = None,
        size: int | None = None,
        folders: Sequence[str] | None = None,
        test: str = "test",
    ) -> None:
        self.root = Path(root)
        self.size = kept_size(size)
        if not self.root.is_dir():
            raise InputError(
                f"dataset.source.root: no folder {self.root.absolute()}; put one folder of images per class there, or "
                "set paths.data (or METRAD_DATA) to the folder of your data"
            )
        patterns = [pattern] if isinstance(pattern, str) else list(pattern or usual_patterns())
        self.patterns = None if pattern is None else tuple(patterns)
        parts = [(self.root, False)] if folders is not None else _parts(self.root, test)
        has_parts = any(in_test for _, in_test in parts)
        walk = Walk(patterns)
        found = _found(walk, self.root, folders, parts)
        self.left_out = walk.left_out_by_ending
        if found and folders is None and not has_parts:
            _require_no_other_layout(self.root, {image.class_name for image in found})
        self._require_images({image.in_test for image in found}, patterns, folders, test if has_parts else None)
        if pattern is None:
            self._warn_of_masks(masks_among(image.path for image in found))
        if has_parts and (self.root / "ground_truth").is_dir():
            root = setting("dataset.source.root", str(self.root))
            log_once(logging.INFO, f"the folder ground_truth is of MVTec AD, which dataset=mvtec {root} reads as well")
        self.fill(found, names_below(self.root, found), has_parts=has_parts)

    def _require_images(
        self, filled: set[bool], patterns: Sequence[str], folders: Sequence[str] | None, test: str | None
    ) -> None:
        """Raise ``InputError`` unless there are images.

        Args:
            filled: whether the test part has images, and whether others are there.
            patterns: shell patterns of the images.
            folders: folders that were chosen; None for all.
            test: name of the folder of the test part; None without parts.
        """
        others = f"; there are {listed(self.left_out)}" if self.left_out else ""
        if test is not None and len(filled) < 2:
            part = "train" if True in filled or not filled else test
            raise InputError(
                f"dataset.source.root: train and {test} of {self.root} are the two parts of the data, each with one "
                f"folder of images a class, and the class folders of {part} have no images that match "
                f"{', '.join(patterns)}{others}; if train and {test} are classes, rename them"
            )
        if not filled:
            places = "the class folders" if folders is None else ", ".join(map(str, folders))
            raise InputError(
                f"dataset.source: no images that match {', '.join(patterns)} in {places} of {self.root}{others}"
            )

    def _warn_of_masks(self, masks: Sequence[str]) -> None:
        if masks:
            log_once(
                logging.WARNING,
                f"{len(masks):,} files are called as masks of images beside them, such as {masks[0]}, and are read as "
                f"images: move them out of {argument(self.root)}, or set dataset.source.pattern to the images' names",
            )


def _found(walk: "Walk", root: Path, folders: Sequence[str] | None, parts: Sequence[tuple[Path, bool]]) -> list[Found]:
    """Return the images of an ``ImageFolder``, sorted."""
    if folders is not None:
        return in_order(image for name in _chosen(root, folders) for image in walk.images(name, root / name))
    found = in_order(image for part, in_test in parts for image in walk.classes(part, in_test=in_test))
    if found or parts[0][0] != root:
        return found
    return in_order(walk.loose(readable(os.path.normpath(root.absolute()).rpartition(os.sep)[2]), root))


def in_order(found: Iterable[Found]) -> list[Found]:
    """Return images by part and class, then folder by folder, as Path objects sort."""
    # paths are kept as strings, which take a fifth of the memory
    return sorted(found, key=lambda image: (*image[:2], image.path.replace(os.sep, "\0")))


def names_below(root: Path, found: Iterable[Found]) -> list[str]:
    """Return the path of each image relative to ``root``."""
    return [readable(Path(image.path).relative_to(root).as_posix()) for image in found]


def kept_size(size: int | None) -> int | None:
    """Return the setting ``dataset.source.size`` after a check.

    Raises:
        InputError: it is below 1.
    """
    if size is not None and size < 1:
        raise InputError(f"dataset.source.size must be at least 1, or null, got {size}")
    return size


def usual_patterns() -> list[str]:
    """Return shell patterns for the usual endings of images."""
    return [f"*.{ending}" for ending in IMAGE_ENDINGS]


def _parts(root: Path, test: str) -> list[tuple[Path, bool]]:
    """Return the folder of each part, and whether it is of the test part; ``root`` alone if it has no parts."""
    if test != "test" and (test == "train" or not (root / test).is_dir() or (root / "test").is_dir()):
        raise InputError(
            f"dataset.source.test={test} must name the folder of the test part in {root}, where no folder test is; "
            "rename the folders, or leave dataset.source.test out"
        )
    validation = [root / name for name in VALIDATION_PARTS if name != test and (root / name).is_dir()]
    training = [root / "train", *validation]
    testing = [root / test] if (root / test).is_dir() else []
    if not training[0].is_dir() or not (testing or validation):
        return [(root, False)]
    if not testing and not all(class_folders(part) for part in training):
        return [(root, False)]  # images lie in them, so they are classes
    return [*((part, False) for part in training), *((part, True) for part in testing)]


def _require_no_other_layout(root: Path, classes: Iterable[str]) -> None:
    """Refuse a folder that is the root of MVTec AD or VisA, whose folders are no classes."""
    folders = [root / name for name in sorted(classes)]
    if all((folder / part).is_dir() for folder in folders for part in ("train", "test")):
        raise InputError(
            f"dataset.source.root: the folders of {root}, such as {folders[0].name}, have a train and a test folder "
            f"each, so they are categories as in MVTec AD, and not classes: {_instead('mvtec', root, folders[0].name)}"
        )
    if (root / "split_csv").is_dir():
        raise InputError(
            f"dataset.source.root: {root} has a folder split_csv, as VisA, whose other folders are categories and not "
            f"classes: {_instead('visa', root, folders[0].name)}"
        )


def _instead(dataset: str, root: Path, category: str) -> str:
    return f"dataset={dataset} {setting('dataset.source.root', str(root))} {setting('dataset.category', category)}"


def masks_among(paths: Iterable[str]) -> list[str]:
    """Return those of ``paths`` that are called as the mask of an image beside them, such as 000_mask.png."""
    stems = {os.path.splitext(path)[0]: path for path in paths}  # noqa: PTH122 - a Path each takes ten times as long
    return [path for stem, path in stems.items() if _MASK.search(stem) and _MASK.sub("", stem) in stems]


@cache
def log_once(level: int, line: str) -> None:
    """Log ``line`` once a process: the folds of a selection and the runs of a sweep read the same folder."""
    log.log(level, "%s", line)


def _chosen(root: Path, folders: Sequence[str]) -> list[str]:
    """Return ``folders`` as plain paths below ``root``.

    Raises:
        InputError: one does not exist or leads out of ``root``, or one is listed twice or lies in another.
    """
    chosen: list[PurePosixPath] = []
    for name in map(PurePosixPath, folders):
        where = f"dataset.source.folders: {name}"
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise InputError(f"{where} must be a path below dataset.source.root={root}")
        if not (root / name).is_dir():
            raise InputError(f"{where} is no folder below {root.absolute()}")
        shared = [other for other in chosen if name.is_relative_to(other) or other.is_relative_to(name)]
        if shared:
            raise InputError(f"{where} and {shared[0]} hold the same images; list each folder once")
        chosen.append(name)
    if not chosen:
        raise InputError("dataset.source.folders lists no folder; null reads every folder below dataset.source.root")
    return [name.as_posix() for name in chosen]


class Walk:
    """Finds the images in folders that match one of ``patterns``, and counts the other files by ending."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.names = ImageNames(patterns)

    @property
    def left_out_by_ending(self) -> dict[str, int]:
        """Number of files that do not match, by their ending."""
        return dict(sorted(self.names.left_out.items()))

    def classes(self, part: Path, *, in_test: bool) -> Iterator[Found]:
        """Yield the images in the class folders of ``part``."""
        for folder in class_folders(part):
            yield from self.images(readable(folder.name), folder, in_test=in_test)

    def images(self, class_name: str, class_folder: Path, *, in_test: bool = False) -> Iterator[Found]:
        """Yield the images of a class: those in its folder, and deeper."""
        for folder, files in folders_below(class_folder, _refuse):
            yield from self._among(files, class_name, Path(folder), in_test=in_test)

    def loose(self, class_name: str, folder: Path) -> Iterator[Found]:
        """Yield the images in ``folder`` itself."""
        files = [entry.name for entry in folder.iterdir() if entry.name[0] != "." and not entry.is_dir()]
        yield from self._among(files, class_name, folder, in_test=False)

    def _among(self, files: Sequence[str], class_name: str, folder: Path, *, in_test: bool) -> Iterator[Found]:
        for name in files:
            if self.names.include(name):
                path = folder / name
                yield Found(in_test, class_name, str(path), signature(path))


def listed(left_out: Mapping[str, int]) -> str:
    """Return counts of files by ending in words, the most frequent first: '12 .heic, 3 .txt'."""
    return ", ".join(f"{count:,} {ending}" for ending, count in sorted(left_out.items(), key=lambda item: -item[1]))


def class_folders(part: Path) -> list[Path]:
    """Return the folders in ``part``, sorted; hidden ones are left out.

    Raises:
        InputError: ``part`` cannot be read, or a link in it leads nowhere.
    """
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


def signature(path: Path) -> tuple[int, ...]:
    """Return the size and times of a file, or (0,) for a broken link, which decoding will report."""
    try:
        stat = path.stat()
    except OSError:
        return (0,)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


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
