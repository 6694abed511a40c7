"""Rendered parts: five sets of images that vary as photographs of good parts do, with defects whose masks are exact.

``metal``: a brushed plate with faint hairlines. ``weave``: a cloth. ``label``: a label whose serial number differs from
image to image. ``turned``: a turned part with six holes, at any angle. ``tablets``: nine tablets in a tray. Light,
place, angle, noise and texture differ in every image. A defect is drawn on a finished scene before light, blur and
noise, which are the same with and without it; its mask has the pixels whose grey differs by 2 % of the range or more.

    python benchmarks/_rendered.py FOLDER [--good 200] [--defective 60]     SET/good, SET/KIND and SET/masks, as PNG
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 256  # height and width in pixels
VISIBLE = 0.02  # difference, of the range of grey, from which a pixel belongs to the mask

Scene: TypeAlias = tuple[np.ndarray, dict[str, Any]]  # pixels (SIDE, SIDE, 3) of 0 to 1, and where its parts lie
Draw: TypeAlias = Callable[[np.ndarray, dict[str, Any], np.random.Generator], np.ndarray]

_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float64)


def rendered(name: str, kind: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, uint8 (SIDE, SIDE, 3), and the mask of its defect, bool (SIDE, SIDE).

    Args:
        name: one of ``SETS``.
        kind: one of ``kinds(name)``; None for a good image, whose mask is empty.
        seed: number of the image; with and without a defect, images of one number show one scene.
    """
    make, defects = SETS[name]
    number = list(SETS).index(name)
    scene, places = make(np.random.default_rng([number, seed, 0]))
    with_defect = scene
    if kind is not None:
        with_defect = defects[kind](scene.copy(), places, np.random.default_rng([number, seed, 1]))
    good, bad = (_photographed(each, np.random.default_rng([number, seed, 2])) for each in (scene, with_defect))
    return np.round(255 * bad).astype(np.uint8), np.abs(bad - good).max(axis=2) >= VISIBLE


def kinds(name: str) -> tuple[str, ...]:
    """Return the kinds of defect of a set."""
    return tuple(SETS[name][1])


def _photographed(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a scene under a light from one side, with blur and noise."""
    angle, slope, gain = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.15), rng.uniform(0.88, 1.08)
    light = gain * (1 + slope * (np.cos(angle) * (_X / SIDE - 0.5) + np.sin(angle) * (_Y / SIDE - 0.5)))
    blurred = ndimage.gaussian_filter(scene, (rng.uniform(0.5, 0.9),) * 2 + (0,))
    noise = rng.normal(0, rng.uniform(0.006, 0.014), (SIDE, SIDE, 3))
    found: np.ndarray = np.clip(blurred * light[..., None] + noise, 0, 1)
    return found


def _coloured(grey: np.ndarray, tint: tuple[float, float, float]) -> np.ndarray:
    return np.clip(grey, 0, 1)[..., None] * np.array(tint)


def _smooth(rng: np.random.Generator, scale: float | tuple[float, float]) -> np.ndarray:
    """Return smooth noise (SIDE, SIDE) with mean about 0 and standard deviation 1; ``scale`` in pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), scale, mode="wrap")
    found: np.ndarray = noise / noise.std()
    return found


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _place(rng: np.random.Generator, margin: float = 40) -> tuple[float, float]:
    return float(rng.uniform(margin, SIDE - margin)), float(rng.uniform(margin, SIDE - margin))


def _line(x: float, y: float, angle: float, length: float, width: float, bend: float = 0.0) -> np.ndarray:
    """Return how much of each pixel a line of ``width`` pixels covers, 0 to 1; ``bend`` is the curvature."""
    along, across = _turned(_X - x, _Y - y, angle)
    across = across - bend * along**2
    ends = np.clip((length / 2 - np.abs(along)) / 3 + 0.5, 0, 1)
    found: np.ndarray = ends * np.clip(width / 2 - np.abs(across) + 0.5, 0, 1)
    return found


def _blob(x: float, y: float, radius: float, rng: np.random.Generator, edge: float = 2.0) -> np.ndarray:
    """Return a blob with an uneven outline, 0 to 1; ``edge`` is the width of its outline in pixels."""
    angle, distance = np.arctan2(_Y - y, _X - x), np.hypot(_X - x, _Y - y)
    waves = rng.uniform(-0.15, 0.15, 4)
    phases = rng.uniform(0, 2 * np.pi, 4)
    outline = radius * (1 + sum(waves[i] * np.cos((i + 2) * angle + phases[i]) for i in range(4)))
    found: np.ndarray = np.clip((outline - distance) / edge + 0.5, 0, 1)
    return found


def _over(scene: np.ndarray, cover: np.ndarray, colour: float | np.ndarray) -> np.ndarray:
    """Return ``scene`` with ``colour`` laid over it where ``cover``, 0 to 1, says."""
    return scene + cover[..., None] * (colour - scene)


# a brushed plate


def _metal(rng: np.random.Generator) -> Scene:
    angle = rng.normal(0, 3)
    brushed = ndimage.rotate(_smooth(rng, (0.7, 30)), angle, reshape=False, mode="wrap", order=1)
    grey = 0.55 + 0.05 * brushed + 0.02 * _smooth(rng, 40)
    for _ in range(rng.integers(0, 7)):  # good plates have hairlines along the brushing
        grey += rng.uniform(-0.04, 0.04) * _line(
            *_place(rng, 0), np.deg2rad(-angle) + rng.normal(0, 0.05), rng.uniform(20, 90), 1.0
        )
    return _coloured(grey, (0.98, 1.0, 1.0)), {}


def _scratch(scene: np.ndarray, _: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0.25, np.pi - 0.25)
    cover = _line(*_place(rng, 60), angle, rng.uniform(40, 140), rng.uniform(1, 2.5), rng.uniform(-1, 1) * 1.5e-3)
    return scene + (rng.choice([-1, 1]) * rng.uniform(0.12, 0.3)) * cover[..., None]


def _dent(scene: np.ndarray, _: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    (x, y), radius, angle = _place(rng), rng.uniform(7, 15), rng.uniform(0, 2 * np.pi)
    along, across = _turned((_X - x) / radius, (_Y - y) / radius, angle)
    return scene + (rng.uniform(0.2, 0.35) * along * np.exp(-(along**2 + across**2)))[..., None]


def _stain(scene: np.ndarray, _: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    cover = _blob(*_place(rng), rng.uniform(12, 32), rng, edge=8) * np.clip(0.8 + 0.2 * _smooth(rng, 5), 0, 1)
    return scene * (1 - rng.uniform(0.08, 0.2) * cover[..., None] * np.array([0.6, 0.8, 1.0]))


# a cloth


def _weave(rng: np.random.Generator) -> Scene:
    period, angle = rng.uniform(9.5, 10.5), rng.normal(0, 0.02)
    x, y = _turned(_X + 1.2 * _smooth(rng, 25), _Y + 1.2 * _smooth(rng, 25), angle)
    x, y = x + rng.uniform(0, period), y + rng.uniform(0, period)
    warp, weft = np.sin(np.pi * x / period) ** 2, np.sin(np.pi * y / period) ** 2
    over = (np.floor(x / period) + np.floor(y / period)) % 2
    threads = np.where(over == 1, warp * (0.75 + 0.25 * weft), weft * (0.75 + 0.25 * warp))
    grey = 0.25 + 0.45 * threads + 0.025 * _smooth(rng, 1.2) + 0.02 * _smooth(rng, (40, 2))
    return _coloured(grey, (0.75, 0.85, 1.0)), {"period": period, "x": x, "y": y}


def _missing_thread(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    one, other = (places["x"], places["y"])[:: rng.choice([-1, 1])]
    number, middle = rng.integers(4, 21), rng.uniform(60, SIDE - 60)
    within = np.clip(1 - np.abs(one / places["period"] - number - 0.5) * 2.0, 0, 1) ** 0.5
    cover = within * np.clip((rng.uniform(25, 90) - np.abs(other - middle)) / 3 + 0.5, 0, 1)
    return _over(scene, 0.8 * cover, np.array([0.14, 0.16, 0.19]))


def _hole(scene: np.ndarray, _: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    return _over(scene, _blob(*_place(rng, 20), rng.uniform(4, 11), rng, edge=3), 0.08)


def _knot(scene: np.ndarray, _: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    (x, y), radius = _place(rng, 20), rng.uniform(4, 8)
    bump = np.exp(-((_X - x) ** 2 + (_Y - y) ** 2) / (2 * (radius / 1.5) ** 2))
    return _over(scene, 0.85 * _blob(x, y, radius, rng), np.array([0.55, 0.62, 0.73]) * (0.6 + 0.5 * bump[..., None]))


# a printed label


def _glyphs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return a line of made-up characters of 5x7 cells, (14, 12 * count)."""
    cells = np.zeros((7, 6 * count))
    for i in range(count):
        cells[:, 6 * i : 6 * i + 5] = rng.random((7, 5)) < 0.55
    return np.kron(cells, np.ones((2, 2)))


def _print() -> np.ndarray:
    """Return what all labels have in common: a frame, three lines and bars, (150, 200)."""
    rng, ink = np.random.default_rng(20), np.zeros((150, 200))
    ink[4:146, 4:196] = 1
    ink[7:143, 7:193] = 0
    for top, count in ((16, 14), (36, 11), (56, 13)):
        ink[top : top + 14, 16 : 16 + 12 * count] = _glyphs(rng, count)
    bars = np.repeat(rng.random(54) < 0.5, 3)
    ink[100:134, 18 : 18 + len(bars)] = bars
    return ink


_PRINT = _print()


def _label(rng: np.random.Generator) -> Scene:
    ink = _PRINT.copy()
    ink[78:92, 16:112] = _glyphs(rng, 8)  # the serial number
    angle, dx, dy = rng.normal(0, 0.015), rng.uniform(-6, 6), rng.uniform(-6, 6)
    x, y = _turned(_X - SIDE / 2 - dx, _Y - SIDE / 2 - dy, angle)
    at = [y + 75, x + 100]
    paper = np.clip(np.minimum(82 - np.abs(y), 108 - np.abs(x)) + 0.5, 0, 1)
    cover = ndimage.map_coordinates(ink, at, order=1) * rng.uniform(0.8, 0.95)
    board = _coloured(0.55 + 0.03 * _smooth(rng, (1, 6)), (1.0, 0.8, 0.6))
    scene = _over(_over(board, paper, 0.9 + 0.01 * _smooth(rng, 20)[..., None]), cover, 0.08)
    return scene, {"at": at, "x": x, "y": y}


def _printed(places: dict[str, Any], rng: np.random.Generator) -> tuple[float, float]:
    """Return a place (x, y) where the label has print."""
    rows, columns = np.nonzero((_PRINT > 0) & (np.mgrid[:150, :200][1] > 10) & (np.mgrid[:150, :200][1] < 190))
    i = rng.integers(len(rows))
    nearest = np.argmin(np.hypot(places["at"][0] - rows[i], places["at"][1] - columns[i]))
    return float(nearest % SIDE), float(nearest // SIDE)


def _void(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    cover = _blob(*_printed(places, rng), rng.uniform(7, 16), rng, edge=3)
    return _over(scene, cover * (scene.max(axis=2) < 0.85), 0.9)


def _smear(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    cover = _blob(*_printed(places, rng), rng.uniform(14, 28), rng, edge=6)
    dragged = ndimage.uniform_filter1d(scene, int(rng.integers(9, 19)), axis=int(rng.integers(0, 2)))
    return _over(scene, cover, 0.5 * dragged + 0.5 * np.minimum(scene, dragged))


def _double(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    cover = _blob(*_printed(places, rng), rng.uniform(22, 38), rng, edge=3)
    shifted = ndimage.shift(scene, (*rng.choice([-1, 1], 2) * rng.uniform(2, 4, 2), 0), order=1, mode="nearest")
    return _over(scene, cover, np.minimum(scene, 0.25 + 0.75 * shifted))


# a turned part


def _part(rng: np.random.Generator) -> Scene:
    x, y = _X - SIDE / 2 - rng.uniform(-5, 5), _Y - SIDE / 2 - rng.uniform(-5, 5)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    rim, first = 100 + rng.normal(0, 0.7), rng.uniform(0, np.pi / 3)
    rings = ndimage.gaussian_filter1d(rng.standard_normal(400), 0.8)
    shine = np.cos(2 * (angle - rng.normal(0.6, 0.15)))  # a turned face shines in two sectors
    grey = 0.5 + 0.13 * shine + 0.03 * np.interp(radius, np.arange(400) / 2, rings)
    scene = _over(np.full((SIDE, SIDE, 3), 0.12), np.clip(rim - radius + 0.5, 0, 1), _coloured(grey, (1, 0.97, 0.9)))
    holes = [(64 * np.cos(first + i * np.pi / 3), 64 * np.sin(first + i * np.pi / 3)) for i in range(6)]
    for hx, hy, size in [(0.0, 0.0, 24.0), *((hx, hy, 9.0) for hx, hy in holes)]:
        scene = _over(scene, np.clip(size - np.hypot(x - hx, y - hy) + 0.5, 0, 1), 0.1)
    return scene, {"x": x, "y": y, "radius": radius, "angle": angle, "rim": rim, "holes": holes, "first": first}


def _nick(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    at, depth = rng.uniform(0, 2 * np.pi), rng.uniform(4, 9)
    x = places["x"] - places["rim"] * np.cos(at)
    y = places["y"] - places["rim"] * np.sin(at)
    return _over(scene, np.clip(depth - np.hypot(x, y) + 0.5, 0, 1), 0.12)


def _closed_hole(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    hx, hy = places["holes"][rng.integers(6)]
    inside = np.clip(10.5 - np.hypot(places["x"] - hx, places["y"] - hy), 0, 1)
    step = places["angle"] + np.pi / 6  # the face halfway to the next hole, at the same radius
    x, y = places["radius"] * np.cos(step), places["radius"] * np.sin(step)
    offset = [places["y"][0, 0], places["x"][0, 0]]
    face = [ndimage.map_coordinates(scene[..., c], [y - offset[0], x - offset[1]], order=1) for c in range(3)]
    return _over(scene, inside, np.stack(face, axis=2))


def _chatter(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    middle, width = rng.uniform(-np.pi, np.pi), rng.uniform(0.25, 0.6)
    away = np.abs((places["angle"] - middle + np.pi) % (2 * np.pi) - np.pi)
    ring = (places["radius"] > 28) & (places["radius"] < places["rim"] - 3) & (scene.max(axis=2) > 0.25)
    waves = rng.uniform(0.05, 0.1) * np.sin(places["angle"] * rng.uniform(90, 130))
    return scene + (waves * np.clip((width - away) / 0.1, 0, 1) * ring)[..., None]


# nine tablets


def _tablets(rng: np.random.Generator) -> Scene:
    scene = _coloured(0.32 + 0.015 * _smooth(rng, 3), (0.8, 0.9, 1.0))
    tint = np.array([0.93, 0.9, 0.82]) * rng.uniform(0.96, 1.04)
    centres = []
    for row in range(3):
        for column in range(3):
            x, y = 54 + 74 * column + rng.uniform(-5, 5), 54 + 74 * row + rng.uniform(-5, 5)
            angle, radius = rng.uniform(0, np.pi), 27 + rng.normal(0, 0.4)
            distance = np.hypot(_X - x, _Y - y)
            scene *= 1 - 0.35 * np.clip((radius + 2 - np.hypot(_X - x - 4, _Y - y - 5)) / 5 + 0.5, 0, 1)[..., None]
            grey = 1 - 0.25 * np.clip(distance / radius, 0, 1) ** 4 + 0.01 * _smooth(rng, 1.5)
            grey -= 0.16 * _line(x, y, angle, 46, 2.5)  # the score
            scene = _over(scene, np.clip(radius - distance + 0.5, 0, 1), grey[..., None] * tint)
            centres.append((x, y, radius))
    return scene, {"tablets": centres}


def _chip(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    (x, y, radius), at = places["tablets"][rng.integers(9)], rng.uniform(0, 2 * np.pi)
    cover = _blob(x + radius * np.cos(at), y + radius * np.sin(at), rng.uniform(6, 12), rng)
    inside = np.clip(radius - np.hypot(_X - x, _Y - y) + 0.5, 0, 1)
    return _over(scene, cover * inside, np.array([0.24, 0.27, 0.3]))


def _crack(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    x, y, radius = places["tablets"][rng.integers(9)]
    cover = _line(
        x + rng.uniform(-8, 8),
        y + rng.uniform(-8, 8),
        rng.uniform(0, np.pi),
        rng.uniform(22, 44),
        1.4,
        rng.choice([-1, 1]) * rng.uniform(5e-3, 12e-3),
    )
    return _over(scene, 0.7 * cover * (np.hypot(_X - x, _Y - y) < radius), 0.4)


def _spot(scene: np.ndarray, places: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    x, y, _ = places["tablets"][rng.integers(9)]
    cover = _blob(x + rng.uniform(-14, 14), y + rng.uniform(-14, 14), rng.uniform(2.5, 5), rng)
    return _over(scene, rng.uniform(0.4, 0.8) * cover, np.array([0.6, 0.42, 0.3]))


SETS: dict[str, tuple[Callable[[np.random.Generator], Scene], dict[str, Draw]]] = {
    "metal": (_metal, {"scratch": _scratch, "dent": _dent, "stain": _stain}),
    "weave": (_weave, {"missing_thread": _missing_thread, "hole": _hole, "knot": _knot}),
    "label": (_label, {"void": _void, "smear": _smear, "double": _double}),
    "turned": (_part, {"nick": _nick, "closed_hole": _closed_hole, "chatter": _chatter}),
    "tablets": (_tablets, {"chip": _chip, "crack": _crack, "spot": _spot}),
}


def write(folder: Path, name: str, good: int, defective: int) -> None:
    """Write a set as PNG files: ``good`` images, and ``defective`` ones of each kind with their masks."""
    for kind, count in [(None, good), *((kind, defective) for kind in kinds(name))]:
        place, masks = folder / name / (kind or "good"), folder / name / "masks"
        place.mkdir(parents=True, exist_ok=True)
        masks.mkdir(exist_ok=True)
        first = 0 if kind is None else 100_000 * (1 + kinds(name).index(kind))  # each defective part is one of its own
        for i in range(count):
            image, mask = rendered(name, kind, first + i)
            Image.fromarray(image).save(place / f"{i:04d}.png")
            if kind is not None:
                Image.fromarray(mask).save(masks / f"{kind}_{i:04d}.png")


def main() -> None:
    """Write all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--good", type=int, default=200)
    parser.add_argument("--defective", type=int, default=60, help="of each kind")
    chosen = parser.parse_args()
    for name in SETS:
        write(chosen.folder, name, chosen.good, chosen.defective)


if __name__ == "__main__":
    main()
