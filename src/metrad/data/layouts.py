"""The layout of MVTec AD, in which a dataset is a folder of categories, each with parts, kinds of defects and masks."""

import difflib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from metrad.data.good_folder import MASKS, is_good
from metrad.data.sources import (
    VALIDATION_PARTS,
    FileSource,
    Walk,
    class_folders,
    in_order,
    kept_size,
    listed,
    log_once,
    masks_among,
    names_below,
    usual_patterns,
)
from metrad.data.walking import readable
from metrad.errors import InputError
from metrad.quoting import setting

_TESTS = ("test", "test_public")  # the second in MVTec AD 2, whose private test images have no labels
_CLOSE = 0.7  # likeness of names, from 0 to 1, from which one is taken for a slip in typing the other
_DOWNLOAD = (
    "metrad does not download MVTec AD, MVTec AD 2 or MVTec LOCO AD; get it from MVTec, and unpack it so that "
    "there is {}, or set dataset.source.root to its folder"
)


class MVTec(FileSource):
    """One category of MVTec AD, MVTec AD 2 or MVTec LOCO AD, or of a dataset in the same layout.

    A category is a folder with ``train/good``, ``test/good`` and one ``test/KIND`` for each kind of defect. The folders
    of kinds are the classes. Images of a ``validation`` folder count to the training part. The labelled test part of
    MVTec AD 2 is ``test_public``. Masks in ``ground_truth`` are never read as images. The column ``mask`` has the path
    of each image's mask, a file or a folder of files, relative to ``root``; it is empty for an image without a mask.

    Args:
        root: folder of the categories; or one category, if ``category`` is null.
        category: name of the category.
        size: height and width in pixels that images are kept at; null for the input size of the model.

    Raises:
        InputError: the folder or the category does not exist, has no images, or a folder in it cannot be read.
    """

    def __init__(self, root: str | Path, category: str | None = None, *, size: int | None = None) -> None:
        self.root = Path(root)
        self.size = kept_size(size)
        self.folder = _category_folder(self.root, category)
        training = [self.folder / name for name in ("train", *VALIDATION_PARTS) if (self.folder / name).is_dir()]
        testing = [self.folder / name for name in _TESTS if (self.folder / name).is_dir()]
        walk = Walk(usual_patterns())
        parts = [*((part, False) for part in training), *((part, True) for part in testing)]
        found = in_order(
            image
            for part, in_test in parts
            for kind in class_folders(part)
            if kind.name != MASKS
            for image in walk.images(readable(kind.name), kind, in_test=in_test)
        )
        self.left_out = walk.left_out_by_ending
        _log_masks_in_test(self.folder)
        if not any(not image.in_test for image in found):
            others = f"; there are {listed(self.left_out)}" if self.left_out else ""
            raise InputError(
                f"dataset.source.root: no images in the class folders of {training[0]}, where MVTec's layout has "
                f"train/good{others}"
            )
        masks = masks_among(image.path for image in found)
        if masks:
            raise InputError(
                f"dataset.source.root: {masks[0]} is called as the mask of an image beside it; move it and "
                f"{len(masks) - 1} more to {self.folder / MASKS}, where MVTec's layout has masks"
            )
        self.fill(found, names_below(self.root, found), has_parts=any(image.in_test for image in found))
        known = {stem: path for part in (self.folder, *testing) for stem, path in _masks(part / MASKS)}
        masks_of = [known.get((image.class_name, Path(image.path).stem)) for image in found]
        self.columns = {"mask": ["" if mask is None else _below(self.root, mask) for mask in masks_of]}


def _log_masks_in_test(folder: Path) -> None:
    """Log that a folder of masks inside the test part, where only AD 2 has it, is no kind of defect."""
    masks = folder / _TESTS[0] / MASKS
    if masks.is_dir():
        log_once(logging.INFO, f"{masks} holds masks and was not read as a kind of defect")


def _below(root: Path, path: Path) -> str:
    return readable(path.relative_to(root).as_posix())


def _masks(folder: Path) -> Iterable[tuple[tuple[str, str], Path]]:
    """Yield the kind and the stem of each image that has a mask in ``folder``, and the mask.

    It is ``KIND/000_mask.png`` in MVTec AD, the folder ``KIND/000`` in MVTec LOCO AD, and elsewhere ``KIND/000.png``.
    """
    for kind in class_folders(folder) if folder.is_dir() else []:
        for entry in sorted(kind.iterdir()):
            stem = entry.name if entry.is_dir() else entry.stem.removesuffix("_mask")
            yield (readable(kind.name), stem), entry


def _category_folder(root: Path, category: str | None) -> Path:
    """Return the folder of ``category``, or ``root`` itself if it is a category and none is asked for."""
    if not root.is_dir():
        example = root.absolute() / (category or "screw") / "train" / "good"
        raise InputError(f"dataset.source.root: no folder {root.absolute()}; {_DOWNLOAD.format(example)}")
    _require_training(root, category)
    if _is_category(root):
        if category is None:
            return root
        above = setting("dataset.source.root", str(root.absolute().parent))
        raise InputError(
            f"dataset.source.root: {root} is itself a category; leave out dataset.category={category}, or give the "
            f"folder above: {above}"
        )
    categories = [folder.name for folder in class_folders(root) if _is_category(folder)]
    if not categories:
        raise InputError(f"dataset.source.root: {root} has no category; {_where_categories_are(root)}")
    return root / chosen_category(category, categories)


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir()


def _require_training(root: Path, category: str | None) -> None:
    """Raise ``InputError`` if the folder of ``category``, or ``root`` without one, has test images and no ``train``."""
    folders = [root] if category is None else [folder for folder in class_folders(root) if folder.name == category]
    for folder in folders:
        tests = [name for name in _TESTS if (folder / name).is_dir()]
        if tests and not _is_category(folder):
            raise InputError(
                f"dataset.source.root: {folder} has no train/good beside its folder {tests[0]}; put the good images to "
                f"train on into {folder.absolute() / 'train' / 'good'}"
            )


def _where_categories_are(root: Path) -> str:
    """Return the end of a line on a folder without categories: the folder that has them, or what one is."""
    for folder in class_folders(root):
        if any(_is_category(inner) for inner in class_folders(folder)):
            return f"its folder {folder.name} has: {setting('dataset.source.root', str(folder))}"
    if any(is_good(folder.name) for folder in class_folders(root)):
        return (
            "a category is a folder with train/good, and this one has folders of images alone; for one folder a class "
            f"choose dataset=image_folder {setting('dataset.source.root', str(root))}"
        )
    return f"a category is a folder with train/good; {_DOWNLOAD.format(root.absolute() / 'screw' / 'train' / 'good')}"


def chosen_category(category: str | None, categories: Sequence[str]) -> str:
    """Return ``category`` after a check that it is one of ``categories``.

    Raises:
        InputError: it is None or another one; the line lists those there.
    """
    if category in categories:
        return str(category)
    there = f"there are {', '.join(categories)}"
    if category is None:
        example = setting("dataset.category", categories[0])
        raise InputError(f"dataset.category must be set, as in {example}; {there}; -m sweeps over several")
    by_lower = {name.lower(): name for name in categories}
    close = difflib.get_close_matches(category.lower(), by_lower, n=1, cutoff=_CLOSE)
    meant = f"did you mean {setting('dataset.category', by_lower[close[0]])}? " if close else ""
    raise InputError(f"dataset.category={category} is no category here; {meant}{there}")
