"""A source decoded once: in memory, memory-mapped on disk, or on demand, whichever fits."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from metrad.data.decoding import Indexable, OnDemand, Scan, content_numbers, resize, scan
from metrad.data.sources import Source
from metrad.data.splits import Pool

GIB = 2**30
DECODER_VERSION = 1  # raise it when the same file decodes to other pixels, so that no old cache is used
Keep = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class Storage:
    """Where decoded images are kept.

    Attributes:
        memory_limit: bytes up to which they are kept in memory.
        disk_limit: bytes up to which they are kept in a memory-mapped file; above it they are decoded on demand.
        cache: folder of the memory-mapped files.
        workers: processes that decode where images are decoded on demand.
        shared: several processes need them at once, so a file, which they share, goes before memory.
    """

    memory_limit: int
    disk_limit: int
    cache: Path
    workers: int = 2
    shared: bool = False


@dataclass(frozen=True)
class ImageSet:
    """All images of a source and what is known of them.

    Attributes:
        images: positions to (n, height, width, channels) uint8.
        pool: labels and content, for splitting.
        classes: class names by label.
        names: path or number of each image.
        digests: hash of each image's content, (N, 16) uint8.
        corrupt: what was wrong with each image that could not be decoded, by position.
        on_demand: True if ``images`` decodes anew at each access, so that workers help.
    """

    images: Indexable
    pool: Pool
    classes: list[str]
    names: list[str]
    digests: np.ndarray
    corrupt: dict[int, str]
    on_demand: bool


def load(source: Source, image_size: int, storage: Storage, *, skip_corrupt: bool) -> ImageSet:
    """Decode ``source`` once and keep it where ``storage`` says; the pixels are the same in all three places.

    Args:
        source: the images.
        image_size: input size of the model; images of a source without a size of its own are kept at it.
        storage: limits and cache folder.
        skip_corrupt: leave out files that cannot be decoded instead of raising.

    Raises:
        InputError: a file cannot be decoded and ``skip_corrupt`` is False.
    """
    images, found, on_demand = _store(source, source.size or image_size, storage, skip_corrupt)
    usable = np.ones(len(source.labels), dtype=bool)
    usable[list(found.corrupt)] = False
    pool = Pool(source.labels, content_numbers(found.digests), usable, source.in_test_part)
    return ImageSet(images, pool, source.classes, source.names, found.digests, found.corrupt, on_demand)


def _store(source: Source, size: int, storage: Storage, skip_corrupt: bool) -> tuple[Indexable, Scan, bool]:
    count = len(source.labels)
    if source.pixels is not None:
        return source.pixels, _scan(source, _keep_nothing, skip_corrupt), False
    needed = count * size * size * 3
    can_share = source.identity is not None and needed <= storage.disk_limit
    if needed <= storage.memory_limit and not (storage.shared and can_share):
        array, found = _in_memory(_Work(source), size, skip_corrupt)
        return array, found, False
    if can_share:
        array, found = _on_disk(source, size, skip_corrupt, storage.cache)
        return array, found, False
    return OnDemand(source.read, size), _scan_only(_Work(source), skip_corrupt), True


class _Work:
    """A source to decode, equal to another if their content is."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.identity: Any = (type(source), source.identity) if source.identity is not None else id(source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Work) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


# The runs of one sweep read the same source one after another: the last one read is kept.
@lru_cache(maxsize=1)
def _in_memory(work: _Work, size: int, skip_corrupt: bool) -> tuple[np.ndarray, Scan]:
    array = np.zeros((len(work.source.labels), size, size, 3), dtype=np.uint8)
    found = _scan(work.source, _keep_in(array, size), skip_corrupt)
    array.flags.writeable = False
    return array, found


@lru_cache(maxsize=1)
def _scan_only(work: _Work, skip_corrupt: bool) -> Scan:
    return _scan(work.source, _keep_nothing, skip_corrupt)


def _on_disk(source: Source, size: int, skip_corrupt: bool, cache: Path) -> tuple[np.ndarray, Scan]:
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    identity = repr((DECODER_VERSION, kind, source.identity, size, skip_corrupt))
    folder = cache / hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _fill(folder, lambda partial: _write_cache(source, size, skip_corrupt, partial))
    corrupt = {int(i): why for i, why in json.loads((folder / "corrupt.json").read_text()).items()}
    return np.load(folder / "images.npy", mmap_mode="r"), Scan(np.load(folder / "digests.npy"), corrupt)


def _fill(folder: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a folder that then becomes ``folder``; of several processes one does and the others wait."""
    with FileLock(folder.with_suffix(".lock")):  # it stays: who waits for a lock that is removed may make a second one
        if folder.exists():
            return
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            write(partial)
            with contextlib.suppress(OSError):  # another process may have been faster, with the same content
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_cache(source: Source, size: int, skip_corrupt: bool, folder: Path) -> None:
    shape = (len(source.labels), size, size, 3)
    array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    found = _scan(source, _keep_in(array, size), skip_corrupt)
    array.flush()
    np.save(folder / "digests.npy", found.digests)
    (folder / "corrupt.json").write_text(json.dumps(found.corrupt))


def _scan(source: Source, keep: Keep, skip_corrupt: bool) -> Scan:
    return scan(source.read, len(source.labels), keep, threads=source.threads, skip_corrupt=skip_corrupt)


def _keep_in(array: np.ndarray, size: int) -> Keep:
    def keep(position: int, pixels: np.ndarray) -> None:
        array[position] = resize(pixels, size)

    return keep


def _keep_nothing(position: int, pixels: np.ndarray) -> None:
    """Only the digest of the image is wanted."""
