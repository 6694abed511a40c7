"""Synthetic defects: a good image with a patch, a scar or a texture where it does not belong.

They stand in for anomalies where there are only good images. What they are worth for that is measured; see
``docs/studies.md``.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image
from scipy import fft

from metrad.errors import InputError

AREA = (0.02, 0.15)  # of a patch, as a share of the image
ASPECT = 3.3  # most of the longer side of a patch by its shorter one
SCAR = ((0.06, 0.3), (0.01, 0.04))  # length and width, as shares of the image's shorter side
OPACITY = (0.2, 0.9)  # of a texture
TRIES = 100

Maker: TypeAlias = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def with_defect(
    image: np.ndarray, kind: str, seed: int | Sequence[int], *, other: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of ``image`` with one defect, and the mask of the pixels that changed.

    Args:
        image: uint8 (H, W, 3), at least 8 pixels a side.
        kind: one of ``KINDS``.
        seed: what place, size and look of the defect follow from.
        other: another good image of the same shape, which patches and textures of the blended kinds are cut from; None
            for ``image`` itself.

    Returns:
        The image, uint8 (H, W, 3), and the mask, bool (H, W), which is never empty.

    Raises:
        InputError: the kind is unknown, or the images' shapes or types differ from those above.
    """
    if kind not in _MAKERS:
        raise InputError(f"{kind} is no kind of synthetic defect; allowed: {', '.join(KINDS)}")
    source = image if other is None else other
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 8:
        raise InputError(f"a synthetic defect takes uint8 (H, W, 3) of at least 8 pixels, got {_shape(image)}")
    if source.dtype != np.uint8 or source.shape != image.shape:
        raise InputError(f"other must be uint8 {image.shape} as the image is, got {_shape(source)}")
    rng = np.random.default_rng(seed)
    for _ in range(TRIES):  # a patch may equal what it covers
        changed = _MAKERS[kind](image, source, rng)
        mask = (changed != image).any(axis=2)
        if mask.any():
            return changed, mask
    return with_defect(image, "cutpaste", [*np.atleast_1d(seed), TRIES])  # one colour, and no patch of it can be seen


def _shape(image: np.ndarray) -> str:
    return f"{image.dtype} {image.shape}"


def _cutpaste(image: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with a part of it, in other colours, at another place (Li 2021, arXiv 2104.04015)."""
    height, width = _patch_size(image, rng)
    patch, place = _part(image, height, width, rng), _place(image, height, width, rng)
    changed = image.copy()
    changed[place] = _jittered(patch, rng)
    return changed


def _scar(image: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with a thin part of it, turned and in other colours, at another place (arXiv 2104.04015)."""
    side, angle = min(image.shape[:2]), rng.uniform(0, np.pi)
    length, width = (max(side * rng.uniform(*share), least) for share, least in zip(SCAR, (4, 1), strict=True))
    y, x = (rng.uniform(0, size) for size in image.shape[:2])
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    inside = (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2)
    start = [rng.uniform(0, size) for size in image.shape[:2]]
    at = [
        np.clip(np.rint(first + away[inside]).astype(int), 0, size - 1)
        for first, away, size in zip(start, (across, along), image.shape[:2], strict=True)
    ]
    changed = image.copy()
    changed[inside] = _jittered(image[at[0], at[1]], rng)
    return changed


def _blended_patch(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with a resized part of another one, blended so that no edge is left.

    Natural synthetic anomalies (Schlüter 2021, arXiv 2109.15222), with Poisson blending (Pérez 2003, SIGGRAPH): the
    patch keeps its gradients, and a harmonic function takes it to the image's values at its outline.
    """
    height, width = _patch_size(image, rng)
    zoom = rng.uniform(0.7, 1.3)
    cut = [min(max(4, round(size / zoom)), whole) for size, whole in zip((height, width), image.shape, strict=False)]
    resized = Image.fromarray(_part(other, cut[0], cut[1], rng)).resize((width, height), Image.Resampling.BILINEAR)
    patch, place = np.asarray(resized, dtype=np.float64), _place(image, height, width, rng)
    changed = image.copy()
    changed[place] = np.clip(np.rint(patch + _harmonic(image[place] - patch)), 0, 255).astype(np.uint8)
    return changed


def _harmonic(values: np.ndarray) -> np.ndarray:
    """Return the discrete harmonic function (H, W, C) that has the outermost pixels of ``values``."""
    found = values.astype(np.float64)
    load = np.zeros_like(found[1:-1, 1:-1])
    load[0] += found[0, 1:-1]
    load[-1] += found[-1, 1:-1]
    load[:, 0] += found[1:-1, 0]
    load[:, -1] += found[1:-1, -1]
    each = [2 * np.cos(np.pi * np.arange(1, size + 1) / (size + 1)) - 2 for size in load.shape[:2]]
    spectrum = fft.dstn(-load, type=1, axes=(0, 1)) / (each[0][:, None] + each[1])[..., None]
    found[1:-1, 1:-1] = fft.idstn(spectrum, type=1, axes=(0, 1))
    return found


def _blended_texture(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with a texture over an uneven area (Zavrtanik 2021, arXiv 2108.07610).

    There is no dataset of textures: the texture is another good image, mirrored, moved and in other colours. The area
    is where smooth noise is high.
    """
    texture = np.roll(other[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])], rng.integers(other.shape[:2]), axis=(0, 1))
    texture = _jittered(texture[..., rng.permutation(3)], rng).astype(np.float64)
    if rng.random() < 0.5:
        texture = 255 - texture
    noise = _smooth_noise(image.shape[:2], int(rng.integers(2, 9)), rng)
    inside = noise > np.quantile(noise, 1 - rng.uniform(*AREA))
    opacity = rng.uniform(*OPACITY)
    changed = image.copy()
    changed[inside] = np.rint((1 - opacity) * image[inside] + opacity * texture[inside]).astype(np.uint8)
    return changed


def _smooth_noise(shape: Sequence[int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise (H, W), float32, that is smooth between ``cells`` times ``cells`` random values."""
    coarse = Image.fromarray(rng.standard_normal((cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def _patch_size(image: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Return the height and width of a patch."""
    area = image.shape[0] * image.shape[1] * rng.uniform(*AREA)
    aspect = ASPECT ** rng.uniform(-1, 1)
    height, width = np.sqrt(area * aspect), np.sqrt(area / aspect)
    return (
        int(np.clip(round(height), 3, image.shape[0])),
        int(np.clip(round(width), 3, image.shape[1])),
    )


def _place(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    top, left = (
        int(rng.integers(0, whole - size + 1)) for whole, size in zip(image.shape, (height, width), strict=False)
    )
    return slice(top, top + height), slice(left, left + width)


def _part(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    part: np.ndarray = image[_place(image, height, width, rng)]
    return part


def _jittered(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``pixels`` (..., 3) with another contrast, and each channel lighter or darker by up to 25 levels."""
    gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-25, 25) + rng.uniform(-8, 8, 3)
    mean = pixels.reshape(-1, 3).mean(axis=0) if pixels.size else 0.0
    return np.clip(np.rint(gain * (pixels - mean) + mean + offset), 0, 255).astype(np.uint8)


_MAKERS: dict[str, Maker] = {
    "cutpaste": _cutpaste,
    "scar": _scar,
    "blended_patch": _blended_patch,
    "blended_texture": _blended_texture,
}
KINDS = tuple(_MAKERS)
