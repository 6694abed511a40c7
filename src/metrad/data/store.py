"""Storage of decoded images: in memory, memory-mapped on disk, or decoded on demand, whichever fits."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from metrad.data.arrays import Indexable, OnDemand, resize
from metrad.data.decoding import CorruptImageError, Decoded
from metrad.data.sources import ImageFolder, Source
from metrad.data.splits import Pool
from metrad.data.torchvision_sources import TorchvisionDataset
from metrad.errors import InputError, first_line
from metrad.files import follow_umask, read_json, require_file

GIB = 2**30
DECODER_VERSION = 1  # increase it when the same file decodes to other pixels, so that old caches are not used
_LOOKAHEAD = 64  # images decoded ahead of the one being stored; bounds memory
Keep = Callable[[int, np.ndarray], None]
# Names of these classes in the cache keys of earlier versions. Other names would orphan those caches.
_KINDS = {ImageFolder: "metrad.datasets.ImageFolder", TorchvisionDataset: "metrad.datasets.TorchvisionDataset"}


@dataclass(frozen=True)
class Storage:
    """Where decoded images are kept.

    Attributes:
        memory_limit: largest size in bytes that is kept in memory.
        disk_limit: largest size in bytes that is kept in a memory-mapped file; larger sources are decoded on demand.
        cache: folder of the memory-mapped files.
        workers: number of processes that decode images on demand.
        shared: whether several processes need the images at once. They share a file, so a file is preferred to memory.
    """

    memory_limit: int
    disk_limit: int
    cache: Path
    workers: int = 2
    shared: bool = False


@dataclass(frozen=True)
class ImageSet:
    """All images of a source, with their classes, names and hashes.

    Attributes:
        images: positions to (n, height, width, channels) uint8.
        pool: labels and content, for splitting.
        classes: class names by label.
        names: path or number of each image.
        digests: hash of each image's content, (N, 16) uint8.
        corrupt: error message of each image that could not be decoded, by position.
        on_demand: whether ``images`` decodes at each access, so that workers help.
    """

    images: Indexable
    pool: Pool
    classes: list[str]
    names: list[str]
    digests: np.ndarray
    corrupt: dict[int, str]
    on_demand: bool


@dataclass(frozen=True)
class Scan:
    """Result of one pass over all images.

    Attributes:
        digests: hash of each image's content, (N, 16) uint8.
        corrupt: error message of each image that could not be decoded, by position.
    """

    digests: np.ndarray
    corrupt: dict[int, str]


def load(source: Source, image_size: int, storage: Storage, *, skip_corrupt: bool) -> ImageSet:
    """Decode ``source`` and keep its images where ``storage`` says; the pixels are the same in every place.

    Args:
        source: the images.
        image_size: input size of the model in pixels; images are kept at it if the source has no size of its own.
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
    """A source as a cache key, equal to another if their contents are equal."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.identity: Any = (type(source), source.identity) if source.identity is not None else id(source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Work) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


# The runs of one sweep read the same source one after another, so the last source is kept.
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
    kind = _KINDS.get(type(source), f"{type(source).__module__}.{type(source).__qualname__}")
    identity = repr((DECODER_VERSION, kind, source.identity, size, skip_corrupt))
    folder = cache / hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _fill(folder, lambda partial: _write_cache(source, size, skip_corrupt, partial))
    try:
        corrupt = {int(i): str(why) for i, why in read_json(folder / "corrupt.json").items()}
        for name in ("images.npy", "digests.npy"):
            require_file(folder / name)
        images, digests = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "digests.npy")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder} cannot be read ({first_line(error)}); remove it to decode again") from error
    if len(images) != len(source.labels) or digests.shape != (len(images), 16):
        raise InputError(f"{folder} holds other images than {len(source.labels)}; remove it to decode again")
    return images, Scan(digests, corrupt)


def _fill(folder: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a new folder and rename it to ``folder``; one process writes, the others wait."""
    with FileLock(folder.with_suffix(".lock")):  # its file stays: without it, a process could make a second lock
        if folder.exists():
            return
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            write(partial)
            follow_umask(partial)
            with contextlib.suppress(OSError):  # another process may have renamed the same content first
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
    """Drop the pixels; only the digest is needed."""


def scan(
    read: Callable[[int], Decoded],
    count: int,
    keep: Callable[[int, np.ndarray], None],
    *,
    threads: bool,
    skip_corrupt: bool,
) -> Scan:
    """Decode every image once, with a progress bar.

    Args:
        read: function from a position to the decoded image.
        count: number of images.
        keep: function called with the position and pixels of each image, in order.
        threads: decode several images at a time.
        skip_corrupt: record the error of an image that cannot be decoded instead of raising it.

    Raises:
        CorruptImageError: an image cannot be decoded and ``skip_corrupt`` is False.
    """
    digests = np.zeros((count, 16), dtype=np.uint8)
    corrupt: dict[int, str] = {}

    def attempt(position: int) -> Decoded | CorruptImageError:
        try:
            return read(position)
        except CorruptImageError as error:
            return error

    results = _in_threads(attempt, range(count)) if threads else map(attempt, range(count))
    bar = tqdm(results, "decoding images", count, leave=False, delay=1, disable=None)
    for position, result in enumerate(bar):
        if isinstance(result, Decoded):
            digests[position] = np.frombuffer(result.digest, np.uint8)
            keep(position, result.pixels)
        elif skip_corrupt:
            corrupt[position] = str(result)
        else:
            raise result
    return Scan(digests, corrupt)


def _in_threads(
    work: Callable[[int], Decoded | CorruptImageError], positions: Sequence[int]
) -> Iterator[Decoded | CorruptImageError]:
    """Map ``work`` over ``positions`` in order, at most ``_LOOKAHEAD`` images ahead of the one last yielded."""
    upcoming = iter(positions)
    with ThreadPoolExecutor() as pool:
        pending = deque(pool.submit(work, i) for i in islice(upcoming, _LOOKAHEAD))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, i) for i in islice(upcoming, 1))
            yield result


def content_numbers(digests: np.ndarray) -> np.ndarray:
    """Return a number for each row of ``digests`` (N, 16), equal exactly for equal rows, as (N,)."""
    rows = np.ascontiguousarray(digests).view(np.dtype((np.void, digests.shape[1]))).ravel()
    return np.unique(rows, return_inverse=True)[1]
