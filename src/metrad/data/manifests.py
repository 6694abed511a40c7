"""Images that a table lists: manifests of the user's own, and the tables of VisA."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from metrad.data.layouts import chosen_category
from metrad.data.sources import VALIDATION_PARTS, FileSource, Found, class_folders, kept_size, signature
from metrad.data.tables import Table, read_table
from metrad.errors import InputError
from metrad.quoting import setting

IN_TEST = {"train": False, **dict.fromkeys(VALIDATION_PARTS, False), "test": True}
PATH, CLASS, PART = "path", "class", "part"


class ListedFiles(FileSource):
    """Images that the rows of a table list."""

    def fill_from(self, table: Table, root: Path, names: Mapping[str, str], owner: str) -> None:
        """Set all attributes from ``table``.

        Args:
            table: the table, a row for each image.
            root: folder that paths are relative to.
            names: name in the table of the columns path, class and part; part may be missing there.
            owner: the setting that sets ``root``, for messages.

        Raises:
            InputError: a column or a file is missing, a cell cannot be used, or an image is listed twice.
        """
        for column in (PATH, CLASS):
            if names[column] not in table.columns:
                raise InputError(
                    f"{table.path} has no column {names[column]}, and has {', '.join(table.columns)[:200]}; each row "
                    "needs the path and the class of an image"
                )
        table = table.rows(sorted(range(len(table.lines)), key=table.columns[names[PATH]].__getitem__))
        paths, classes = (table.columns[names[column]] for column in (PATH, CLASS))
        in_test = _in_test(table, names[PART])
        _require_texts(table, [names[PATH], names[CLASS]])
        places = [str(root / path) for path in paths]
        _require_different(table, places)
        signatures = [signature(Path(place)) for place in places]
        _require_there(table, paths, signatures, f"{owner}={root}")
        found = [Found(*image) for image in zip(in_test, classes, places, signatures, strict=True)]
        self.root = root
        self.fill(found, paths, has_parts=any(in_test))
        others = table.columns.keys() - {names[column] for column in (PATH, CLASS, PART)}
        self.columns = {name: table.columns[name] for name in table.columns if name in others}


class Manifest(ListedFiles):
    """Images that a CSV or JSONL file lists, a row an image.

    The columns are ``path`` and ``class``, and if wanted ``part``: train or test, or val, whose images count to the
    training part. Without ``part``, or without a row of the test part, a test part is drawn. The column ``group`` says
    which images show one part, unless ``dataset.group`` names another column.

    Args:
        path: the file; its name ends in ``.csv`` or ``.jsonl``.
        root: folder that paths are relative to; null for the folder of the file.
        columns: other names of columns, such as ``{path: image, class: label, part: split}``.
        size: height and width in pixels that images are kept at; null for the input size of the model.

    Raises:
        InputError: the table cannot be used, or an image is missing; the message names the file and the line.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        root: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        size: int | None = None,
    ) -> None:
        self.size = kept_size(size)
        wanted = dict(columns or {})
        unknown = sorted(wanted.keys() - {PATH, CLASS, PART})
        if unknown:
            raise InputError(f"dataset.source.columns: {unknown[0]} is none of path, class and part")
        file = Path(path)
        if not file.exists():
            raise InputError(f"dataset.source.path: no file {file.absolute()}; give a table, a .csv or .jsonl file")
        folder = file.parent if root is None else Path(root)
        if not folder.is_dir():
            raise InputError(f"dataset.source.root: no folder {folder.absolute()}; null is the folder of the table")
        table = read_table(file)
        lacking = [name for name in wanted.values() if name not in table.columns]
        if lacking:
            raise InputError(f"dataset.source.columns: {path} has no column {lacking[0]}; {_columns_there(table)}")
        names = {column: wanted.get(column, column) for column in (PATH, CLASS, PART)}
        self.fill_from(table, folder, names, "dataset.source.root")


class VisA(ListedFiles):
    """One category of VisA, by one of the tables in its folder ``split_csv``; its classes are normal and anomaly.

    The column ``mask`` has the path of the mask of each anomalous image, relative to ``root``.

    Args:
        root: folder of VisA, with ``split_csv`` and a folder a category.
        category: name of the category, such as ``candle``.
        split: name of the table: ``1cls`` trains on normal images alone; ``2cls_fewshot`` and ``2cls_highshot`` have
            anomalous images in the training part too.
        size: height and width in pixels that images are kept at; null for the input size of the model.

    Raises:
        InputError: a table or the category does not exist, or an image is missing.
    """

    def __init__(
        self, root: str | Path, category: str | None = None, *, split: str = "1cls", size: int | None = None
    ) -> None:
        self.size = kept_size(size)
        folder = Path(root)
        path = folder / "split_csv" / f"{split}.csv"
        if not path.is_file():
            raise InputError(_no_table(folder, path, category))
        table = read_table(path)
        columns = ("object", "split", "label", "image", "mask")
        lacking = [name for name in columns if name not in table.columns]
        if lacking:
            raise InputError(f"{path} has no column {lacking[0]}, as VisA's tables have; {_columns_there(table)}")
        objects = table.columns["object"]
        chosen = chosen_category(category, sorted(set(objects)))
        table = table.rows([i for i, name in enumerate(objects) if name == chosen])
        self.fill_from(table, folder, {PATH: "image", CLASS: "label", PART: "split"}, "dataset.source.root")


def _no_table(root: Path, path: Path, category: str | None) -> str:
    """Return the line on a folder that has no table of VisA."""
    if not root.is_dir():
        line = f"dataset.source.root: no folder {root.absolute()}"
    else:
        tables = sorted(table.stem for table in (root / "split_csv").glob("*.csv"))
        if tables:
            return f"dataset.source.split={path.stem}: no table {path}; there are {', '.join(tables)}"
        inside = [folder for folder in class_folders(root) if (folder / "split_csv").is_dir()]
        if inside or (root.parent / "split_csv").is_dir():
            right = str(inside[0] if inside else root.parent)
            return f"dataset.source.root: {root} has no folder split_csv; {setting('dataset.source.root', right)} has"
        if any((folder / "train").is_dir() for folder in (root, *class_folders(root))):
            given = "" if category is None else f" {setting('dataset.category', category)}"
            there = setting("dataset.source.root", str(root))
            return f"dataset.source.root: {root} has folders train, as MVTec AD: dataset=mvtec {there}{given}"
        line = f"dataset.source.root: no table {path}"
    return (
        f"{line}; metrad does not download VisA, the Visual Anomaly dataset; get it from Amazon Science, and unpack it "
        f"so that there is {root.absolute() / 'split_csv' / '1cls.csv'}, or set dataset.source.root to its folder"
    )


def _columns_there(table: Table) -> str:
    return f"there are {', '.join(table.columns)[:200]}"


def _require_texts(table: Table, names: Sequence[str]) -> None:
    """Check that no cell of these columns is empty or has spaces around it, which would make another class."""
    for name in names:
        for position, cell in enumerate(table.columns[name]):
            if not cell.strip() or cell != cell.strip():
                state = "begins or ends with a space" if cell.strip() else "is empty"
                raise table.refusal(position, f"{name} {state}")


def _in_test(table: Table, column: str) -> list[bool]:
    """Return whether each image is of the test part; False for all if the table does not say."""
    if column not in table.columns:
        return [False] * len(table.lines)
    cells = table.columns[column]
    for position, cell in enumerate(cells):
        if cell not in IN_TEST:
            raise table.refusal(position, f"{column} must be train, val or test, got {cell[:100]!r}")
    found = [IN_TEST[cell] for cell in cells]
    if all(found):
        raise InputError(f"{table.path}: all images are of the test part; {column} must be train for some")
    return found


def _require_different(table: Table, places: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for position, place in enumerate(map(os.path.normpath, places)):
        earlier = first.setdefault(place, position)
        if earlier != position:
            raise table.refusal(position, f"{place} is in line {table.lines[earlier]} already; remove one of them")


def _require_there(table: Table, paths: Sequence[str], signatures: Sequence[tuple[int, ...]], relative_to: str) -> None:
    missing = [position for position, found in enumerate(signatures) if len(found) == 1]
    if missing:
        path = paths[missing[0]]
        others = f", nor are those of {len(missing) - 1:,} more rows" if len(missing) > 1 else ""
        advice = "write / between folders" if "\\" in path else f"paths are relative to {relative_to}"
        raise table.refusal(missing[0], f"{path} is no file{others}; {advice}")
