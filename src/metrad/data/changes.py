"""Small changes of a photograph, such as more light or a small turn, made on its pixels at their own size."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

Make = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_WHITE = 255


@dataclass(frozen=True)
class Change:
    """A kind of change with steps of rising strength.

    Attributes:
        name: name of the kind.
        unit: what a strength counts, with its sign or its direction.
        strengths: the steps, from the weakest change to the strongest.
        make: returns the changed pixels (height, width, channels) uint8 of pixels of this type, a strength and a
            generator of random numbers.
    """

    name: str
    unit: str
    strengths: Sequence[float]
    make: Make


def changed(pixels: np.ndarray, change: Change, strength: float, seed: Sequence[int]) -> np.ndarray:
    """Return the pixels (height, width, channels) uint8 of an image after ``change`` of the given strength.

    The image keeps its size, and a grey image stays grey. The same arguments give the same pixels.

    Args:
        pixels: (height, width, channels) uint8 with 1 or 3 channels.
        change: the kind of change.
        strength: how strong it is, in the change's unit.
        seed: non-negative integers that noise and directions are drawn by. Two strengths with one seed have the same
            noise, but for its strength, and the same direction.
    """
    grey = bool((pixels == pixels[..., :1]).all())
    made = change.make(pixels[..., :1] if grey else pixels, strength, np.random.default_rng(list(seed)))
    return np.ascontiguousarray(np.broadcast_to(made, pixels.shape))


def exposed(pixels: np.ndarray, steps: float, generator: np.random.Generator) -> np.ndarray:
    """Return an image with 2^``steps`` times the light.

    The values of the pixels are taken to be those of sRGB, so the light is their value after its curve is undone. Light
    above white is cut off, as a camera does.

    Source:
        IEC 61966-2-1 (sRGB).
    """
    found: np.ndarray = _table(steps)[pixels]
    return found


@lru_cache(maxsize=64)
def _table(steps: float) -> np.ndarray:
    """Return the value of each of the 256 values with 2^``steps`` times the light, (256,) uint8."""
    value = np.arange(_WHITE + 1) / _WHITE
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.minimum(light * 2.0**steps, 1.0)
    return _rounded(_WHITE * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def blurred(pixels: np.ndarray, width: float, generator: np.random.Generator) -> np.ndarray:
    """Return an image blurred by a Gaussian with the standard deviation ``width`` in pixels."""
    found = ndimage.gaussian_filter(pixels.astype(np.float32), width, mode="nearest", axes=(0, 1))
    return _rounded(found)


def noisy(pixels: np.ndarray, deviation: float, generator: np.random.Generator) -> np.ndarray:
    """Return an image with normal noise of the standard deviation ``deviation``, in values of 0 to 255."""
    return _rounded(pixels + deviation * generator.standard_normal(pixels.shape, np.float32))


def shifted(pixels: np.ndarray, distance: float, generator: np.random.Generator) -> np.ndarray:
    """Return an image moved by ``distance`` whole pixels to a random one of four sides; its edge fills the gap."""
    way = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])[generator.integers(4)] * int(distance)
    height, width = pixels.shape[:2]
    rows = np.clip(np.arange(height) - way[0], 0, height - 1)
    columns = np.clip(np.arange(width) - way[1], 0, width - 1)
    moved: np.ndarray = pixels[rows][:, columns]
    return moved


def turned(pixels: np.ndarray, degrees: float, generator: np.random.Generator) -> np.ndarray:
    """Return an image turned by ``degrees`` to a random one of two sides; its edge fills the corners."""
    angle = degrees * (1 if generator.integers(2) else -1)
    return _rounded(ndimage.rotate(pixels.astype(np.float32), angle, reshape=False, order=1, mode="nearest"))


def compressed(pixels: np.ndarray, quality: float, generator: np.random.Generator) -> np.ndarray:
    """Return an image as it comes back from a JPEG file of the given quality, as Pillow counts it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=int(quality))
    with Image.open(buffer, formats=["JPEG"]) as image:
        return np.asarray(image).reshape(pixels.shape)


def _darkened(pixels: np.ndarray, steps: float, generator: np.random.Generator) -> np.ndarray:
    return exposed(pixels, -steps, generator)


def _rounded(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.clip(np.rint(values), 0, _WHITE).astype(np.uint8)
    return found


_THIRDS = (1 / 3, 2 / 3, 1.0)
CHANGES = (
    Change("brighter", "EV", _THIRDS, exposed),
    Change("darker", "EV", _THIRDS, _darkened),
    Change("blur", "pixels", (0.5, 1.0, 2.0, 4.0), blurred),
    Change("noise", "grey values", (2.0, 4.0, 8.0, 16.0), noisy),
    Change("shift", "pixels", (1.0, 2.0, 4.0, 8.0), shifted),
    Change("turn", "degrees", (0.5, 1.0, 2.0, 4.0), turned),
    Change("JPEG quality", "of 100", (90.0, 75.0, 50.0, 25.0), compressed),
)


def versions(pixels: np.ndarray, seed: Sequence[int], changes: Sequence[Change]) -> list[np.ndarray]:
    """Return the pixels of an image after each step of each of ``changes``, in their order; see ``changed``."""
    return [
        changed(pixels, change, strength, [number, *seed])
        for number, change in enumerate(changes)
        for strength in change.strengths
    ]
