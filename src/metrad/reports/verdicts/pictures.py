"""A picture of each image at its own resolution beside its nearest good image, with the verdict on it."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from metrad.data.broken_images import CorruptImageError
from metrad.files import replacing
from metrad.reports.verdicts.images import Images
from metrad.reports.verdicts.places import below, picture_place
from metrad.reports.verdicts.rows import ANOMALOUS, ERROR, Row
from metrad.terminal import printable

log = logging.getLogger(__name__)

COLOURS = {True: "#b34700", False: "#00598c"}  # anomalous, normal: dark enough for white letters
_LEAST = 360  # width of a panel in pixels that the words fit into
_MOST_JPEG = 65_500  # pixels of a side of a JPEG file


@dataclass(frozen=True)
class Panel:
    """An image with words above it; without an image there are only the words."""

    image: Image.Image | None
    words: str


class Pictures:
    """Writes a picture of each image into a folder, below which the folders of the images are as they were.

    Args:
        folder: the folder.
        images: reads the images.
        paths: path of each image by its name.
        common: folder that all images lie below.
        threads: number of pictures that are made at a time.
    """

    def __init__(self, folder: Path, images: Images, paths: Mapping[str, str], common: str, threads: int = 2) -> None:
        self.folder, self.images, self.paths, self.common = folder, images, paths, common
        self.pool = ThreadPoolExecutor(threads)

    def add(self, rows: Sequence[Row]) -> None:
        """Write the pictures of ``rows``; images that could not be scored have none."""
        list(self.pool.map(self._write, [row for row in rows if row.verdict != ERROR]))

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()

    def _write(self, row: Row) -> None:
        source = self.paths[row.image]
        try:
            picture = draw(row, self.images.read(source), *self._nearest(row.nearest))
        except CorruptImageError as error:  # it changed since it was scored
            log.warning("--pictures: %s has no picture (%s)", row.image, error)
            return
        large = max(picture.size) > _MOST_JPEG
        target = self.folder / picture_place(below(source, self.common), ".png" if large else ".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            picture.save(partial, compress_level=1, quality=92, subsampling=0)  # of PNG; of JPEG

    def _nearest(self, name: str) -> tuple[Image.Image | None, str]:
        """Return the nearest good image, if there is one to show, and the words above it."""
        image = self.images.read_good(name)
        words = f"nearest good image: {name or 'unknown'}"
        return image, words if image or not name else f"{words}; it is not on this disk, --good DIR says where it is"


def draw(row: Row, image: Image.Image, nearest: Image.Image | None, words: str) -> Image.Image:
    """Return the picture of a row: a band with the verdict, the image, and its nearest good image.

    Wide images stand one below the other, others side by side, each with its words above it.
    """
    known = "; the detector was fitted on this image, so its score says nothing" if row.fitted_on else ""
    verdict = f"{row.verdict}: score {row.score:.4g}, p-value {row.p_value:.3g}{known}"
    panels = [Panel(image, row.image), Panel(nearest, words)]
    stacked = image.width > 2 * image.height
    size = max(13, min(40, image.width // 45))
    drawn = [_panel(panel, max(_LEAST, image.width), size) for panel in panels]
    band = _text(verdict, drawn[0].width * (1 if stacked else 2), size + 2, "white", COLOURS[row.verdict == ANOMALOUS])
    width = max(band.width, max(p.width for p in drawn) if stacked else sum(p.width for p in drawn))
    height = band.height + (sum if stacked else max)([panel.height for panel in drawn])
    picture = Image.new("RGB", (width, height), "white")
    picture.paste(COLOURS[row.verdict == ANOMALOUS], (0, 0, width, band.height))
    picture.paste(band, (0, 0))
    left, top = 0, band.height
    for panel in drawn:
        picture.paste(panel, (left, top))
        left, top = (left, top + panel.height) if stacked else (left + panel.width, top)
    return picture


def _panel(panel: Panel, width: int, size: int) -> Image.Image:
    image = panel.image or Image.new("RGB", (1, 1), "white")
    words = _text(panel.words, max(width, image.width), size, "black", "white")
    drawn = Image.new("RGB", (words.width, words.height + image.height), "white")
    drawn.paste(words, (0, 0))
    drawn.paste(image, (0, words.height))
    return drawn


def _text(words: str, width: int, size: int, ink: str, ground: str) -> Image.Image:
    """Return ``words`` in lines of at most ``width`` pixels, broken anywhere, since names have no spaces."""
    font, margin = _font(size), size // 2
    room = width - 2 * margin
    lines, rest = [], printable(words).replace("\n", r"\n").replace("\t", " ")
    while rest:
        longest = min(len(rest), 4 * width // size)  # letters are wider than a quarter of their size
        fitting = next((n for n in range(longest, 1, -1) if font.getlength(rest[:n]) <= room), 1)
        lines.append(rest[:fitting])
        rest = rest[fitting:].lstrip()
    high = round(1.35 * size)
    image = Image.new("RGB", (width, high * len(lines) + 2 * margin), ground)
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((margin, margin + number * high), line, ink, font)
    return image


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans, which has Latin, Greek, Cyrillic and Arabic letters."""
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size)
