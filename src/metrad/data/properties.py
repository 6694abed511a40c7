"""Trivial properties of images: one number each, which a detector should beat, and in which good images are alike.

They are taken from the image as it is decoded, before it is made smaller, and from its file. A number that is not known
is NaN, such as the exposure of a file without EXIF. Numpy alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from metrad.data.decoding import Decoded  # which holds FileFacts

MOST_PIXELS = 2**12  # of a larger image, pixels are taken on a grid, about so many
DECIMALS = 9  # that are kept, so that images measured alone or together have the same numbers
ROWS = 32  # of a larger image, the sharpness is that of so many rows
RING_SHARE = 32  # the border that shows the background is a thirty-second of the shorter side wide
EVEN = 3 / 255  # largest standard deviation of the grey of a ring that counts as one colour
STEP, EDGE, MOST = 8 / 255, 3, 0.7  # the edge of a border: a step of grey, within so many rings, of such a share
DEEPEST = 4  # a border of one colour is looked for up to a quarter of the shorter side
SECONDS_A_COPY, SECONDS_OF_PAUSE = 1.0, 300.0  # a copying takes at most so long a file, and so long beside
_LEAST = 2.0**-40  # below any variance and any size, so that its logarithm is finite
_BATCH = 2**19  # values of pixels that are measured at a time


@dataclass(frozen=True)
class Property:
    """One trivial property.

    Attributes:
        name: its name in tables.
        title: what it is, in words.
        advice: what to do if good training and good test images differ in it.
        is_kind: the number stands for a kind, such as a file type, and has no order.
    """

    name: str
    title: str
    advice: str
    is_kind: bool = False


_LIGHT = "photograph all images with one light and exposure, or correct the brightness"
_SIZE = "cut or photograph all images to one size"
_SAVED = "save all images in one format and quality"
_CAMERA = "take all images with one camera and its settings"
# Of properties that separate about equally well, the first is named: the nearest to a cause.
PROPERTIES = (
    Property("border", "width of a border of one colour", "cut the border off all images"),
    Property("width", "width", _SIZE),
    Property("height", "height", _SIZE),
    Property("aspect", "aspect ratio", _SIZE),
    Property("file_type", "file type", _SAVED, is_kind=True),
    Property("camera", "camera in EXIF", _CAMERA, is_kind=True),
    Property("exposure", "exposure time in EXIF", _CAMERA),
    Property("file_time", "time order of the files", "mix good images of each day into training and test"),
    Property("grey_mean", "mean grey", _LIGHT),
    Property("background", "background level (median grey of the border)", _LIGHT),
    Property("bytes_per_pixel", "file size per pixel", _SAVED),
    Property("grey_spread", "spread of grey", _LIGHT),
    Property("saturation", "mean saturation", "set one white balance for all images"),
    Property("red_green", "red minus green", "set one white balance for all images"),
    Property("blue_yellow", "blue minus yellow", "set one white balance for all images"),
    Property("sharpness", "sharpness (variance of a Laplacian)", "keep focus and resolution the same"),
)
BY_NAME = {each.name: each for each in PROPERTIES}
NAMES = tuple(BY_NAME)
PLACES = {name: place for place, name in enumerate(NAMES)}


def title_of(name: str) -> str:
    """Return a property in words; the name itself for one that this version does not know."""
    return BY_NAME[name].title if name in BY_NAME else name


@dataclass(frozen=True)
class FileFacts:
    """What the file of an image says beside its pixels.

    Attributes:
        size: bytes of the file.
        kind: its type, such as JPEG.
        modified: time of its last change, in seconds since 1970.
        camera: maker and model by EXIF; empty if there are none.
        exposure: exposure time by EXIF in seconds; None if there is none.
    """

    size: int
    kind: str
    modified: float
    camera: str = ""
    exposure: float | None = None


class Measured(Protocol):
    """Properties of images by position: an index array gives (len(index), properties) float64."""

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the properties at the positions ``index``."""


@dataclass(frozen=True)
class OfArrays:
    """Properties of images that a source holds as arrays, measured at each access; what a file would say is NaN.

    Attributes:
        images: positions to (n, height, width, channels) uint8.
        batch: number of images to measure at a time.
    """

    images: Callable[[np.ndarray], np.ndarray]
    batch: int

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return the properties of the images at ``index`` as (len(index), properties) float64."""
        starts = range(0, len(index), self.batch)
        return np.concatenate([unknown(0), *(measure(self.images(index[i : i + self.batch])) for i in starts)])


def of_arrays(images: Callable[[np.ndarray], np.ndarray]) -> OfArrays:
    """Return the properties of at least one image of a source that holds arrays; ``images`` is as in ``OfArrays``."""
    return OfArrays(images, max(1, _BATCH // max(1, images(np.arange(1)).size)))


def unknown(count: int) -> np.ndarray:
    """Return the properties of ``count`` images of which nothing is known, (count, properties) NaN."""
    return np.full((count, len(PROPERTIES)), np.nan)


def of_image(image: "Decoded") -> np.ndarray:
    """Return the properties of one decoded image, (properties,) float64."""
    found: np.ndarray = _of_images([image])[0]
    return found


class Gathered:
    """Properties of images that come one after another. Small ones of one size are measured together, as is faster.

    Attributes:
        values: (N, properties) float64; NaN for an image that has not come.
    """

    def __init__(self, count: int) -> None:
        self.values = unknown(count)
        self._waiting: dict[int, Decoded] = {}

    def add(self, position: int, image: "Decoded") -> None:
        """Take the image at ``position``."""
        first = next(iter(self._waiting.values()), image).pixels
        alike = (first.shape, first.dtype) == (image.pixels.shape, image.pixels.dtype)
        if not alike or len(self._waiting) * image.pixels.size > _BATCH:
            self.flush()
        self._waiting[position] = image

    def flush(self) -> None:
        """Measure the images that have come since the last measurement."""
        if self._waiting:
            self.values[list(self._waiting)] = _of_images(list(self._waiting.values()))
            self._waiting.clear()


def _of_images(images: "Sequence[Decoded]") -> np.ndarray:
    """Return the properties of decoded images of one size and type, (n, properties)."""
    found = measure(np.stack([_black_is_zero(image) for image in images]))
    height, width = images[0].pixels.shape[:2]
    for row, facts in zip(found, (image.facts for image in images), strict=True):
        if facts is None:
            continue
        row[PLACES["file_type"]] = number_of(facts.kind)
        row[PLACES["bytes_per_pixel"]] = np.log2(max(facts.size / (height * width), _LEAST))
        row[PLACES["camera"]] = number_of(facts.camera)
        row[PLACES["exposure"]] = np.nan if facts.exposure is None else np.log2(max(facts.exposure, _LEAST))
        row[PLACES["file_time"]] = facts.modified
    return found


def _black_is_zero(image: "Decoded") -> np.ndarray:
    return image.pixels.max() - image.pixels if image.white_is_zero else image.pixels


def number_of(word: str) -> float:
    """Return a number for ``word``, the same in every process; NaN for an empty one."""
    return float(int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())) if word else np.nan


def measure(pixels: np.ndarray) -> np.ndarray:
    """Return the properties of images of one size, (n, properties) float64; those of files are NaN.

    Args:
        pixels: (n, height, width, channels) uint8 or uint16, channels 1 or 3. Values are taken as shares of the type's
            largest value.
    """
    count, height, width = pixels.shape[:3]
    found, largest = unknown(count), np.iinfo(pixels.dtype).max
    few = _on_a_grid(pixels)
    grey = _grey(few) / largest
    ring = max(1, min(height, width) // RING_SHARE)
    columns = {
        "border": _border(pixels, largest),
        "width": width,
        "height": height,
        "aspect": np.log2(width / height),
        "grey_mean": grey.mean(axis=(1, 2), dtype=np.float64),
        "grey_spread": grey.std(axis=(1, 2), dtype=np.float64),
        "background": np.median(_few(_ring(pixels, 0, ring)), axis=1) / largest,
        "sharpness": np.log2(_laplacian(pixels, largest).var(axis=(1, 2), dtype=np.float64) + _LEAST),
        **_colour(few, largest),
    }
    for name, values in columns.items():
        found[:, PLACES[name]] = np.round(values, DECIMALS)
    return found


def _on_a_grid(pixels: np.ndarray) -> np.ndarray:
    step = max(1, round((pixels.shape[1] * pixels.shape[2] / MOST_PIXELS) ** 0.5))
    return np.ascontiguousarray(pixels[:, ::step, ::step])


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis, the channels, as float32; numpy's own mean over three values takes long."""
    channels = pixels.shape[-1]
    total = pixels[..., 0].astype(np.float32)
    for channel in range(1, channels):
        total += pixels[..., channel]
    total /= channels
    return total


def _colour(pixels: np.ndarray, largest: int) -> dict[str, np.ndarray]:
    """Return saturation and colour differences of images (n, height, width, channels); zeros for grey images."""
    if pixels.shape[-1] < 3:
        return dict.fromkeys(("saturation", "red_green", "blue_yellow"), np.zeros(len(pixels)))
    red, green, blue = (pixels[..., channel] for channel in range(3))
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = (highest - lowest) / np.maximum(highest, 1).astype(np.float32)
    means = [channel.mean(axis=(1, 2), dtype=np.float64) / largest for channel in (red, green, blue)]
    return {
        "saturation": saturation.mean(axis=(1, 2), dtype=np.float64),
        "red_green": means[0] - means[1],
        "blue_yellow": means[2] - (means[0] + means[1]) / 2,
    }


def _ring(pixels: np.ndarray, depth: int, width: int) -> np.ndarray:
    """Return the grey of the ring of images (n, height, width, channels) from ``depth`` pixels on, (n, pixels)."""
    inner = pixels[:, depth : pixels.shape[1] - depth, depth : pixels.shape[2] - depth]
    sides = (inner[:, :width], inner[:, -width:], inner[:, width:-width, :width], inner[:, width:-width, -width:])
    return np.concatenate([_grey(side).reshape(len(pixels), -1) for side in sides], axis=1)


def _few(values: np.ndarray) -> np.ndarray:
    """Return about ``MOST_PIXELS`` at most of the ``values`` (n, M) of each image, at equal distances."""
    return values[:, :: max(1, values.shape[1] // MOST_PIXELS)]


def _border(pixels: np.ndarray, largest: int) -> np.ndarray:
    """Return how many rings of each image are a border of one colour, as a share of its shorter side; 0 for no border.

    The rings have one colour from the outermost on, and within ``EDGE`` rings most pixels have another one. An even
    background, which goes on within, is no border.
    """
    shorter, depths = min(pixels.shape[1:3]), np.zeros(len(pixels), dtype=np.int64)
    left, levels = np.arange(len(pixels)), _ring(pixels, 0, 1).mean(axis=1)
    for depth in range(shorter // DEEPEST):
        ring = _ring(pixels[left], depth, 1)
        even = (ring.std(axis=1) <= EVEN * largest) & (np.abs(ring.mean(axis=1) - levels[left]) <= EVEN * largest)
        left = left[even]
        if not len(left):
            break
        depths[left] = depth + 1
    for depth in np.unique(depths[depths > 0]).tolist():
        alike = np.flatnonzero(depths == depth)
        depths[alike[~_has_edge(pixels[alike], depth, levels[alike], STEP * largest)]] = 0
    shares: np.ndarray = depths / shorter
    return shares


def _has_edge(pixels: np.ndarray, depth: int, levels: np.ndarray, step: float) -> np.ndarray:
    """Return whether most pixels of one of the rings from ``depth`` on differ from ``levels`` (n,) by ``step``."""
    found = np.zeros(len(pixels), dtype=bool)
    for further in range(depth, min(depth + EDGE, (min(pixels.shape[1:3]) - 1) // 2)):
        found |= (np.abs(_ring(pixels, further, 1) - levels[:, None]) > step).mean(axis=1) >= MOST
    return found


def _laplacian(pixels: np.ndarray, largest: int) -> np.ndarray:
    """Return the four neighbours less four times each pixel of the grey images, without the edges."""
    height, width = pixels.shape[1:3]
    if height < 3 or width < 3:
        return np.zeros((len(pixels), 1, 1), dtype=np.float32)
    rows = np.arange(1, height - 1)
    if height * width > MOST_PIXELS:
        rows = rows[:: max(1, len(rows) // ROWS)]
    above, here, below = (_grey(pixels[:, rows + shift]) / largest for shift in (-1, 0, 1))
    found: np.ndarray = above[:, :, 1:-1] + below[:, :, 1:-1] + here[:, :, :-2] + here[:, :, 2:] - 4 * here[:, :, 1:-1]
    return found


def _without_copying_order(times: np.ndarray) -> np.ndarray:
    """Return the ``times`` of files in seconds, (N,); NaN if they seem to be those of one copying or unpacking.

    Files that were written at a second each or faster tell the order of the copying and nothing about the images.
    """
    known = times[~np.isnan(times)]
    telling = len(known) and np.ptp(known) > SECONDS_A_COPY * len(known) + SECONDS_OF_PAUSE
    return times if telling else np.full(len(times), np.nan)


@dataclass(frozen=True)
class Table:
    """Properties of a run's images.

    Attributes:
        images: name of each image, (N,).
        roles: its role.
        groups: number of its group; None if each image is a group of its own.
        values: (N, properties) float64, in the order of ``PROPERTIES``; NaN where unknown.
    """

    images: Sequence[str]
    roles: Sequence[str]
    groups: np.ndarray | None
    values: np.ndarray

    def of(self, *roles: str) -> np.ndarray:
        """Return the values of the images of ``roles``, (n, properties), role after role."""
        mine = np.array(self.roles)
        return np.concatenate([self.values[mine == role] for role in roles])


def telling(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the properties in which images differ, (N,) by name, of their ``values`` (N, properties).

    An unknown value counts as lower than all others, since what only some files say tells them apart too.
    """
    found = {}
    for name, place in PLACES.items():
        column = values[:, place]
        column = _without_copying_order(column) if name == "file_time" else column
        known = column[~np.isnan(column)]
        lowest = known.min(initial=0.0) - max(1.0, np.ptp(known) if len(known) else 0.0)
        filled = np.where(np.isnan(column), lowest, column)
        if len(filled) and filled.min() < filled.max():
            found[name] = filled
    return found
