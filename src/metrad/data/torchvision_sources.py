"""torchvision's datasets as sources: both parts together, their labels, and errors that name the missing files."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import EpsImagePlugin, Image
from torchvision.datasets import VisionDataset

from metrad.data.broken_images import corrupt_image
from metrad.data.decoding import Decoded, decode_image, own_limit
from metrad.data.joined_arrays import Joined
from metrad.data.sources import Source
from metrad.errors import InputError, first_line


class TorchvisionDataset(Source):
    """A classification dataset of torchvision, its training and test part together.

    Args:
        factory: the dataset's class with bound settings. If its setting ``train`` or ``split`` is not bound, both parts
            are read. For ``split`` these are train and test, or the two names in a list.

    Raises:
        InputError: the files are missing and cannot be downloaded, or the dataset has no class labels.
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
        """Return the image at ``position``. Grey arrays keep their one channel; all other images become RGB."""
        if self.pixels is not None:
            return super().read(position)
        part = int(np.searchsorted(self.starts, position, side="right")) - 1
        EpsImagePlugin.gs_binary = False  # torchvision opens files of any format; Pillow must not start Ghostscript
        try:
            with own_limit():
                image = self.parts[part][position - int(self.starts[part])][0]
            if not isinstance(image, Image.Image):
                raise InputError(f"dataset.source: {type(self.parts[part]).__name__} gives {type(image)}, no PIL image")
            return decode_image(image, self.reading)
        except InputError:
            raise
        except Exception as error:  # decoders raise unrelated types
            raise corrupt_image(f"{type(self.parts[part]).__name__} {self.names[position]}", error) from error


def open_source(factory: partial[Any]) -> Source:
    """Return the source that ``factory`` makes; torchvision's datasets are wrapped.

    Raises:
        InputError: ``factory`` makes neither a ``Source`` nor a torchvision dataset.
    """
    if inspect.isclass(factory.func) and issubclass(factory.func, VisionDataset):
        return TorchvisionDataset(factory)
    source = factory()
    if not isinstance(source, Source):
        raise InputError(
            "dataset.source._target_ must make a torchvision dataset or a metrad.data.sources.Source, "
            f"got {type(source)}"
        )
    return source


def _torchvision_parts(factory: partial[VisionDataset]) -> list[partial[VisionDataset]]:
    factory = partial(factory.func, *factory.args, **factory.keywords)  # a subclass would be nested below
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
    """Return the names of a dataset's settings, including those its constructor passes to a parent class."""
    return {name for kind in dataset.__mro__ for name in inspect.signature(kind.__init__).parameters}


def _open_torchvision(factory: partial[VisionDataset]) -> VisionDataset:
    try:
        with _alone(factory):
            return factory()
    except Exception as error:  # the readers of the formats raise unrelated types
        reason = first_line(error)
        hint = ""
        if "split" in factory.keywords:
            hint = f", or name its parts with dataset.source.split=[TRAIN,TEST], now {factory.keywords['split']}"
        raise InputError(
            f"dataset.source cannot be read or downloaded ({reason}); place {_files_to_place(factory)}{hint}"
        ) from error


@contextlib.contextmanager
def _alone(factory: partial[VisionDataset]) -> Iterator[None]:
    """Let one process at a time download and unpack a dataset, so that no other reads half-written files."""
    settings: dict[str, Any] = factory.keywords
    with contextlib.ExitStack() as held:
        if settings.get("download") and "root" in settings:
            lock = Path(settings["root"], f".{factory.func.__name__}.lock")
            with contextlib.suppress(OSError):  # a folder that cannot be written needs no lock
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
    return f"its files below {root}, as in torchvision's documentation of {dataset.__name__}"


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
    """Return the images as (N, height, width, channels) if the dataset keeps them in one uint8 array, else None."""
    data = getattr(dataset, "data", None)
    if data is None or isinstance(data, list):
        return None
    array = np.asarray(data)
    if array.dtype != np.uint8 or len(array) != len(dataset):
        return None
    if array.ndim == 3:
        return array[..., None]
    return array if array.ndim == 4 and array.shape[-1] == 3 else None
