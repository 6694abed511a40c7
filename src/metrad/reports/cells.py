"""The cells of a report: runs of one choice and condition, and the contents of their directories."""

import base64
import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image

from metrad.errors import InputError
from metrad.evaluation.metrics import roc_curve, summary
from metrad.files import require_inside
from metrad.runs.contents import is_unmeasured
from metrad.runs.directory import Run

RATES = np.linspace(0, 1, 201)
EVIDENCE_BYTES = 2_500_000  # size of all embedded pictures of a section together
HUGE = 1e300  # no figure of a run comes near; matplotlib overflows beyond
_CURVE = re.compile(r"(auroc|(false_alarms|detected)_at_\d+(\.\d+)?(e-\d+)?)(_low|_high)?")
SCORE_COLUMNS = ("image", "class", "role", "score", "p_value", "nearest")
Flat = dict[str, str]


@dataclass(frozen=True)
class Cell:
    """The finished runs of one choice under one condition; they differ in their seeds.

    Attributes:
        condition: name of the condition, such as a dataset.
        choice: value of the compared choice, such as a head.
        rows: rows of the runs in the comparison.
        metric: column of ``rows`` that is compared.
    """

    condition: str
    choice: str
    rows: pd.DataFrame
    metric: str

    @property
    def runs(self) -> list[Run]:
        """The runs of the cell that have a directory."""
        return [Run(folder) for folder in self.rows["folder"] if _is_directory(folder)]

    @property
    def median(self) -> Run | None:
        """The run with the median metric among the runs with a directory; of two middle runs, the lower one."""
        rows = self.rows[self.rows["folder"].map(_is_directory)].sort_values(self.metric, kind="stable")
        return Run(rows["folder"].iloc[(len(rows) - 1) // 2]) if len(rows) else None


@dataclass(frozen=True)
class Band:
    """ROC curves of several runs: true-positive rates at the false-positive rates ``RATES``, each (201,)."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


@dataclass(frozen=True)
class Reading:
    """The contents of the directories of a cell's runs; None or empty if no directory has the file.

    Attributes:
        cell: the cell.
        curves: band of the ROC curves of all runs.
        epochs: table of each run with a row for each epoch.
        study: table of each run with a study, with a row for each epoch from 0.
        median: the run with the median metric.
        scores: scores of the median run.
        evidence: picture of test images beside their nearest normal images, of the median run, as a data URI.
    """

    cell: Cell
    curves: Band | None
    epochs: list[pd.DataFrame]
    study: list[pd.DataFrame]
    median: Run | None
    scores: pd.DataFrame | None
    evidence: str | None


def read(cell: Cell, panels: int) -> Reading:
    """Read the files of a cell's runs that the report shows.

    Args:
        cell: the cell.
        panels: number of evidence pictures in the report, which share ``EVIDENCE_BYTES``.

    Raises:
        InputError: a file cannot be read.
    """
    tables = [table for table in map(scores_of, cell.runs) if table is not None and table["anomalous"].any()]
    epochs = [table for table in map(history_of, cell.runs) if table is not None]
    median = cell.median
    return Reading(
        cell=cell,
        curves=band(tables) if tables else None,
        epochs=epochs,
        study=studies_of(cell),
        median=median,
        scores=None if median is None else scores_of(median),
        evidence=None if median is None else evidence_of(median, panels),
    )


def cells(runs: pd.DataFrame, by: str, conditions: Sequence[str], metric: str) -> list[Cell]:
    """Return the cells of a comparison with a finished run, in the order of their first rows."""
    finished = runs[runs[metric].notna()]
    keys = pd.DataFrame({"condition": [condition_name(row, conditions) for _, row in finished.iterrows()]})
    keys["choice"] = finished[by].astype(str).to_numpy() if len(finished) else []
    positions = keys.groupby(["condition", "choice"], sort=False).indices
    return [Cell(condition, choice, finished.iloc[where], metric) for (condition, choice), where in positions.items()]


def condition_name(row: pd.Series, conditions: Sequence[str]) -> str:
    """Return the name of the condition of a row, such as ``digits, image_size=32``; empty without conditions."""
    return ", ".join(str(row[key]) if key == "dataset" else f"{key}={row[key]}" for key in conditions)


def scores_of(run: Run) -> pd.DataFrame | None:
    """Return the scores of the test images, with the truth in the column ``anomalous``; None without the file.

    A run without anomalous test images has scores of normal images alone.

    Raises:
        InputError: the file cannot be read or does not hold scores.
    """
    if not run.has(run.scores):
        return None
    data = run.read(run.scores)
    try:
        table = _table(data, dtype=str, keep_default_na=False)
        missing = [name for name in SCORE_COLUMNS if name not in table]
        if missing:
            raise InputError(f"{run.scores} has no column {missing[0]}; copy or create it again")
        table["score"] = table["score"].astype(float)
        p_values = table["p_value"][table["p_value"] != ""].astype(float)
    except InputError:
        raise
    except (csv.Error, ValueError) as error:
        raise InputError(f"{run.scores} cannot be read as scores ({' '.join(str(error).split())})") from error
    if not p_values.between(0, 1).all():
        raise InputError(f"{run.scores} has a p-value that is not from 0 to 1; copy or create it again")
    table["anomalous"] = table["role"] == "test_anomalous"
    whole = table["role"].isin(["test_normal", "test_anomalous"]).all() and not table.isna().any(axis=None)
    metrics = run.figures() or {}
    kinds = {False} if is_unmeasured(metrics) else {False, True}
    if not whole or not np.isfinite(table["score"]).all() or set(table["anomalous"]) != kinds:
        wanted = "both normal and anomalous" if len(kinds) > 1 else "normal"
        raise InputError(f"{run.scores} does not hold finite scores of {wanted} images")
    if len(kinds) > 1:
        _require_measured(run, table, metrics.get("auroc"))
    return table


def _require_measured(run: Run, table: pd.DataFrame, told: float | None) -> None:
    """Raise ``InputError`` unless the AUROC of a run is that of its scores, as it is not if one was cut off."""
    found = summary(table["score"].to_numpy(), table["anomalous"].to_numpy())["auroc"]
    if told is not None and abs(found - told) > 1e-6:
        raise InputError(f"{run.scores} has AUROC {found:.6f}, but {run.metrics} says {told:.6f}; one was changed")


def band(tables: Sequence[pd.DataFrame]) -> Band:
    """Return mean, lowest and highest ROC curve over runs, from their tables of ``scores_of``.

    A curve at x is the largest true-positive rate of a threshold with a false-positive rate of at most x.
    """
    rates = []
    for table in tables:
        false_positive, true_positive = roc_curve(table["score"].to_numpy(), table["anomalous"].to_numpy())
        rates.append(true_positive[np.searchsorted(false_positive, RATES, side="right") - 1])
    return Band(np.mean(rates, axis=0), np.min(rates, axis=0), np.max(rates, axis=0), len(rates))


def history_of(run: Run) -> pd.DataFrame | None:
    """Return a table with a row for each epoch, numbered from 1; None if the run did not train.

    Raises:
        InputError: the file cannot be read.
    """
    return _numbers_in(run, run.epochs, "epoch")


def studies_of(cell: Cell) -> list[pd.DataFrame]:
    """Return the table of each run of ``cell`` with a study, with a row for each epoch.

    Raises:
        InputError: a file cannot be read or does not hold a study.
    """
    tables = {run.study: table for run in cell.runs if (table := _numbers_in(run, run.study, "epoch")) is not None}
    for path, table in tables.items():
        if not {"epoch", "auroc", "effective_rank"} <= set(table.columns):
            raise InputError(f"{path} holds no study of a run")
    return list(tables.values())


def _table(data: bytes, **options: Any) -> pd.DataFrame:
    """Return the CSV table in ``data``; a row of another length than the first is a ``ValueError``."""
    lengths = {len(line) for line in csv.reader(io.StringIO(data.decode("utf-8"), newline=""))}
    if len(lengths) != 1 or not data.endswith(b"\n"):
        raise ValueError("its rows differ in length, or the last was cut off")
    return pd.read_csv(io.BytesIO(data), index_col=False, **options)


def curves_of(run: Run) -> dict[str, pd.DataFrame]:
    """Return the tables of the evaluations of ``run`` that fitted their scorer to fewer good images, by their names.

    A table has a row for each number of images; see ``good_images.curve``.

    Raises:
        InputError: a file cannot be read, or leads outside the run.
    """
    folders = sorted(run.evaluations.iterdir()) if run.evaluations.is_dir() else []
    found = {}
    for evaluation in (Run(folder) for folder in folders if os.path.lexists(Run(folder).good_images)):
        require_inside(run.path, evaluation.good_images)
        table = _numbers_in(evaluation, evaluation.good_images, "images")
        assert table is not None
        shares = table.drop(columns=["images", "draws"], errors="ignore")
        known = "draws" in table and all(map(_CURVE.fullmatch, shares.columns))
        counted = known and (table[["images", "draws"]] >= 1).all(axis=None)
        if not counted or not ((shares >= 0) & (shares <= 1)).all(axis=None):
            raise InputError(f"{evaluation.good_images} holds no figures by number of good images; evaluate again")
        found[evaluation.path.name] = table
    return found


def _numbers_in(run: Run, path: Path, counted: str) -> pd.DataFrame | None:
    """Return the table of numbers at ``path``, numbered by the column ``counted``; None without the file."""
    if not run.has(path):
        return None
    data = run.read(path)
    try:
        table = _table(data).astype(float)
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    numbered = counted in table and len(table) > 0 and table[counted].between(0, HUGE).all()
    if not numbered or (table.abs() > HUGE).any(axis=None):  # a missing value, which is no number, is allowed
        each = "epoch" if counted == "epoch" else f"number of {counted}"
        raise InputError(f"{path} does not hold a row of numbers for each {each}")
    return table


def hardest(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the ``count`` normal images with the highest, and anomalous images with the lowest scores.

    They are in the order of the picture ``hardest.png``.
    """
    rising = table.sort_values("score", kind="stable")
    normal = rising[~rising["anomalous"]][::-1]
    return pd.concat([normal[:count], rising[rising["anomalous"]][:count]])


def evidence_of(run: Run, panels: int) -> str | None:
    """Return the evidence picture of a run as a data URI, small enough for ``panels`` pictures; None without one.

    Raises:
        InputError: the picture cannot be read.
    """
    path = next((run.pictures[name] for name in ("hardest", "neighbours") if _has_picture(run, name)), None)
    return None if path is None else embedded(run, path, panels)


def embedded(run: Run, path: Path, panels: int) -> str:
    """Return the picture of ``run`` in ``path`` as a data URI, small enough for ``panels`` pictures in a report.

    Raises:
        InputError: the picture cannot be read.
    """
    try:
        with Image.open(io.BytesIO(run.read(path)), formats=["PNG"]) as opened:
            picture = opened.convert("RGB")
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error})") from error
    content = b""
    for width, quality in ((1400, 85), (1400, 65), (1100, 60), (800, 50)):
        smaller = picture.copy()
        smaller.thumbnail((width, width))
        buffer = io.BytesIO()
        smaller.save(buffer, "WEBP", quality=quality)
        content = buffer.getvalue()
        if len(content) * 4 / 3 <= EVIDENCE_BYTES / panels:
            break
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def configuration_of(run: Run) -> Flat | None:
    """Return the configuration of a run as dotted keys and values; None if it was not saved."""
    return flat(OmegaConf.to_container(run.load_config())) if run.has(run.config) else None


def environment_of(run: Run) -> Flat | None:
    """Return the environment of a run as dotted keys and values; None if it was not saved."""
    return flat(run.read_json(run.environment)) if run.has(run.environment) else None


def flat(node: Any, prefix: str = "") -> Flat:
    """Return nested mappings as one mapping: ``{"head": {"margin": 0.3}}`` gives ``{"head.margin": "0.3"}``."""
    if not isinstance(node, dict):
        return {prefix: "null" if node is None else str(node)}
    return {key: text for name, child in node.items() for key, text in flat(child, _dotted(prefix, name)).items()}


def common(settings: Sequence[Flat]) -> tuple[Flat, list[str]]:
    """Return the settings that are the same in all ``settings``, and the keys that differ."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    differing = [key for key in keys if len({one.get(key) for one in settings}) > 1]
    return {key: settings[0][key] for key in keys if key not in differing}, differing


def _dotted(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def _has_picture(run: Run, name: str) -> bool:
    return name in run.pictures and os.path.lexists(run.pictures[name])


def _is_directory(folder: object) -> bool:
    return isinstance(folder, str) and folder != "" and Path(folder).is_dir()
