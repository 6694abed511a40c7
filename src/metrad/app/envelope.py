"""The command ``metrad envelope``: a run's false alarms on its calibration images under changes of the photograph."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrad.app.evaluate import CHANGEABLE, changed_config, restored_data
from metrad.app.messages import relative
from metrad.data.arrays import resize
from metrad.data.changes import CHANGES, versions
from metrad.data.decoding import Decoded
from metrad.data.prepared import PreparedData
from metrad.detector.core import Detector
from metrad.errors import InputError
from metrad.evaluation.envelope import envelope
from metrad.progress import bar
from metrad.reports.envelope import DOUBLED, UNCHANGED, counted, doubled_rows, step_rows
from metrad.runs import outputs
from metrad.runs.artifacts import load_detector
from metrad.runs.config import stored
from metrad.runs.directory import Run
from metrad.sweeps.table import table_text
from metrad.threads import in_threads

_AHEAD = 4  # images changed ahead of the one that is scored; bounds the memory
_NOT_OF_DATA = ("scorer", "evaluation")


def write_envelope(path: Path, overrides: list[str], *, seed: int = 0, device: str = "cpu") -> str:
    """Write ``envelope.json`` and ``envelope.png`` into the run at ``path``; return what ``metrad envelope`` prints.

    Args:
        path: directory of a finished run.
        overrides: ``key=value`` that say where the run's images are now, such as ``dataset.source.root=parts``.
        seed: seed of noise and of the directions of shifts and turns.
        device: device to embed images on.

    Raises:
        InputError: the run has not finished or has no threshold, its images are gone or have changed, or an argument
            cannot be used.
    """
    if seed < 0:
        raise InputError(f"--seed must be at least 0, got {seed}")
    _require_of_data(overrides)
    run = Run.finished(path)
    metrics = run.measured()
    thresholds = [*metrics.get("thresholds", []), *metrics.get("confident_thresholds", [])]
    if not thresholds:
        raise InputError(
            f"{path} has no threshold, whose false alarms an envelope shows: it has too few calibration images; "
            "train it with more, as metrad plan tells how many"
        )
    cfg = changed_config(run, overrides)
    detector, split = load_detector(run, cfg.allow_targets), run.saved_split()
    detector.use_device(device)
    data = restored_data(run, stored.confined(cfg, overrides), detector, split)
    found = envelope(
        changed_scores(detector, data, seed),
        CHANGES,
        detector.calibration,
        groups=None if data.groups is None else data.groups["calibration"],
        thresholds=thresholds,
        level=(metrics.get("intervals") or {}).get("level", 0.95),
    )
    content = {"seed": seed, **found}
    run.add({**outputs.drawn(run, "envelope", content), run.envelope: content})
    return "\n".join([*_lines(content), f"written: {relative(run.path)}/ (envelope.json, envelope.png)"])


def _require_of_data(overrides: Sequence[str]) -> None:
    for item in overrides:
        key = item.partition("=")[0]
        if any(key == part or key.startswith(f"{part}.") for part in _NOT_OF_DATA):
            allowed = ", ".join(key for key in CHANGEABLE if key not in _NOT_OF_DATA)
            raise InputError(
                f"{key} cannot change here, since an envelope is about the run's own detector and thresholds; "
                f"allowed: {allowed}"
            )


def changed_scores(detector: Detector, data: PreparedData, seed: int) -> np.ndarray:
    """Return the scores of the calibration images after each step of each of ``CHANGES``, (N, steps).

    Each image is changed as it was photographed, and then made smaller as the run's images were. So an image file with
    these changes has the same score.

    Raises:
        InputError: an image cannot be read or has changed, or the detector cannot score it.
    """
    if detector.kept is None:  # an earlier version did not record it
        detector.kept = data.kept
    indices = data.split.indices["calibration"]
    count = sum(len(change.strengths) for change in CHANGES)
    batches = detector.stream(_changed(data, indices, seed), batch_size=count)
    found: list[np.ndarray] = []
    for verdicts in bar(batches, "scoring changed images", len(indices), unit=" images"):
        wrong = next((error for error in verdicts.errors if error), None)
        if wrong:
            raise InputError(f"{data.image_set.names[indices[len(found)]]} {wrong}")
        found.append(verdicts.scores)
    return np.stack(found)


def _changed(data: PreparedData, indices: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield all versions of one image after another, at the size that the run's images are kept at."""
    kept = data.kept

    def work(image: Decoded) -> list[np.ndarray]:
        made = versions(image.pixels, [seed, *np.frombuffer(image.digest, "<u4").tolist()], CHANGES)
        return [resize(pixels, (kept.height, kept.width)) for pixels in made]

    for made in in_threads(work, map(data.decoded, indices.tolist()), _AHEAD):
        yield from made


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield an envelope as text: a table of the steps, one of the doubled rates, and how to read them."""
    yield f"{counted(found)}\n"
    yield f"{table_text(step_rows(found))}\n"
    yield f"{DOUBLED}\n"
    yield f"{table_text(doubled_rows(found))}\n"
    yield UNCHANGED
