"""Tables of anomaly scores that any detector wrote: a row an image, with its label and score."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrad.data.tables import Table, read_table
from metrad.errors import InputError

# Names that each column can have.
COLUMNS = {
    "image": ("image", "image_path", "path"),
    "label": ("label", "gt_label", "role"),
    "score": ("score", "pred_score", "anomaly_score"),
    "kind": ("kind", "class"),
    "group": ("group", "part"),
    "p_value": ("p_value", "p"),
}
NORMAL = ("0", "false", "normal", "good", "ok", "test_normal")
ANOMALOUS = ("1", "true", "anomalous", "anomaly", "abnormal", "bad", "ng", "defect", "defective", "test_anomalous")
CALIBRATION = "calibration"
MOST_SCORE = 1e300
# A number as PyTorch or NumPy prints it, such as tensor(0.53), tensor([1], device='cuda:0') and np.float32(0.53).
_PRINTED = re.compile(r"(?:tensor|array|np\.\w+)\(([^(),]*)(?:,[^()]*)?\)")
MOST_NAMED = 20  # rows whose labels are named in an error


@dataclass(frozen=True)
class ScoreTable:
    """The scores of images, and what is known of the images.

    Attributes:
        path: the file.
        images: name of each test image, (N,); None if the table does not name them.
        anomalous: whether each is anomalous, (N,) booleans.
        scores: their anomaly scores, (N,) float64; higher is more anomalous.
        kinds: kind of anomaly of each, (N,); empty texts where none is told.
        groups: number of the group of each, (N,); None if the table has no groups.
        p_values: their p-values, (N,); None if the table has none.
        calibration: scores of the images labelled ``calibration``, (M,).
        calibration_groups: numbers of their groups, (M,); None if the table has no groups.
    """

    path: Path
    images: list[str] | None
    anomalous: np.ndarray
    scores: np.ndarray
    kinds: list[str]
    groups: np.ndarray | None
    p_values: np.ndarray | None
    calibration: np.ndarray
    calibration_groups: np.ndarray | None


def read_scores(path: Path, normal: Sequence[str] = ()) -> ScoreTable:
    """Read a table of scores, CSV or JSON Lines.

    Args:
        path: the file. ``COLUMNS`` has the names of its columns, of which label and score must be there.
        normal: labels of normal images; all others but ``calibration`` are then anomalous, and name the kind of the
            anomaly if no column does. None given: the words of ``NORMAL`` and ``ANOMALOUS``.

    Raises:
        InputError: the table cannot be read, lacks a column or has it under two names, has an unknown label, a score
            that is no finite number, a p-value outside [0, 1], or an image twice, or it has no normal image.
    """
    table = read_table(path, numbers=True)
    found = {what: _column(table, what) for what in COLUMNS}
    labels = [_label(table, row, cell, normal) for row, cell in enumerate(table.columns[str(found["label"])])]
    tested = [row for row, label in enumerate(labels) if label is not None]
    kept = [row for row, label in enumerate(labels) if label is None]
    scores = _numbers(table, str(found["score"]), (-MOST_SCORE, MOST_SCORE))
    images = _different(table, found["image"])
    groups = None if found["group"] is None else _groups(table, found["group"])
    p_values = None if found["p_value"] is None else _p_values(table, found["p_value"], tested)
    kinds = table.columns[found["kind"]] if found["kind"] else _words(table, str(found["label"]), normal)
    anomalous = np.array([labels[row] for row in tested], dtype=bool)
    if anomalous.all():
        there = ", ".join(dict.fromkeys(cell[:40] for cell in table.columns[str(found["label"])][:MOST_NAMED]))
        raise InputError(
            f"{path} has no normal test image, so nothing can be measured; there are labels such as {there}"
        )
    return ScoreTable(
        path=path,
        images=None if images is None else [images[row] for row in tested],
        anomalous=anomalous,
        scores=scores[tested],
        kinds=[kinds[row] if labels[row] else "" for row in tested],
        groups=None if groups is None else groups[tested],
        p_values=p_values,
        calibration=scores[kept],
        calibration_groups=None if groups is None else groups[kept],
    )


def _column(table: Table, what: str) -> str | None:
    """Return the name of the column for ``what``; None if there is none and it is not needed."""
    there = [name for name in COLUMNS[what] if name in table.columns]
    if len(there) > 1:
        raise InputError(f"{table.path} has the columns {' and '.join(there)}, each for the {what}; keep one of them")
    if not there and what in ("label", "score"):
        raise InputError(
            f"{table.path} has no column for the {what}; name it {' or '.join(COLUMNS[what])}; "
            f"there are {', '.join(table.columns)}"
        )
    return there[0] if there else None


def _label(table: Table, row: int, cell: str, normal: Sequence[str]) -> bool | None:
    """Return whether a label says anomalous; None for calibration."""
    word = _bare(cell).lower()
    if word == CALIBRATION:
        return None
    if normal:
        return _bare(cell) not in normal
    word = word.removesuffix(".0")
    if word in NORMAL or word in ANOMALOUS:
        return word in ANOMALOUS
    raise table.refusal(
        row,
        f"the label {cell!r} says neither normal ({', '.join(NORMAL)}) nor anomalous ({', '.join(ANOMALOUS)}); say "
        "which labels are normal, as in: --normal good",
    )


def _bare(cell: str) -> str:
    """Return the value in a cell: what stands in a tensor, array or list of one value if one was printed, else all."""
    printed = _PRINTED.fullmatch(cell.strip())
    text = cell.strip() if printed is None else printed[1].strip()
    while text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    return text


def _words(table: Table, column: str, normal: Sequence[str]) -> list[str]:
    """Return the labels as kinds where labels are words of the user's own."""
    cells = table.columns[column]
    return [cell.strip() for cell in cells] if normal else [""] * len(cells)


def _numbers(table: Table, column: str, ends: tuple[float, float]) -> np.ndarray:
    return np.array([_number(table, row, column, cell, ends) for row, cell in enumerate(table.columns[column])])


def _number(table: Table, row: int, column: str, cell: str, ends: tuple[float, float]) -> float:
    try:
        value = math.nan if "_" in cell else float(_bare(cell))  # Python reads 1_0 as 10
    except ValueError:
        value = math.nan
    if not ends[0] <= value <= ends[1]:
        allowed = "a finite number" if ends[1] == MOST_SCORE else "a number from 0 to 1"
        raise table.refusal(row, f"{column} must be {allowed}, got {cell!r}")
    return value


def _p_values(table: Table, column: str, tested: Sequence[int]) -> np.ndarray | None:
    """Return the p-values of the rows ``tested``; None if all of these cells are empty."""
    chosen = table.rows(tested)
    return _numbers(chosen, column, (0, 1)) if any(chosen.columns[column]) else None


def _groups(table: Table, column: str) -> np.ndarray:
    """Return the numbers of the groups, in the order of their names; whole numbers are ordered as numbers."""
    cells = table.columns[column]
    if "" in cells:
        raise table.refusal(cells.index(""), f"{column} is empty; each image has a group, or the column is left out")
    whole = all(cell.isdecimal() and len(cell) < 18 for cell in cells)
    names = np.array([int(cell) for cell in cells]) if whole else np.array(cells)
    return np.unique(names, return_inverse=True)[1]


def _different(table: Table, column: str | None) -> list[str] | None:
    """Return the images, each once."""
    if column is None:
        return None
    images, seen = table.columns[column], set[str]()
    for row, image in enumerate(images):
        if image in seen:
            raise table.refusal(row, f"the image {image!r} is there twice; keep one row an image")
        seen.add(image)
    return images
