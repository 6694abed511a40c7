"""Storage of decoded images: in memory, memory-mapped on disk, or decoded on demand, whichever fits."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from metrad.data.arrays import Indexable, OnDemand, changed_image, kept_pixels
from metrad.data.bit_depth import FULL, peak
from metrad.data.broken_images import BrokenImages, CorruptImageError, load_messages, save_messages
from metrad.data.decoding import Decoded
from metrad.data.duplicates import content_numbers
from metrad.data.properties import Gathered, Measured, of_arrays, of_image
from metrad.data.sources import ImageFolder, Source
from metrad.data.splits import Pool
from metrad.data.torchvision_sources import TorchvisionDataset
from metrad.errors import InputError, first_line
from metrad.files import follow_umask, replacing, require_file, writing
from metrad.progress import bar
from metrad.threads import in_threads

GIB = 2**30
_LOOKAHEAD = 64  # images decoded ahead of the one being stored; bounds memory
Keep = Callable[[int, np.ndarray], None]
Prepare = Callable[[Decoded], np.ndarray]
_PROPERTIES = "properties.npy"
ChooseDepth = Callable[[Pool, np.ndarray], int]
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
        peaks: largest value of each image of more than 8 bits, 0 for the others, (N,) integers.
        depth: bits of the range that images of more than 8 bits are scaled by; None if there are none.
        left_out: number of files that are not read, by their ending.
        properties: trivial properties of the images, by positions.
    """

    images: Indexable
    pool: Pool
    classes: list[str]
    names: list[str]
    digests: np.ndarray
    corrupt: dict[int, str]
    on_demand: bool
    peaks: np.ndarray
    depth: int | None
    left_out: Mapping[str, int]
    properties: Measured


@dataclass(frozen=True)
class Scan:
    """Result of one pass over all images.

    Attributes:
        digests: hash of each image's content, (N, 16) uint8.
        corrupt: error message of each image that could not be decoded, by position.
        peaks: largest value of each image of more than 8 bits, 0 for the others, (N,) integers.
        properties: trivial properties of the images, (N, properties); NaN where they were not measured.
    """

    digests: np.ndarray
    corrupt: dict[int, str]
    peaks: np.ndarray
    properties: np.ndarray


def load(
    source: Source, image_size: int, storage: Storage, *, skip_corrupt: bool, depth: int | ChooseDepth = FULL
) -> ImageSet:
    """Decode ``source`` and keep its images where ``storage`` says; the pixels are the same in every place.

    Args:
        source: the images.
        image_size: input size of the model in pixels; images are kept at it if the source has no size of its own.
        storage: limits and cache folder.
        skip_corrupt: leave out files that cannot be decoded instead of raising.
        depth: bits of the range that images of more than 8 bits are scaled by, or a function that chooses it from the
            pool and the ``peaks`` of the images; it is called if there are such images.

    Raises:
        InputError: a file cannot be decoded and ``skip_corrupt`` is False, or a file changes while it is read.
    """
    size = source.size or image_size
    if isinstance(depth, int):
        return _image_set(source, _store(_Work(source, size, skip_corrupt, depth), storage), depth)
    work = _Work(source, size, skip_corrupt, FULL)
    stored = None if work in _deep_scans else _store(work, storage)
    found = stored.scan if stored else _deep_scans[work]
    chosen = depth(_pool(source, found), found.peaks) if found.peaks.any() else FULL
    if stored and chosen != FULL:
        _deep_scans.clear()
        _deep_scans[work] = found
        stored = None  # its memory is needed for the images over the chosen range
        _in_memory.cache_clear()
    if stored is None:
        stored = _store(_Work(source, size, skip_corrupt, chosen), storage)
        require_same(source.names, found, stored.scan)
    return _image_set(source, stored, chosen)


def require_same(names: Sequence[str], one: Scan, other: Scan) -> None:
    """Check that two passes over the images of these names found the same contents.

    Raises:
        InputError: an image has changed; the message names the first one.
    """
    changed = np.flatnonzero((one.digests != other.digests).any(axis=1))
    if len(changed):
        raise changed_image(names[changed[0]])


@dataclass(frozen=True)
class _Stored:
    images: Indexable
    scan: Scan
    on_demand: bool


class _Work:
    """The decoding of a source as a cache key, equal to another if the results are equal.

    Attributes:
        source: the images.
        size: height and width in pixels that images are kept at.
        skip_corrupt: leave out images that cannot be decoded.
        depth: bits of the range that images of more than 8 bits are scaled by.
    """

    def __init__(self, source: Source, size: int, skip_corrupt: bool, depth: int) -> None:
        self.source = source
        self.size = size
        self.skip_corrupt = skip_corrupt
        self.depth = depth
        content: Any = (type(source), source.identity) if source.identity is not None else id(source)
        self.identity = (content, source.reading, size, skip_corrupt, depth)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Work) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    @property
    def folder(self) -> str:
        """Name of the folder in the cache."""
        source, reading = self.source, self.source.reading
        kind = _KINDS.get(type(source), f"{type(source).__module__}.{type(source).__qualname__}")
        key: tuple[Any, ...] = (reading.version, kind, source.identity, self.size, self.skip_corrupt)
        if reading.version > 1:
            key += (self.depth, reading.max_megapixels)
        return hashlib.blake2b(repr(key).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


# The last source with images of more than 8 bits. The runs of a sweep choose their range from it without another pass.
_deep_scans: dict[_Work, Scan] = {}


def _image_set(source: Source, stored: _Stored, depth: int) -> ImageSet:
    scan = stored.scan
    return ImageSet(
        images=stored.images,
        pool=_pool(source, scan),
        classes=source.classes,
        names=source.names,
        digests=scan.digests,
        corrupt=scan.corrupt,
        on_demand=stored.on_demand,
        peaks=scan.peaks,
        depth=depth if scan.peaks.any() else None,
        left_out=source.left_out,
        properties=scan.properties if source.pixels is None else of_arrays(source.pixels.__getitem__),
    )


def _pool(source: Source, found: Scan) -> Pool:
    usable = np.ones(len(source.labels), dtype=bool)
    usable[list(found.corrupt)] = False
    return Pool(source.labels, content_numbers(found.digests), usable, source.in_test_part)


def _store(work: _Work, storage: Storage) -> _Stored:
    source, size = work.source, work.size
    if source.pixels is not None:
        return _Stored(source.pixels, _scan(work, _keep_nothing, _nothing), on_demand=False)
    needed = len(source.labels) * size * size * 3
    can_share = source.identity is not None and needed <= storage.disk_limit
    if needed <= storage.memory_limit and not (storage.shared and can_share):
        return _Stored(*_in_memory(work), on_demand=False)
    if can_share:
        return _Stored(*_on_disk(work, storage.cache), on_demand=False)
    found = _scan_only(_Work(source, 0, work.skip_corrupt, FULL))
    return _Stored(OnDemand(source.read, size, work.depth, found.digests, source.names), found, on_demand=True)


# The runs of one sweep read the same source one after another, so the last source is kept.
@lru_cache(maxsize=1)
def _in_memory(work: _Work) -> tuple[np.ndarray, Scan]:
    array = np.zeros((len(work.source.labels), work.size, work.size, 3), dtype=np.uint8)
    found = _scan(work, _keep_in(array), _as_kept(work))
    array.flags.writeable = False
    return array, found


@lru_cache(maxsize=1)
def _scan_only(work: _Work) -> Scan:
    return _scan(work, _keep_nothing, _nothing)


def _on_disk(work: _Work, cache: Path) -> tuple[np.ndarray, Scan]:
    folder = cache / work.folder
    if not folder.exists():
        with writing(cache):
            cache.mkdir(parents=True, exist_ok=True)
            _fill(folder, lambda partial: _write_cache(work, partial))
    if not (folder / _PROPERTIES).exists():  # an earlier version made it
        with writing(cache):
            _add_properties(work, folder)
    try:
        for name in ("images.npy", "digests.npy"):
            require_file(folder / name)
        digests, peaks = np.load(folder / "digests.npy"), folder / "peaks.npy"
        properties = np.load(folder / _PROPERTIES)
        found = np.load(peaks) if peaks.is_file() else np.zeros(len(digests), dtype=np.int32)  # version 0.1 had none
        images, messages = np.load(folder / "images.npy", mmap_mode="r"), load_messages(folder)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder} cannot be read ({first_line(error)}); remove it to decode again") from error
    if {len(each) for each in (images, digests, found, properties)} != {len(work.source.labels)}:
        raise InputError(f"{folder} holds other images than {len(work.source.labels)}; remove it to decode again")
    return images, Scan(digests, messages, found, properties)


def _add_properties(work: _Work, folder: Path) -> None:
    """Measure the images once more for the ``folder`` of an earlier version, which lacks their properties."""
    found = _scan(work, _keep_nothing, _nothing)
    with FileLock(folder.with_suffix(".lock")), replacing(folder / _PROPERTIES) as partial, partial.open("wb") as file:
        np.save(file, found.properties)


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


def _write_cache(work: _Work, folder: Path) -> None:
    shape = (len(work.source.labels), work.size, work.size, 3)
    array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # the system kills a process that fills a mapped file beyond the disk's room
        with (folder / "images.npy").open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    found = _scan(work, _keep_in(array), _as_kept(work))
    array.flush()
    np.save(folder / "digests.npy", found.digests)
    np.save(folder / "peaks.npy", found.peaks)
    np.save(folder / _PROPERTIES, found.properties)
    save_messages(found.corrupt, folder)


def _scan(work: _Work, keep: Keep, prepare: Prepare) -> Scan:
    source = work.source
    return scan(
        source.read,
        len(source.labels),
        keep,
        prepare=prepare,
        threads=source.threads,
        skip_corrupt=work.skip_corrupt,
        measured=source.pixels is None,  # those of arrays are measured when needed
    )


def _as_kept(work: _Work) -> Prepare:
    return lambda image: kept_pixels(image, (work.size, work.size), work.depth)


def _keep_in(array: np.ndarray) -> Keep:
    return array.__setitem__


def _nothing(image: Decoded) -> np.ndarray:
    """Drop the pixels; only the digest is needed."""
    return np.empty(0, dtype=np.uint8)


def _keep_nothing(position: int, pixels: np.ndarray) -> None:
    """Keep no pixels."""


class _Result(NamedTuple):
    digest: bytes
    peak: int
    pixels: np.ndarray
    measured: np.ndarray | Decoded | None


def scan(
    read: Callable[[int], Decoded],
    count: int,
    keep: Keep,
    *,
    threads: bool,
    skip_corrupt: bool,
    prepare: Prepare = lambda image: image.pixels,
    measured: bool = True,
) -> Scan:
    """Decode every image once, with a progress bar.

    Args:
        read: function from a position to the decoded image.
        count: number of images.
        keep: function called with the position and the prepared pixels of each image, in order.
        threads: decode several images at a time.
        skip_corrupt: record the error of an image that cannot be decoded instead of raising it.
        prepare: function from a decoded image to the pixels to keep.
        measured: measure the trivial properties of the images.

    Raises:
        CorruptImageError: an image cannot be decoded and ``skip_corrupt`` is False.
    """
    digests, peaks = np.zeros((count, 16), dtype=np.uint8), np.zeros(count, dtype=np.int32)
    broken, gathered = BrokenImages(skip=skip_corrupt), Gathered(count)

    def attempt(position: int) -> _Result | CorruptImageError:
        try:
            image = read(position)
        except CorruptImageError as error:
            return error
        found = None if not measured else of_image(image) if threads else image
        return _Result(image.digest, peak(image.pixels), prepare(image), found)

    results = in_threads(attempt, range(count), _LOOKAHEAD) if threads else map(attempt, range(count))
    for position, result in enumerate(bar(results, "decoding images", count)):
        if isinstance(result, CorruptImageError):
            broken.note(position, result)
        else:
            digests[position] = np.frombuffer(result.digest, np.uint8)
            peaks[position] = result.peak
            if isinstance(result.measured, Decoded):
                gathered.add(position, result.measured)
            elif result.measured is not None:
                gathered.values[position] = result.measured
            keep(position, result.pixels)
    gathered.flush()
    return Scan(digests, broken.messages, peaks, gathered.values)
