"""The command ``metrad predict``: the verdicts of a detector on images, as a table, pictures, folders and a page."""

import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from metrad.data.listing import image_files
from metrad.errors import InputError
from metrad.evaluation.conformal import (
    Calibration,
    alarms,
    calibration_groups_needed,
    confident_threshold,
    conformal_threshold,
    largest_by_group,
)
from metrad.evaluation.foreseen import most_false_alarms
from metrad.progress import bar
from metrad.quoting import argument
from metrad.reports.verdicts import page, resume, tables
from metrad.reports.verdicts.images import Images
from metrad.reports.verdicts.page import Page
from metrad.reports.verdicts.parts import PartScores, Parts, calibration_of_parts, require_views
from metrad.reports.verdicts.pictures import Pictures
from metrad.reports.verdicts.places import below, common_folder, require_fresh
from metrad.reports.verdicts.rows import ANOMALOUS, ERROR, NORMAL, Cells, Row, readable
from metrad.reports.verdicts.sorting import Sorted
from metrad.terminal import printable

if TYPE_CHECKING:
    from metrad.detector.core import Detector
    from metrad.detector.verdicts import Verdicts

log = logging.getLogger("metrad")

RATE = 0.05  # false-alarm rate if none is asked for
_BATCH = 64  # images scored at a time
_PROBABILITY = 0.95  # of the foreseen number of false alarms, if no confidence is asked for
_SIMPLE_RATES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Request:
    """What ``metrad predict`` was asked.

    Attributes:
        run: directory of a run, or folder of a saved detector.
        images: files, folders and patterns; ``-`` stands for names on standard input.
        rate: share of good images that may be flagged; None for ``RATE``.
        confidence: probability with which the threshold keeps the rate; None to keep it on average.
        out: file for the table; None for standard output.
        pictures: folder for a picture of each image; None for none.
        sort: folder for a folder of each verdict; None for none.
        copy: sort copies and not links.
        html: file for the page of the batch; None for none.
        good: folder of the good images, if it is not where it was.
        group: which images show one part; None for a part an image.
        resume: go on with the rows of ``out``.
        device: device to compute on; None for the best there is.
    """

    run: Path
    images: Sequence[str]
    rate: float | None = None
    confidence: float | None = None
    out: Path | None = None
    pictures: Path | None = None
    sort: Path | None = None
    copy: bool = False
    html: Path | None = None
    good: Path | None = None
    group: str | None = None
    resume: bool = False
    device: str | None = None

    @property
    def promised(self) -> str:
        """The promise in words, such as "rate 0.05"."""
        confidence = "" if self.confidence is None else f" with confidence {self.confidence:g}"
        return f"rate {RATE if self.rate is None else self.rate:g}{confidence}"


@dataclass
class Tally:
    """Counts of the images of a call.

    Attributes:
        images: number of images with a verdict or an error, those kept from an earlier call included.
        kept: number of images kept from an earlier call.
        errors: number of images that could not be scored.
        flagged: number of anomalous images.
        fitted_on: number of images that the detector was fitted on.
        parts: number of parts by verdict; empty without groups.
        seconds: time that scoring took.
    """

    images: int = 0
    kept: int = 0
    errors: int = 0
    flagged: int = 0
    fitted_on: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, rows: Sequence[Row]) -> None:
        """Count ``rows``."""
        self.images += len(rows)
        self.errors += sum(row.verdict == ERROR for row in rows)
        self.flagged += sum(row.verdict == ANOMALOUS for row in rows)
        self.fitted_on += sum(row.fitted_on for row in rows)

    @property
    def anything_flagged(self) -> bool:
        """Whether a part is anomalous, or an image if there are no parts."""
        return bool(self.parts.get(ANOMALOUS) if self.parts else self.flagged)


class Sink(Protocol):
    """Takes the rows of a call, batch by batch."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take ``rows``."""

    def close(self) -> None:
        """Complete what was made of the rows."""


def predict(request: Request, names: Iterable[str] = ()) -> Tally:
    """Score images and write what was asked for; the table goes to standard output if there is no file for it.

    Args:
        request: what was asked.
        names: paths that standard input lists, if ``-`` is among the images.

    Raises:
        InputError: the rate cannot be promised, an option cannot be used, or there are no images. Nothing has been
            read of any image then, and nothing written.
    """
    _require_usable(request)
    listed = image_files([item for item in request.images if item != "-"], names)
    paths = {readable(path): path for path in listed}
    common = common_folder(listed)
    parts = None
    if request.group is not None:
        parts = Parts.by(request.group, list(paths), [readable(below(path, common)) for path in listed])
    from metrad.detector.core import Detector

    detector = Detector.load(request.run, **({"device": request.device} if request.device else {}))
    return _Call(request, detector, paths, common, parts).run()


class _Call:
    """One call of the command: what it was asked, and what is known before the first image is read."""

    def __init__(
        self, request: Request, detector: "Detector", paths: dict[str, str], common: str, parts: Parts | None
    ) -> None:
        self.request, self.detector, self.paths, self.common, self.parts = request, detector, paths, common, parts
        self.rate = RATE if request.rate is None else request.rate
        self.threshold = promised_threshold(detector.calibration, self.rate, request.confidence)
        self.part_scores: PartScores | None = None
        if parts is not None:
            warning = require_views(detector.calibration, parts)
            if warning:
                log.warning("--group: %s", warning)
            largest = calibration_of_parts(detector.calibration)
            self.part_scores = PartScores(parts, largest, promised_threshold(Calibration(largest), self.rate, request.confidence))
        self.tally = Tally()

    def run(self) -> Tally:
        """Score the images that are not yet in the table, and complete all that was asked for."""
        with ExitStack() as stack:
            kept = self._kept()
            sinks = self._sinks(kept, stack)
            started = time.perf_counter()
            remaining = [name for name in self.paths if name not in kept]
            rows = bar(self._rows(remaining), "scoring", len(remaining)) if self.request.out else self._rows(remaining)
            todo = iter(rows)
            while batch := list(islice(todo, _BATCH)):
                self._add(batch, sinks)
            self.tally.seconds = time.perf_counter() - started
        self._finish()
        return self.tally

    @cached_property
    def made_with(self) -> dict[str, object]:
        """What the table is made with; a table that was made with anything else cannot be gone on with."""
        files = self.detector.loaded_from.files if self.detector.loaded_from else {}
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        return {
            "detector": digest,
            "rate": self.rate,
            "confidence": self.request.confidence,
            "threshold": self.threshold,
            "group": self.request.group,
            "columns": list(tables.columns(grouped=self.parts is not None)),
        }

    def _kept(self) -> set[str]:
        """Return the images whose rows are kept of the table of before; errors are tried again."""
        out = self.request.out
        if out is None or not self.request.resume or resume.there(out) is None:
            return set()
        resume.require_same(out, self.made_with)
        return {row.image for row in self._kept_rows()}

    def _kept_rows(self) -> Iterator[Row]:
        assert self.request.out is not None
        there = resume.there(self.request.out)
        seen: set[str] = set()
        for row in tables.read_rows(there) if there else ():
            if row.verdict != ERROR and row.image in self.paths and row.image not in seen:
                seen.add(row.image)
                yield row

    def _sinks(self, kept: set[str], stack: ExitStack) -> list[Sink]:
        """Open what takes the rows, the table last: a row in it says that all else has been written."""
        request = self.request
        sinks: list[Sink] = []
        root = request.good or _recorded_root(self.detector)
        images = Images(self.detector.decoding, root)
        if request.pictures:
            sinks.append(Pictures(request.pictures, images, self.paths, self.common))
        if request.sort:
            sinks.append(Sorted(request.sort, self.paths, self.common, copies=request.copy))
        self.page = Page(request.html, images, self.paths) if request.html else None
        if self.page:
            sinks.append(self.page)
        for sink in sinks:
            stack.callback(sink.close)
        if kept:
            earlier = self._kept_rows()
            while batch := list(islice(earlier, _BATCH)):
                self.tally.kept += len(batch)
                self._add(batch, [self.page] if self.page else [])
        table = self._table(kept)
        if table:
            sinks.append(table)
            stack.push(lambda kind, error, trace: table.close() if kind is None else None)
        return sinks

    def _table(self, kept: set[str]) -> tables.Table | None:
        out, grouped = self.request.out, self.parts is not None
        if out is not None:
            if not kept:
                resume.begin(out, self.made_with)
            there = resume.there(out)
            return tables.FileTable(out, grouped=grouped, kept=self._kept_rows() if there else None)
        if grouped:
            return None  # standard output has the parts
        return tables.Aligned(sys.stdout) if sys.stdout.isatty() else tables.Lines(sys.stdout, tables.CSV)

    def _rows(self, names: Sequence[str]) -> Iterator[Row]:
        """Yield the row of each image in order; a file that does not exist is not given to the detector."""
        there = (name for name in names if os.path.lexists(self.paths[name]))
        scored = iter(self._scored(there))
        expected = {name for name in names if not os.path.lexists(self.paths[name])}
        for name in names:
            if name in expected:
                yield self._failed(name, "there is no such file")
            else:
                yield next(scored)

    def _scored(self, names: Iterable[str]) -> Iterator[Row]:
        for verdicts in self.detector.stream((self.paths[name] for name in names), batch_size=_BATCH):
            yield from self._of(verdicts)

    def _of(self, verdicts: "Verdicts") -> Iterator[Row]:
        above = alarms(verdicts.scores, self.threshold)  # NaN is above nothing
        for i, name in enumerate(verdicts.images):
            if verdicts.errors[i]:
                yield self._failed(name, verdicts.errors[i])
                continue
            yield Row(
                name,
                float(verdicts.scores[i]),
                float(verdicts.p_values[i]),
                ANOMALOUS if above[i] else NORMAL,
                readable(verdicts.nearest[i]),
                bool(verdicts.known[i]),
                group=self._group(name),
            )

    def _failed(self, name: str, error: str) -> Row:
        return Row(name, math.nan, math.nan, ERROR, error=printable(" ".join(error.split())), group=self._group(name))

    def _group(self, name: str) -> str:
        return self.parts.name_of(name) if self.parts else ""

    def _add(self, rows: Sequence[Row], sinks: Sequence[Sink]) -> None:
        for sink in sinks:
            sink.add(rows)
        self.tally.add(rows)
        if self.part_scores:
            for row in rows:
                self.part_scores.add(row.image, row.score)

    def _finish(self) -> None:
        """Write the verdicts on parts and the page."""
        if self.part_scores:
            rows = self.part_scores.rows()
            self.tally.parts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (ANOMALOUS, NORMAL, ERROR)}
            _write_parts(rows, self.request.out)
        for line in self.lines():
            log.info(line)
        if self.page:
            self.page.finish(f"{self.tally.images} images by {self.request.run.name or self.request.run}", self.lines())

    def lines(self) -> list[str]:
        """Return what the call ends with: counts, and what of it is to be expected of good images."""
        ...


def _recorded_root(detector: "Detector") -> Path | None:
    root = detector.kept.root
    return Path(root) if root else None
