"""Made-up photographs of parts: each part has a random texture, and its photographs differ by noise and light."""

import numpy as np


def textures(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    """Return ``count`` smooth random textures, (count, side, side, 1) uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(size=(count, 8, 8))
    return _as_pixels(np.kron(coarse, np.ones((1, side // 8, side // 8))) * 40 + 128)


def photographs(parts: int, views: int, *, noise: float = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return photographs (parts * views, 32, 32, 1) uint8, those of a part one after another, and their parts."""
    generator = np.random.default_rng([seed, 1])
    shown = np.repeat(np.arange(parts), views)
    light = generator.uniform(0.8, 1.2, (len(shown), 1, 1))
    taken = textures(parts, seed)[shown][..., 0] * light
    return _as_pixels(taken + generator.normal(size=taken.shape) * noise), shown


def _as_pixels(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).round().astype(np.uint8)[..., None]
