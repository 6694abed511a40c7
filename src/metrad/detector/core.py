"""The detector: embedder, fitted scorer and calibration scores, loaded from one folder and saved in one."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import safetensors.numpy

from metrad.data.decoding import DECODER_VERSION, Decoding, Kept
from metrad.data.ungrouped import UngroupedViews
from metrad.detector import bundle
from metrad.detector.bundle import Blueprint, Bundle
from metrad.detector.explanation import Explanation, Neighbour
from metrad.detector.located import bundle_folder
from metrad.detector.verdicts import Threshold, Verdicts, threshold
from metrad.errors import InputError, first_line
from metrad.evaluation.conformal import (
    DEFAULT_RATES,
    Calibration,
    calibration_groups_needed,
    conformal_p_values,
    largest_by_group,
)
from metrad.files import follow_umask, read_arrays, replacing
from metrad.scorers import HeadScorer, NeighbourScorer, Scorer

if TYPE_CHECKING:  # importing this file must not import torch
    from metrad.detector.images import Images
    from metrad.detector.scoring import Prepared
    from metrad.models.embedder import Embedder
    from metrad.models.heads import Head

BATCH = 64  # images decoded and scored together
CONFIDENCE = 0.95  # of the default thresholds
_UNGROUPED = "ungrouped_views"  # entry of the record
MOST_PIXELS = 2**14  # height and width of a kept image; a larger number in a record is a fault


class Backend(Protocol):
    """Provider of a detector's embedder and head."""

    @property
    def embedder(self) -> "Embedder":
        """The embedder, in evaluation mode."""

    @property
    def head(self) -> "Head":
        """The head that the embedder was trained with, in evaluation mode."""


class Detector:
    """An embedder, a fitted scorer, the calibration scores, and the names of the normal images.

    Several threads may use one detector, or several, at once; the scores do not depend on it.

    Args:
        blueprint: settings of the parts.
        backend: provides the embedder and the head.
        make_scorer: returns the fitted scorer; called once, at the first use of ``scorer``.
        calibration: scores of the calibration images in ascending order, and their groups.
        normal_images: names of the normal images, in the order of the scorer's index.
        precision: precision of the embeddings, named as in Lightning.
        loaded_from: bundle that the detector was loaded from; None after training.

    Attributes:
        decoding: how the images were decoded, which images to come must share; older runs used version 1.
        kept: how the images were kept after decoding, which images to come must share; None for an older detector.
        fitted_digests: keys of the contents of the reference, normal and calibration images, (K, 16) uint8; None for
            an older detector, which does not record them.
        ungrouped_views: a record that images without groups seem to show one part several times, so that thresholds
            do not hold for new parts; None if they have groups or seem to show one part each, and for an older
            detector.
        device: device that images are embedded on, such as ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        backend: Backend,
        make_scorer: Callable[[], Scorer],
        *,
        calibration: Calibration,
        normal_images: list[str],
        precision: str = "32-true",
        loaded_from: Bundle | None = None,
    ) -> None:
        about: Mapping[str, Any] = loaded_from.about if loaded_from else {}
        self.blueprint = blueprint
        self.backend = backend
        self.calibration = calibration
        self.normal_images = normal_images
        self.precision = precision
        self.decoding = Decoding(**about.get("decoding", {})) if loaded_from else Decoding(DECODER_VERSION)
        self.kept = _kept(about)
        self.fitted_digests = loaded_from.fitted_digests if loaded_from else None
        self.ungrouped_views = UngroupedViews.of(about.get(_UNGROUPED), f"{bundle.RECORD}: the entry {_UNGROUPED}")
        self.loaded_from = loaded_from
        self.device = "cpu"
        self._make_scorer = make_scorer
        self._building = threading.RLock()  # two threads build neither the scorer nor the embedder twice

    @property
    def scorer(self) -> Scorer:
        """The fitted scorer.

        Raises:
            InputError: the scorer's files do not fit its settings, or an old run does not record the settings.
        """
        with self._building:
            return self._scorer

    @cached_property
    def _scorer(self) -> Scorer:
        return self._make_scorer()

    @property
    def digest(self) -> str:
        """SHA-256 of the embedder's weights; empty if the detector was not loaded from a folder."""
        return self.loaded_from.files[bundle.EMBEDDER] if self.loaded_from else ""

    @property
    def root(self) -> Path | None:
        """Folder that the names of the normal images are relative to; None if they are no files, or unknown.

        It is the folder on the machine that trained. A bundle from elsewhere may name any folder, so open no file in it
        that the user did not name too.
        """
        return Path(self.kept.root) if self.kept and self.kept.root else None

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", allow: Sequence[str] = ()) -> Self:
        """Load a detector after checking each of its files against its checksum.

        Args:
            path: the folder of a finished run, its folder ``model``, or a folder written by ``save``.
            device: device to embed images on, such as ``cpu`` or ``cuda``.
            allow: packages, such as ``mine``, whose classes may be built besides metrad's own.

        Raises:
            InputError: there is no detector, a file is missing or has changed, or there is no such device.
        """
        detector = cls.of(bundle.unseal(bundle_folder(path)), allow)
        if device != "cpu":
            from metrad.detector.torch_backend import require_device

            require_device(device)
        detector.device = device
        return detector

    @classmethod
    def of(cls, opened: Bundle, allow: Sequence[str] = ()) -> Self:
        """Return the detector of an opened bundle; ``allow`` is as for ``load``."""
        from metrad.detector.torch_backend import TorchBackend

        backend = TorchBackend(opened, allow)
        return cls(
            opened.blueprint,
            backend,
            lambda: _load_scorer(opened, backend, allow),
            calibration=_calibration(opened.folder / bundle.CALIBRATION),
            normal_images=opened.normal_images,
            precision=opened.precision,
            loaded_from=opened,
        )

    def score(self, images: "Images", *, batch_size: int = BATCH) -> Verdicts:
        """Return the verdicts on images, one row an image in the order given.

        An image that cannot be read is a row with its error. A file and the array of its pixels have the same score, to
        the last bit, alone or among others.

        Args:
            images: a path, a folder with all images below it, a pattern such as ``parts/*.jpg``, a PIL image, an array
                (H, W), (H, W, C) or (N, H, W, C) of uint8 or uint16 with C of 1, 3 or 4, or a list or an iterator of
                these.
            batch_size: images decoded and scored together; bounds the memory.

        Raises:
            InputError: ``images`` is of another kind or stands for no image, or the detector is too old to score.
        """
        return Verdicts.joined(list(self.stream(images, batch_size=batch_size)), self.calibration)

    def stream(self, images: "Images", *, batch_size: int = BATCH) -> Iterator[Verdicts]:
        """Yield the verdicts on images batch by batch, in memory that does not grow with the number of images.

        Threads decode the next batches while the model works. An iterator is read at most three batches ahead of the
        verdicts, so ``batch_size=1`` suits images that come one at a time. The arguments and errors are those of
        ``score``.
        """
        from metrad.detector import scoring
        from metrad.detector.images import given

        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        kept = self._require_kept()
        found = given(images, scoring.reading_of(self.decoding, kept), kept.patterns)
        return self._judged_all(scoring.batches(found, self.decoding, kept, batch_size))

    def explain(self, image: "Images", *, count: int = 5) -> Explanation:
        """Return the score of one image and its nearest normal images.

        Args:
            image: a path, a PIL image or an array of one image.
            count: number of normal images; at most as many as there are.

        Raises:
            InputError: the image cannot be read, or there are several.
        """
        from metrad.detector import scoring
        from metrad.detector.images import given

        kept = self._require_kept()
        found = list(islice(given(image, scoring.reading_of(self.decoding, kept), kept.patterns), 2))
        if len(found) != 1:
            raise InputError("explain takes one image; for several, call it for each")
        one = scoring.prepared(found[0], self.decoding, kept)
        if one.error:
            raise InputError(f"{one.name} {one.error}")
        embedding = self._embed([one])
        verdicts, neighbours = self._verdicts([one], embedding), []
        if isinstance(self.scorer, NeighbourScorer):
            distances, positions = self.scorer.nearest(embedding, min(count, self.scorer.index_.ntotal))
            names = [self._normal_name(position) for position in positions[0].tolist()]
            neighbours = [Neighbour(*pair) for pair in zip(names, distances[0].tolist(), strict=True)]
        return Explanation(
            one.name, float(verdicts.scores[0]), float(verdicts.p_values[0]), bool(verdicts.known[0]), neighbours
        )

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """The thresholds that there are enough calibration images for, by name.

        They are those of the default rates, 0.01 and 0.05, on average and with confidence 0.95.
        """
        asked = [(rate, confidence) for confidence in (None, CONFIDENCE) for rate in DEFAULT_RATES]
        there = len(largest_by_group(self.calibration.scores, self.calibration.groups))
        found = [
            Threshold(rate, confidence, self.threshold(rate, confidence))
            for rate, confidence in asked
            if calibration_groups_needed(rate, confidence) <= there
        ]
        return {each.name: each for each in found}

    def threshold(self, rate: float, confidence: float | None = None) -> float:
        """Return the score above which an image is an alarm.

        Args:
            rate: share of normal images that may be alarms.
            confidence: probability with which the threshold keeps the rate; None for a threshold that keeps it on
                average over calibration sets.

        Raises:
            InputError: there are too few calibration images for the rate, or a number lies outside (0, 1).
        """
        return threshold(self.calibration, rate, confidence)

    def save(self, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """Write the detector into ``folder``, which must be empty or new; ``load`` reads it.

        Args:
            folder: the folder.
            about: further entries of the record.

        Raises:
            InputError: the folder is not empty.
        """
        folder = Path(folder)
        if folder.is_dir() and not any(folder.iterdir()):
            self._write(folder, about or {})
            return
        if os.path.lexists(folder):
            raise InputError(f"{folder} is there already and not an empty folder; choose another name")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder) as partial:
            partial.mkdir()
            self._write(partial, about or {})

    def _write(self, folder: Path, about: Mapping[str, Any]) -> None:
        from metrad.detector.torch_backend import save_weights

        save_weights(folder, self.backend.embedder, self.backend.head)
        self.scorer.save(folder)
        calibration = {"scores": self.calibration.scores}
        if self.calibration.groups is not None:
            calibration["groups"] = np.asarray(self.calibration.groups, dtype=np.int64)
        _save_arrays(calibration, folder / bundle.CALIBRATION)
        if self.fitted_digests is not None:
            _save_arrays({"digests": self.fitted_digests}, folder / bundle.FITTED)
        (folder / bundle.NORMAL).write_text(json.dumps(self.normal_images, ensure_ascii=False), encoding="utf-8")
        before = self.loaded_from.about if self.loaded_from else {}
        entries = {**before, "decoding": asdict(self.decoding), **about}
        if self.kept is not None:
            entries["kept"] = asdict(self.kept)
        if self.ungrouped_views is not None:
            entries[_UNGROUPED] = asdict(self.ungrouped_views)
        size = self.backend.head.num_classes
        bundle.seal(folder, self.blueprint, precision=self.precision, head_size=size, about=entries)

    def _require_kept(self) -> Kept:
        if self.kept is None:
            raise InputError(
                f"{self.loaded_from.folder if self.loaded_from else 'this detector'} does not record how its images "
                "were resized, as those of earlier versions do not; train it again, or write it anew with "
                "metrad.runs.artifacts.convert(RUN, FOLDER)"
            )
        return self.kept

    def _judged_all(self, batches: "Iterator[list[Prepared]]") -> Iterator[Verdicts]:
        for batch in batches:
            yield self._verdicts(batch, self._embed([one for one in batch if not one.error]))

    def _embed(self, images: "Sequence[Prepared]") -> np.ndarray:
        """Return the embeddings (n, D) of n images that have no error."""
        with self._building:
            embed = self._embedding
        return embed([one.pixels for one in images if one.pixels is not None])

    @cached_property
    def _embedding(self) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        from metrad.detector.torch_backend import embedding

        return embedding(self.backend.embedder, self.device, self.precision)

    def _verdicts(self, batch: "Sequence[Prepared]", embeddings: np.ndarray) -> Verdicts:
        """Return the verdicts on a batch; ``embeddings`` (n, D) are of its n images without an error."""
        whole = np.array([not one.error for one in batch], dtype=np.bool_)
        scores, p_values = np.full(len(batch), np.nan, np.float32), np.full(len(batch), np.nan)
        nearest = [""] * len(batch)
        if whole.any():
            scores[whole] = self.scorer.score(embeddings)
            if len(self.calibration.scores):
                known, groups = self.calibration.scores, self.calibration.groups
                p_values[whole] = conformal_p_values(known, scores[whole], groups)
            if self.scorer.has_neighbours:
                places = zip(np.flatnonzero(whole).tolist(), self.scorer.neighbours(embeddings).tolist(), strict=True)
                for row, position in places:
                    nearest[row] = self._normal_name(position)
        known_keys = self._fitted_keys
        return Verdicts(
            images=[one.name for one in batch],
            scores=scores,
            p_values=p_values,
            nearest=nearest,
            known=np.array([one.key in known_keys for one in batch], dtype=np.bool_),
            errors=[one.error for one in batch],
            calibration=self.calibration,
        )

    def _normal_name(self, position: int) -> str:
        return self.normal_images[position] if self.normal_images else ""

    @cached_property
    def _fitted_keys(self) -> frozenset[bytes]:
        return frozenset() if self.fitted_digests is None else frozenset(map(bytes, self.fitted_digests))


def _save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    safetensors.numpy.save_file(arrays, path)
    follow_umask(path)


def _kept(about: Mapping[str, Any]) -> Kept | None:
    """Return how the images were kept, from the record of a bundle; None if it does not say.

    Raises:
        InputError: the entry is damaged.
    """
    entry = about.get("kept")
    if entry is None:
        return None
    try:
        patterns = entry.get("patterns")
        kept = Kept(**{**entry, "patterns": None if patterns is None else tuple(patterns)})
    except (TypeError, AttributeError) as error:
        raise InputError(f"{bundle.RECORD}: the entry kept cannot be read ({first_line(error)})") from error
    sides = (kept.height, kept.width)
    whole = all(type(side) is int and 1 <= side <= MOST_PIXELS for side in sides)  # True is an int too
    sound = isinstance(kept.max_megapixels, int | float) and isinstance(kept.root, str | None)
    sound = sound and all(isinstance(pattern, str) for pattern in kept.patterns or ())
    if not (whole and sound and kept.channels in (1, 3) and isinstance(kept.as_arrays, bool)):
        raise InputError(f"{bundle.RECORD}: the entry kept has values out of range; create it again")
    return kept


def _calibration(path: Path) -> Calibration:
    arrays = read_arrays(path)
    scores, groups = arrays.get("scores", np.empty(0)), arrays.get("groups")
    if scores.ndim != 1 or scores.dtype.kind != "f" or not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
        raise InputError(f"{path} holds no finite scores in ascending order; create it again")
    if groups is not None and (groups.shape != scores.shape or groups.dtype.kind not in "iu"):
        raise InputError(f"{path} holds no group number for each score; create it again")
    return Calibration(scores, groups)


def _load_scorer(opened: Bundle, backend: Backend, allow: Sequence[str]) -> Scorer:
    """Return the fitted scorer of a bundle, with the head attached if it needs one."""
    settings = opened.blueprint.scorer
    if settings is None:
        raise InputError(f"{opened.folder} does not record the settings of its scorer; fit a new scorer")
    scorer: Scorer = bundle.build_part("scorer", settings, allow)
    scorer.load(opened.folder, verify=False)
    if isinstance(scorer, HeadScorer):
        scorer.attach(backend.head, scorer.fitted_classes)
    return scorer
