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
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from metrad.app import group_option
from metrad.data.decoding import Reading, size_in_header
from metrad.data.groups import AUTO
from metrad.data.listing import image_files
from metrad.data.sources import listed
from metrad.data.walking import readable
from metrad.detector.core import Detector
from metrad.detector.verdicts import Verdicts, takes_good_parts, threshold
from metrad.errors import INTERRUPTED, InputError
from metrad.evaluation.conformal import Calibration, alarms, calibration_groups_needed, largest_by_group
from metrad.progress import bar
from metrad.quoting import argument
from metrad.reports.verdicts import page, resume, tables
from metrad.reports.verdicts.images import Images
from metrad.reports.verdicts.parts import OPTION, Parts, PartScores, calibration_of_parts, require_views
from metrad.reports.verdicts.pictures import Pictures
from metrad.reports.verdicts.places import below, common_folder, require_fresh
from metrad.reports.verdicts.rows import ANOMALOUS, ERROR, NORMAL, Row
from metrad.reports.verdicts.sorting import Sorted
from metrad.reports.verdicts.summary import Promise, Tally
from metrad.terminal import printable

log = logging.getLogger("metrad")

RATE = 0.05  # false-alarm rate if none is asked for
STDIN = "-"
_CUT_OFF = 141  # exit code of a process that SIGPIPE ends, in a shell
_BATCH = 64  # images scored at a time
_SIMPLE_RATES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Request:
    """What ``metrad predict`` is asked.

    Attributes:
        run: directory of a run, or folder of a saved detector.
        images: files, folders and patterns; ``-`` stands for paths on standard input.
        rate: share of good images that may be flagged.
        confidence: probability with which the threshold keeps the rate; None to keep it on average.
        out: file for the table; None for standard output.
        pictures: folder for a picture of each image; None for none.
        sort: folder for a folder of each verdict; None for none.
        pattern: shell pattern of the names of images in folders; None for that of the detector.
        copy: sort copies and not links.
        html: file for the page of the batch; None for none.
        good: folder of the good images, if it is not where it was; None if it is.
        group: which images show one part, as for ``group_option.read``; None for a part an image.
        resume: go on with the rows of ``out``.
        device: device to embed images on, such as ``cpu`` or ``cuda``.
        bits: bits of the range of images of more than 8 bits; None as for ``Detector.score``.
    """

    run: Path
    images: Sequence[str]
    rate: float = RATE
    confidence: float | None = None
    out: Path | None = None
    pictures: Path | None = None
    sort: Path | None = None
    pattern: str | None = None
    copy: bool = False
    html: Path | None = None
    good: Path | None = None
    group: str | None = None
    resume: bool = False
    device: str = "cpu"
    bits: int | None = None

    @property
    def folders(self) -> list[Path]:
        """Folders that pictures and links are written into."""
        return [each for each in (self.pictures, self.sort, self.html and page.folder(self.html)) if each]


class Sink(Protocol):
    """Takes the rows of a call, batch by batch."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take ``rows``."""

    def close(self) -> None:
        """Complete what was made of the rows."""


def predict_or_stop(request: Request) -> Tally:
    """Do what the command is asked, and end the process without a traceback if it is stopped.

    Raises:
        InputError: as for ``predict``, or standard input lists no paths.
        SystemExit: the user stopped it, or the program that reads standard output ended.
    """
    try:
        return predict(request, paths_of(sys.stdin.buffer.read()) if STDIN in request.images else ())
    except KeyboardInterrupt:
        advice = f"; add --resume to go on with {request.out}" if request.out else ""
        log.info("stopped by Ctrl-C%s", advice)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # as of: metrad predict RUN photos | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        raise SystemExit(_CUT_OFF) from None


def paths_of(listed: bytes) -> list[str]:
    """Return the paths that another program listed, one a line, or each ended by a zero byte as by find -print0."""
    separator = b"\0" if b"\0" in listed else b"\n"
    return [os.fsdecode(path.removesuffix(b"\r")) for path in listed.split(separator) if path.strip()]


def predict(request: Request, streamed: Iterable[str] = ()) -> Tally:
    """Score images and write what was asked for; the table goes to standard output if there is no file for it.

    Args:
        request: what was asked.
        streamed: paths that standard input lists, if ``-`` is among the images.

    Raises:
        InputError: an option cannot be used, there are no images, or the detector cannot promise the rate. No image has
            been read then, and nothing has been written.
    """
    _require_usable(request)
    detector = Detector.load(request.run)  # its device is set later: checking that takes torch, and refusals do not
    promise = replace(_promise(detector.calibration, request), ungrouped=detector.ungrouped_views)
    paths = _listed(request, detector, streamed)
    return _Call(
        request, detector, promise, Batch({readable(path): path for path in paths}, common_folder(paths))
    ).run()


def _listed(request: Request, detector: Detector, streamed: Iterable[str]) -> list[str]:
    """Return the images that were asked for, without those in folders that this call writes."""
    patterns = (request.pattern,) if request.pattern else detector.kept.patterns if detector.kept else None
    found = image_files([item for item in request.images if item != STDIN], streamed, patterns=patterns)
    if found.left_out:
        wanted = f"their names do not match {', '.join(patterns)}" if patterns else "they are no images"
        log.info("left out %s: %s", listed(found.left_out), wanted)
    own = tuple(os.path.join(os.path.abspath(folder), "") for folder in request.folders)  # noqa: PTH100, PTH118
    return [path for path in found.paths if not os.path.abspath(path).startswith(own)] if own else found.paths  # noqa: PTH100


@dataclass(frozen=True)
class Batch:
    """The images of a call.

    Attributes:
        paths: path of each image by its name.
        common: folder that all images lie below.
    """

    paths: dict[str, str]
    common: str

    def parts(self, group: str, reading: Reading) -> Parts:
        """Return the parts of the images; ``group`` is as in ``Request``, ``reading`` how files are read."""
        paths = list(self.paths.values())
        relative = [readable(below(path, self.common)).replace(os.sep, "/") for path in paths]
        return Parts.by(
            group_option.pattern(group),
            list(self.paths),
            relative,
            size_of=lambda position: size_in_header(Path(paths[position]), reading),
        )


class _Call:
    """One call of the command, after everything was checked that can be before an image is read."""

    def __init__(self, request: Request, detector: Detector, promise: Promise, batch: Batch) -> None:
        self.request, self.detector, self.promise, self.batch = request, detector, promise, batch
        self.tally = Tally()
        self.page: page.Page | None = None
        self.parts = None if request.group is None else batch.parts(request.group, Images.of(detector).reading)
        self.of_parts: Promise | None = None
        self.part_scores: PartScores | None = None
        if self.parts is not None:
            warning = require_views(detector.calibration, self.parts)
            log.info("%s: %s", OPTION, self.parts.described())
            if warning:
                log.warning("--group: %s", warning)
            largest = calibration_of_parts(detector.calibration)
            self.of_parts = _promise(Calibration(largest), request)
            self.part_scores = PartScores(self.parts, largest, self.of_parts.threshold)

    def run(self) -> Tally:
        """Score the images that have no row yet, and complete all that was asked for."""
        kept = self._kept()
        self.detector.use_device(self.request.device)
        rows = self._rows([name for name in self.batch.paths if name not in kept])
        with ExitStack() as stack:
            sinks = self._sinks()
            for sink in sinks:
                stack.callback(sink.close)
            self._add_kept()
            table = self._table()
            if table:
                stack.push(lambda kind, error, trace: table.close(whole=kind is None))
            started = time.perf_counter()
            while some := list(islice(rows, _BATCH)):
                self._add(some, [*sinks, *([table] if table else [])])  # the table last: its rows say the rest is done
            self.tally.seconds = time.perf_counter() - started
        self._finish()
        return self.tally

    @cached_property
    def made_with(self) -> dict[str, object]:
        """What the table is made with; one that was made with anything else cannot be gone on with."""
        files = self.detector.loaded_from.files if self.detector.loaded_from else {}
        return {
            "detector": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
            "rate": self.promise.rate,
            "confidence": self.promise.confidence,
            "threshold": self.promise.threshold,
            "group": self.request.group,
            "bits": self.request.bits,
            "columns": list(tables.columns(grouped=self.parts is not None)),
        }

    def _kept(self) -> set[str]:
        """Return the images whose rows are kept from the table of before."""
        if self.request.out is None or not self.request.resume or resume.there(self.request.out) is None:
            return set()
        resume.require_same(self.request.out, self.made_with)
        return {row.image for row in self._rows_before()}

    def _rows_before(self) -> Iterator[Row]:
        """Yield the rows of the table of before, each image once; errors of images of this call are tried again."""
        there = resume.there(self.request.out) if self.request.out and self.request.resume else None
        seen: set[str] = set()
        for row in tables.read_rows(there) if there else ():
            again = row.verdict == ERROR and row.image in self.batch.paths
            if not again and row.image not in seen:
                seen.add(row.image)
                yield row

    def _add_kept(self) -> None:
        """Count the rows that are kept, and add them to the page; rows of images of other calls only stay."""
        rows = (row for row in self._rows_before() if row.image in self.batch.paths)
        while some := list(islice(rows, _BATCH)):
            self.tally.kept += len(some)
            self._add(some, [self.page] if self.page else [])

    def _sinks(self) -> list[Sink]:
        """Return what takes the rows besides the table."""
        request, paths, common = self.request, self.batch.paths, self.batch.common
        images = Images.of(self.detector, request.good, request.bits)
        sinks: list[Sink] = []
        if request.pictures:
            sinks.append(Pictures(request.pictures, images, paths, common))
        if request.sort:
            sinks.append(Sorted(request.sort, paths, common, copies=request.copy))
        if request.html:
            self.page = page.Page(request.html, images, paths)
            sinks.append(self.page)
        return sinks

    def _table(self) -> tables.Table | None:
        """Open the table of images; None if standard output takes that of parts instead."""
        out, grouped = self.request.out, self.parts is not None
        if out is None:
            if grouped:
                return None
            return tables.Aligned(sys.stdout) if sys.stdout.isatty() else tables.Lines(sys.stdout, tables.CSV)
        there = resume.there(out) if self.request.resume else None
        if there is None:
            resume.begin(out, self.made_with)
        return tables.FileTable(out, grouped=grouped, kept=self._rows_before() if there else None)

    def _rows(self, names: Sequence[str]) -> Iterator[Row]:
        """Return the row of each image in order, with a progress bar where rows do not go to the same terminal.

        Raises:
            InputError: the detector is too old to score images. No image has been read then.
        """
        missing = {name for name in names if not os.path.lexists(self.batch.paths[name])}
        there = (self.batch.paths[name] for name in names if name not in missing)
        batches = self.detector.stream(there, batch_size=_BATCH, bits=self.request.bits)
        scored = (row for verdicts in batches for row in self._of(verdicts))
        rows = self._in_order(names, missing, scored)
        if self.request.out is None and self.parts is None and sys.stdout.isatty():
            return rows
        return iter(bar(rows, "scoring", len(names), unit=" images"))

    def _in_order(self, names: Sequence[str], missing: set[str], scored: Iterator[Row]) -> Iterator[Row]:
        """Yield the scored rows with those of missing files, which are not given to the detector, between them."""
        for name in names:
            row = self._failed(name, "there is no such file") if name in missing else next(scored, None)
            if row is None or row.image != name:  # it was replaced by a folder, say
                raise InputError(f"{name} was removed or replaced while the images were read; call it again")
            yield row

    def _of(self, verdicts: Verdicts) -> Iterator[Row]:
        above = alarms(verdicts.scores, self.promise.threshold)
        for i, name in enumerate(verdicts.images):
            if verdicts.errors[i]:
                yield self._failed(name, verdicts.errors[i])
                continue
            yield Row(
                name,
                float(verdicts.scores[i]),
                float(verdicts.p_values[i]),
                ANOMALOUS if above[i] else NORMAL,
                verdicts.nearest[i],
                bool(verdicts.known[i]),
                group=self._group(name),
            )

    def _failed(self, name: str, error: str) -> Row:
        return Row(name, math.nan, math.nan, ERROR, error=printable(" ".join(error.split())), group=self._group(name))

    def _group(self, name: str) -> str:
        return self.parts.name_of(name) if self.parts else ""

    def _add(self, rows: Sequence[Row], sinks: Sequence[Sink | tables.Table]) -> None:
        for sink in sinks:
            sink.add(rows)
        self.tally.add(rows)
        if self.part_scores:
            for row in rows:
                self.part_scores.add(row.image, row.score)

    def _finish(self) -> None:
        """Write the verdicts on parts, the page and the last lines."""
        rows = self.part_scores.rows() if self.part_scores else None
        if rows is not None:
            self.tally.add_parts(rows)
            if self.request.out:
                tables.write_cells(of_parts(self.request.out), rows)
            else:
                tables.show_cells(rows, sys.stdout)
        lines = self.tally.lines(self.promise, self.of_parts)
        if self.page:
            title = f"{self.tally.images:,} images by {self.request.run.absolute().name}"
            heads = self.tally.heads(self.promise, self.of_parts)
            about = f"detector {self.request.run}; an image is flagged above a score of {self.promise.threshold:.4g}"
            if self.of_parts:
                about += f", a part above {self.of_parts.threshold:.4g}"
            self.page.finish(title, heads, [*(line for line in lines if line not in heads), about], rows)
        for line in lines:
            log.info("%s", line)


def of_parts(out: Path) -> Path:
    """Return the file for the table of parts beside that of images: ``tiles-groups.csv`` beside ``tiles.csv``."""
    return out.with_name(f"{out.stem}-groups{out.suffix}")


def _require_usable(request: Request) -> None:
    """Raise ``InputError`` if an option cannot be used, or would overwrite something."""
    for option, value in (("--rate", request.rate), ("--confidence", request.confidence)):
        if value is not None and not 0 < value < 1:
            raise InputError(f"{option} must lie between 0 and 1, ends excluded, got {value:g}; 5 % is 0.05")
    if request.resume and request.out is None:
        raise InputError("--resume needs --out FILE, the table to go on with")
    if request.copy and request.sort is None:
        raise InputError("--copy needs --sort DIR, the folder that copies go into")
    _require_group(request.group)
    if request.good is not None and not request.good.is_dir():
        raise InputError(f"--good: no folder {request.good}")
    for option, path in (("--out", request.out), ("--html", request.html)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option}: no folder {path.parent} for {path.name}; make it first")
    if request.html:
        page.require_name(request.html)
    if request.out:
        tables.require_kind(request.out)
        if not request.resume:
            resume.require_new(request.out)
    fresh = [("--pictures", request.pictures), ("--sort", request.sort), ("--html", request.html)]
    fresh += [("--html", page.folder(request.html))] if request.html else []
    fresh += [("--group", of_parts(request.out))] if request.out and request.group else []
    for option, path in fresh:
        if path is not None:
            require_fresh(option, path, resume=request.resume)


def _require_group(group: str | None) -> None:
    """Raise ``InputError`` if the value of ``--group`` cannot be read, or asks to find groups."""
    if group == AUTO:
        raise InputError(
            "--group auto is for metrad fit alone: metrad predict finds no groups, since one wrong part would change a "
            rf"verdict; write parent, a pattern such as '(?P<part>\w+)_\d+', or {argument(group_option.FORM)}"
        )
    if group is not None:
        group_option.pattern(group)


def _promise(calibration: Calibration, request: Request) -> Promise:
    """Return the threshold that was asked for, and what it promises.

    Raises:
        InputError: there are too few calibration images or groups; the line says which rate they suffice for.
    """
    groups = len(largest_by_group(calibration.scores, calibration.groups))
    needed = calibration_groups_needed(request.rate, request.confidence)
    if groups < needed:
        counted = "images" if calibration.groups is None else "groups of images"
        kept = "" if request.confidence is None else f" with --confidence {request.confidence:g}"
        raise InputError(
            f"--rate {request.rate:g}{kept} needs {needed} calibration {counted}, and the detector of {request.run} "
            f"has {groups}; {_possible(groups, request)}"
        )
    sizes = np.ones(1) if calibration.groups is None else np.unique(calibration.groups, return_counts=True)[1]
    value = threshold(calibration, request.rate, request.confidence)
    return Promise(request.rate, request.confidence, value, calibration.scores if sizes.max() == 1 else None)


def _possible(groups: int, request: Request) -> str:
    """Return in words which rate ``groups`` calibration groups suffice for, and what the rate asked for takes."""
    takes = takes_good_parts(request.rate, request.confidence)
    rates = [rate for rate in _SIMPLE_RATES if calibration_groups_needed(rate, request.confidence) <= groups]
    return f"--rate {rates[0]:g} can be promised, or {takes}" if rates else takes
