"""Where images come from: image folders, torchvision's datasets, scikit-learn's digits."""

import contextlib
import fnmatch
import inspect
import os
from collections.abc import Hashable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image
from torchvision.datasets import VisionDataset

from metrad.data.decoding import Decoded, Joined, corrupt_image, decode_file, digest, to_rgb
from metrad.errors import InputError

IMAGE_ENDINGS = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "ppm", "pgm", "pbm")
# Below this mean size, in bytes, most of the decoding is Python's, and threads only get into each other's way:
# 60,000 JPEGs of 2 KB took 6 s one after another and 12 s in two threads.
_WORTH_A_THREAD = 20_000


class Source:
    """Labelled images, decoded one at a time.

    Attributes:
        classes: class names; a label is a position in this list.
        labels: (N,) integers.
        names: path or number of each image, for people.
        in_test_part: (N,) booleans, True for images of the source's own test part; None if it has none.
        pixels: the images, (N, height, width, channels) uint8, if the source has them all at hand, else None.
        size: height and width that images are kept at; None for the input size of the model.
        identity: hashable value that changes when the content does; None where that cannot be told.
        threads: whether decoding several images at a time is faster.
    """

    classes: list[str]
    labels: np.ndarray
    names: list[str]
    in_test_part: np.ndarray | None = None
    pixels: np.ndarray | Joined | None = None
    size: int | None = None
    identity: Hashable | None = None
    threads: bool = False

    @property
    def trainable_classes(self) -> frozenset[int]:
        """The classes that have images outside the test part."""
        labels = self.labels if self.in_test_part is None else self.labels[~self.in_test_part]
        return frozenset(np.unique(labels).tolist())

    def read(self, position: int) -> Decoded:
        """Return the image at ``position``."""
        assert self.pixels is not None
        pixels = self.pixels[position]
        return Decoded(pixels, digest(pixels.tobytes()))


class ImageFolder(Source):
    """A folder of folders of images: the first folder's name is the class, images may lie deeper.

    ``train`` and ``test`` folders below the root, where both exist, are the training and the test part.

    Args:
        root: the folder.
        pattern: which files are images, as one or several shell patterns such as ``*.jpg``; null for the usual
            image endings. Upper and lower case are alike; hidden files never match.
        size: height and width that images are kept at; null for the input size of the model. Small images of one
            size are best kept at it.

    Raises:
        InputError: the folder is not there, or holds no images that match.
    """

    def __init__(
        self, root: str | Path, *, pattern: str | Sequence[str] | None = None, size: int | None = None
    ) -> None:
        self.root = Path(root)
        self.size = size
        if size is not None and size < 1:
            raise InputError(f"dataset.source.size must be at least 1, or null, got {size}")
        if not self.root.is_dir():
            raise InputError(
                f"dataset.source.root: no folder {self.root.absolute()}; put one folder of images a class there, or "
                "set paths.data (or METRAD_DATA) to the folder that your data lies in"
            )
        patterns = (
            [pattern] if isinstance(pattern, str) else list(pattern or (f"*.{ending}" for ending in IMAGE_ENDINGS))
        )
        has_parts = all((self.root / part).is_dir() for part in ("train", "test"))
        parts = [self.root / "train", self.root / "test"] if has_parts else [self.root]
        # sorted folder by folder as Paths are, and kept as strings, which take a fifth of their memory
        found = sorted(
            (image for part in parts for image in _walk(part, patterns, in_test=part.name == "test")),
            key=lambda image: (*image[:2], image[2].replace(os.sep, "\0")),
        )
        if not found:
            raise InputError(
                f"dataset.source: no images that match {', '.join(patterns)} in the class folders of {self.root}"
            )
        in_test, names, self.paths, signature = zip(*found, strict=True)
        self.classes = sorted(set(names))
        self.labels = np.searchsorted(self.classes, names)
        self.names = [_readable(Path(path).relative_to(self.root).as_posix()) for path in self.paths]
        self.in_test_part = np.array(in_test) if has_parts else None
        self.identity = digest(repr((self.paths, signature)).encode("utf-8", "surrogateescape"))
        self.threads = sum(size for size, *_ in signature) / len(found) > _WORTH_A_THREAD

    def read(self, position: int) -> Decoded:
        """Return the image at ``position`` as RGB."""
        return decode_file(Path(self.paths[position]))


Found = tuple[bool, str, str, tuple[int, ...]]


def _walk(part: Path, patterns: list[str], *, in_test: bool) -> list[Found]:
    lowered = [pattern.lower() for pattern in patterns]
    found: list[Found] = []
    for class_folder in sorted(entry for entry in part.iterdir() if entry.is_dir() and entry.name[0] != "."):
        class_name = _readable(class_folder.name)
        seen = set()
        for folder, folders, files in os.walk(class_folder, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link back to a folder above
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if name[0] != "."]
            for name in files:
                if name[0] != "." and any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in lowered):
                    path = Path(folder, name)
                    found.append((in_test, class_name, str(path), _signature(path)))
    return found


def _signature(path: Path) -> tuple[int, ...]:
    """Return size and times of a file; zeros for a link that leads nowhere, which decoding will report."""
    try:
        stat = path.stat()
    except OSError:
        return (0,)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _readable(name: str) -> str:
    """Return a file name that can be written anywhere, even if its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Digits(Source):
    """scikit-learn's bundled handwritten digits: 1,797 grey images of 8 by 8 pixels, no download."""

    def __init__(self) -> None:
        bunch = _bundled_digits()
        self.pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        self.labels = np.asarray(bunch.target, dtype=np.int64)
        self.classes = [str(name) for name in bunch.target_names]
        self.names = [str(i) for i in range(len(self.labels))]


@cache
def _bundled_digits() -> Any:
    """Return scikit-learn's digits, whose text file takes a third of a second to read, once for all runs of a sweep."""
    from sklearn.datasets import load_digits

    return load_digits()


class TorchvisionDataset(Source):
    """Any classification dataset of torchvision, its training and test part together.

    Args:
        factory: the dataset's class with its settings bound. Where it has a setting ``train`` or ``split`` that is
            not bound, both parts are read (``split``: train and test; a list of two names chooses others).

    Raises:
        InputError: the files are neither there nor can be downloaded, or the dataset has no class labels.
    """

    def __init__(self, factory: partial[VisionDataset]) -> None:
        self.parts = [_open_torchvision(part) for part in _torchvision_parts(factory)]
        lengths = [len(part) for part in self.parts]
        self.starts = np.cumsum([0, *lengths])
        if len(self.parts) == 2:
            self.in_test_part = np.arange(self.starts[-1]) >= lengths[0]
        self.labels = np.concatenate([_torchvision_labels(part) for part in self.parts])
        first = self.parts[0]
        classes = getattr(first, "classes", None) or range(int(self.labels.max()) + 1)
        self.classes = [name if isinstance(name, str) else str(name) for name in classes]
        arrays = [array for part in self.parts if (array := _uint8_array(part)) is not None]
        if len(arrays) == len(self.parts):
            self.pixels = Joined(arrays)
        titles = ("train", "test") if len(self.parts) == 2 else ("all",)
        self.names = [f"{title}/{i}" for title, length in zip(titles, lengths, strict=True) for i in range(length)]

    def read(self, position: int) -> Decoded:
        """Return the image at ``position``; grey arrays stay one channel, all else becomes RGB."""
        if self.pixels is not None:
            return super().read(position)
        part = int(np.searchsorted(self.starts, position, side="right")) - 1
        try:
            image = self.parts[part][position - int(self.starts[part])][0]
            if not isinstance(image, Image.Image):
                raise InputError(f"dataset.source: {type(self.parts[part]).__name__} gives {type(image)}, no PIL image")
            pixels = np.asarray(to_rgb(image))
        except InputError:
            raise
        except Exception as error:  # the decoders' errors share no base
            raise corrupt_image(f"{type(self.parts[part]).__name__} {self.names[position]}", error) from error
        return Decoded(pixels, digest(pixels.tobytes() + repr(pixels.shape).encode()))


def open_source(factory: partial[Any]) -> Source:
    """Return the source that ``factory`` makes, with torchvision's datasets wrapped.

    Raises:
        InputError: it makes neither a ``Source`` nor a torchvision dataset.
    """
    if inspect.isclass(factory.func) and issubclass(factory.func, VisionDataset):
        return TorchvisionDataset(factory)
    source = factory()
    if not isinstance(source, Source):
        raise InputError(
            f"dataset.source._target_ must make a torchvision dataset or a metrad.data.sources.Source, got {type(source)}"
        )
    return source


def _torchvision_parts(factory: partial[VisionDataset]) -> list[partial[VisionDataset]]:
    factory = partial(factory.func, *factory.args, **factory.keywords)  # a subclass of partial would be nested below
    accepted = _settings(factory.func)
    split = factory.keywords.get("split")
    if isinstance(split, Sequence) and not isinstance(split, str):
        if len(split) != 2:
            raise InputError(f"dataset.source.split must be a name or two names (training, test), got {list(split)}")
        return [partial(factory, split=name) for name in split]
    if "train" in accepted and "train" not in factory.keywords:
        return [partial(factory, train=True), partial(factory, train=False)]
    if "split" in accepted and "train" not in accepted and split is None:
        return [partial(factory, split="train"), partial(factory, split="test")]
    return [factory]


def _settings(dataset: Any) -> set[str]:
    """Return the names of a dataset's settings, those that its constructor passes on to a parent included."""
    return {name for kind in dataset.__mro__ for name in inspect.signature(kind.__init__).parameters}


def _open_torchvision(factory: partial[VisionDataset]) -> VisionDataset:
    try:
        with _alone(factory):
            return factory()
    except Exception as error:  # torchvision's readers raise whatever their formats' readers do
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = ""
        if "split" in factory.keywords:
            hint = f", or name the parts it has with dataset.source.split=[TRAIN,TEST], now {factory.keywords['split']}"
        raise InputError(
            f"dataset.source cannot be read or downloaded ({reason}); place {_files_to_place(factory)}{hint}"
        ) from error


@contextlib.contextmanager
def _alone(factory: partial[VisionDataset]) -> Iterator[None]:
    """Let one process at a time download and unpack a dataset; the others would read files that are half written."""
    settings: dict[str, Any] = factory.keywords
    with contextlib.ExitStack() as held:
        if settings.get("download") and "root" in settings:
            lock = Path(settings["root"], f".{factory.func.__name__}.lock")
            with contextlib.suppress(OSError):  # where nothing can be written nothing is going to be
                lock.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(lock))
        yield


def _files_to_place(factory: partial[VisionDataset]) -> str:
    dataset: Any = factory.func
    root = Path(factory.keywords.get("root", ".")).absolute()
    if hasattr(dataset, "resources"):
        if "url" in vars(dataset):  # EMNIST: one archive for all of its parts
            files = [dataset.url]
        elif isinstance(dataset.resources, dict):  # QMNIST: by part, with full addresses
            files = [name for part in dataset.resources.values() for name, _ in part]
        else:
            files = [name for name, _ in dataset.resources]
        names = dict.fromkeys(file.rpartition("/")[2] for file in files)
        return f"{', '.join(names)} in {root / dataset.__name__ / 'raw'}"
    if hasattr(dataset, "filename"):
        return f"{dataset.filename} in {root}"
    return f"its files below {root} as torchvision's documentation of {dataset.__name__} says"


def _torchvision_labels(dataset: VisionDataset) -> np.ndarray:
    for name in ("targets", "labels", "_labels"):
        known = getattr(dataset, name, None)
        if known is not None and len(known) == len(dataset) and _is_labels(np.asarray(known)):
            return np.asarray(known, dtype=np.int64)
    try:
        labels = np.asarray([dataset[i][1] for i in range(len(dataset))])
    except Exception as error:  # as in _open_torchvision
        raise InputError(f"dataset.source: the labels of {type(dataset).__name__} cannot be read ({error})") from error
    if not _is_labels(labels):
        raise InputError(f"dataset.source: {type(dataset).__name__} has no class labels, one integer an image")
    return labels.astype(np.int64)


def _is_labels(values: np.ndarray) -> bool:
    return values.ndim == 1 and np.issubdtype(values.dtype, np.integer)


def _uint8_array(dataset: VisionDataset) -> np.ndarray | None:
    """Return the images as (N, height, width, channels) if the dataset keeps them in one array."""
    data = getattr(dataset, "data", None)
    if data is None or isinstance(data, list):
        return None
    array = np.asarray(data)
    if array.dtype != np.uint8 or len(array) != len(dataset):
        return None
    if array.ndim == 3:
        return array[..., None]
    return array if array.ndim == 4 and array.shape[-1] == 3 else None
