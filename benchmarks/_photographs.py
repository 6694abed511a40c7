"""Made-up photographs: JPEGs with the content of photographs as far as the time to decode them depends on it.

Their power falls with the spatial frequency, as that of natural images does (Field 1987, J. Opt. Soc. Am. A 4), colours
vary less and more slowly than brightness, and some objects have edges. At 1024x768 and quality 90 a file has 128 to
207 kB.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

QUALITY = 90
GREY, CONTRAST, TINT = 128, 32, 10  # mean of all channels, and standard deviations of brightness and colour
STEEPNESS = (1.25, 1.35, 1.45)  # of the amplitudes of brightness by frequency, each for a third of the images
OBJECTS = 4


def write(folder: Path, count: int, size: tuple[int, int], seed: int) -> list[Path]:
    """Write ``count`` JPEGs of the (width, height) ``size`` into ``folder``, and return their paths in order.

    Files that are there already are taken as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:06d}.jpg" for i in range(count)]
    textures = _Textures(size)
    for i, path in enumerate(paths):
        if not path.exists():
            _photograph(textures, np.random.default_rng([seed, i])).save(path, quality=QUALITY)
    return paths


class _Textures:
    """Random textures that images are cut from; to make one for each image would take seconds."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        side = 1 << (2 * max(size) - 1).bit_length()
        generator = np.random.default_rng(0)
        self.brightness = [_texture(generator, side, steepness) for steepness in STEEPNESS]
        self.colour = _texture(generator, side, 1.6)

    def cut(self, texture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return a random part of ``texture``, mirrored or not, as (height, width)."""
        width, height = self.size
        top, left = generator.integers(len(texture) - height), generator.integers(len(texture) - width)
        return texture[top : top + height, left : left + width][:, :: generator.choice([-1, 1])]


def _texture(generator: np.random.Generator, side: int, steepness: float) -> np.ndarray:
    """Return Gaussian noise (side, side) of variance 1 whose amplitudes fall with the frequency, float32."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((side, side))) / frequency**steepness
    noise = np.fft.irfft2(spectrum, s=(side, side))
    found: np.ndarray = (noise / noise.std()).astype(np.float32)
    return found


def _photograph(textures: _Textures, generator: np.random.Generator) -> Image.Image:
    width, height = textures.size
    scene = Image.new("L", textures.size, GREY)
    draw = ImageDraw.Draw(scene)
    for _ in range(OBJECTS):
        x, y = generator.integers(width), generator.integers(height)
        w, h = generator.integers(1, max(2, width // 3)), generator.integers(1, max(2, height // 3))
        draw.ellipse([x, y, x + w, y + h], fill=int(generator.integers(60, 200)))
    texture = textures.brightness[generator.integers(len(STEEPNESS))]
    planes = [np.asarray(scene) + CONTRAST * textures.cut(texture, generator)]
    planes += [GREY + TINT * textures.cut(textures.colour, generator) for _ in range(2)]
    pixels = np.stack([plane.clip(0, 255).astype(np.uint8) for plane in planes], axis=-1)
    return Image.fromarray(pixels, "YCbCr")
