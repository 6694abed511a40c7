"""A folder for each verdict with links to the images, or copies of them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from metrad.errors import InputError
from metrad.files import writing
from metrad.reports.verdicts.places import below
from metrad.reports.verdicts.rows import VERDICTS, Row


class Sorted:
    """Puts each image into ``folder/VERDICT/``, below which the folders are as they were.

    Args:
        folder: the folder.
        paths: path of each image by its name.
        common: folder that all images lie below.
        copies: make copies and not symbolic links.
    """

    def __init__(self, folder: Path, paths: Mapping[str, str], common: str, *, copies: bool) -> None:
        self.folder, self.paths, self.common, self.copies = folder, paths, common, copies

    def add(self, rows: Sequence[Row]) -> None:
        """Sort the images of ``rows``; a file that does not exist any more has no place."""
        for row in rows:
            source = Path(self.paths[row.image])
            if source.exists() and (source.is_file() or not self.copies):  # a copy of a FIFO would never end
                places = {kind: self.folder / kind / below(str(source), self.common) for kind in VERDICTS}
                for kind, place in places.items():
                    if kind != row.verdict:  # an error of a call that this one goes on with is scored again
                        place.unlink(missing_ok=True)
                self._place(source, places[row.verdict])

    def _place(self, source: Path, target: Path) -> None:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if self.copies:
                shutil.copy2(source, target)
                return
            try:
                target.symlink_to(source.absolute())
            except (NotImplementedError, PermissionError) as error:
                raise InputError(f"--sort: {target} cannot be a link here; add --copy for copies") from error

    def close(self) -> None:
        """Nothing is left to do."""
