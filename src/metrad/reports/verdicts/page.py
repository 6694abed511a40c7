"""The page of a batch: all images in one HTML file, sorted, filtered and enlarged, with a folder of pictures beside it.

The page holds the verdicts. The browser shows only the tiles in view, so that thousands of images do not stall it.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from metrad.data.broken_images import CorruptImageError
from metrad.errors import InputError
from metrad.files import replacing
from metrad.reports.page.html import render_template
from metrad.reports.verdicts.images import Images, bounded
from metrad.reports.verdicts.places import key_of
from metrad.reports.verdicts.rows import ERROR, VERDICTS, Cells, Row

log = logging.getLogger(__name__)

TILE, LARGE = 240, 1024  # longest side in pixels of an image in the grid, and of an enlarged one
_QUALITY = {TILE: 78, LARGE: 88}  # of the JPEG files


class Page:
    """Collects the verdicts of a batch, writes its pictures, and at the end the page.

    Args:
        path: the HTML file.
        images: reads the images.
        paths: path of each image by its name.
        threads: number of images that are reduced at a time.
    """

    def __init__(self, path: Path, images: Images, paths: Mapping[str, str], threads: int = 2) -> None:
        self.path, self.images, self.paths = path, images, paths
        self.pool = ThreadPoolExecutor(threads)
        self.rows: list[Row] = []
        self.good: dict[str, bool] = {}  # whether the picture of a good image is there, by name

    def add(self, rows: Sequence[Row]) -> None:
        """Keep ``rows`` and write the pictures of their images, and of good images that are nearest to them."""
        self.rows += rows
        names = list(dict.fromkeys(row.nearest for row in rows if row.nearest and row.nearest not in self.good))
        self.good |= zip(names, self.pool.map(self._good_pictures, names), strict=True)
        list(self.pool.map(self._own_pictures, [row.image for row in rows if row.verdict != ERROR]))

    def finish(
        self, title: str, heads: Sequence[str], facts: Sequence[str] = (), parts: Sequence[Cells] | None = None
    ) -> None:
        """Write the page, all or nothing.

        Args:
            title: its title.
            heads: lines at the top.
            facts: further lines, which are folded.
            parts: rows of the verdicts on parts, as ``PartScores.rows`` gives them; None without groups.

        Raises:
            WriteError: the file cannot be written.
        """
        data, count = self._data(parts or ()), len(self.rows)
        text = render_template("batch", title=title, heads=heads, facts=facts, data=data, count=count)
        with replacing(self.path) as partial:
            partial.write_text(text, encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()

    def _own_pictures(self, name: str) -> None:
        try:
            self._write(key_of(name), lambda: self.images.read(self.paths[name]))
        except CorruptImageError as error:  # it changed since it was scored
            log.warning("--html: %s has no picture (%s)", name, error)

    def _good_pictures(self, name: str) -> bool:
        return self._write(good_key(name), lambda: self.images.read_good(name))

    def _write(self, key: str, read: Callable[[], Image.Image | None]) -> bool:
        """Write the two pictures of an image unless they are there; return whether they are now."""
        targets = {side: folder(self.path) / f"{key}-{side}.jpg" for side in (LARGE, TILE)}
        if all(target.exists() for target in targets.values()):  # of a call that this one goes on with
            return True
        image = read()
        if image is None:
            return False
        for side, target in targets.items():
            image = bounded(image, side)
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                image.save(partial, quality=_QUALITY[side])
        return True

    def _data(self, parts: Sequence[Cells]) -> str:
        """Return the verdicts as JSON that may stand in a script element: no name in it can end the element."""
        places = {part["group"]: place for place, part in enumerate(parts)}
        nearest = {name: number for number, name in enumerate(self.good)}
        content = {
            "folder": quote(folder(self.path).name),
            "sides": [TILE, LARGE],
            "verdicts": VERDICTS,
            "good": [[name, good_key(name) if there else None] for name, there in self.good.items()],
            "parts": [[part["group"], VERDICTS.index(part["verdict"])] for part in parts],
            "images": [
                [
                    row.image.replace(os.sep, "/"),
                    None if row.verdict == ERROR else f"{row.score:.5g}",
                    None if row.verdict == ERROR or row.p_value != row.p_value else f"{row.p_value:.4g}",
                    VERDICTS.index(row.verdict),
                    nearest.get(row.nearest, -1),
                    int(row.fitted_on),
                    row.error,
                    key_of(row.image),
                    places.get(row.group, -1),
                ]
                for row in self.rows
            ],
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def require_name(path: Path) -> None:
    """Raise ``InputError`` unless the name of a page ends as browsers expect."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--html must end with .html, got {path}")


def good_key(name: str) -> str:
    """Return the start of the file names of the pictures of the good image ``name``."""
    return f"good-{key_of(name)}"


def folder(path: Path) -> Path:
    """Return the folder of the pictures beside the page at ``path``, named as browsers do when they save a page."""
    return path.with_name(f"{path.stem}_files")
