"""The row of one image in a table of verdicts: its columns, and a row as text and from text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metrad.errors import InputError

ANOMALOUS, NORMAL, ERROR = "anomalous", "normal", "error"
VERDICTS = (ANOMALOUS, NORMAL, ERROR)
COLUMNS = ("image", "score", "p_value", "verdict", "nearest", "fitted_on", "error")
GROUP = "group"  # a further column, of tables whose images belong to parts

Cells = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """The verdict on one image.

    Attributes:
        image: path of the image as text.
        score: its anomaly score; NaN if it could not be scored.
        p_value: its conformal p-value; NaN if it could not be scored.
        verdict: ``anomalous``, ``normal`` or ``error``.
        nearest: name of the nearest good image; empty if unknown.
        fitted_on: whether the detector was fitted on this image; False if it could not be scored.
        error: why it could not be scored; empty if it was.
        group: name of the part that the image shows; empty without groups.
    """

    image: str
    score: float
    p_value: float
    verdict: str
    nearest: str = ""
    fitted_on: bool = False
    error: str = ""
    group: str = ""

    def cells(self, *, grouped: bool) -> Cells:
        """Return the values by column; None where there is nothing to say, and ``group`` if ``grouped``."""
        failed = self.verdict == ERROR
        values = (
            self.image,
            None if failed else self.score,
            None if failed or math.isnan(self.p_value) else self.p_value,
            self.verdict,
            self.nearest or None,
            None if failed else self.fitted_on,
            self.error or None,
        )
        return dict(zip(COLUMNS, values, strict=True)) | ({GROUP: self.group} if grouped else {})

    @classmethod
    def of(cls, cells: Mapping[str, Any]) -> "Row":
        """Return the row of ``cells``, whose values may be texts, as in a CSV file.

        Raises:
            InputError: a value cannot stand in its column.
        """
        try:
            score, p_value = (_number(cells[name]) for name in ("score", "p_value"))
            known = {None: False, "": False, True: True, False: False, "true": True, "false": False}[cells["fitted_on"]]
            texts = {name: cells.get(name) or "" for name in ("image", "verdict", "nearest", "error", GROUP)}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a row of {dict(cells)!r:.200} is no verdict") from error
        if texts["verdict"] not in VERDICTS or not all(isinstance(text, str) for text in texts.values()):
            raise InputError(f"a row of {dict(cells)!r:.200} is no verdict")
        return cls(score=score, p_value=p_value, fitted_on=known, **texts)


def text(value: Any) -> str:
    """Return a cell as a CSV file has it: empty for None, and ``true`` or ``false``."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)
