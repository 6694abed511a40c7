"""Damaged run directories: the jobs that read a run, and checksums made anew after a change, as a forger would."""

import contextlib
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metrad.app.evaluate import evaluate_run
from metrad.errors import InputError
from metrad.files import read_json, sealed, sha256, unsealed, write_json
from metrad.reports.comparison.input import read_sweep
from metrad.reports.report import write_run_report
from metrad.runs import manifest
from metrad.runs.directory import Run
from metrad.training.checkpoints import read_checkpoint

TIMES = ("seconds", "images_per_second")
REFUSED = "refused"


def evaluated(run: Run) -> Any:
    """Return scores and metrics of an evaluation of ``run``."""
    folder, metrics = evaluate_run(run.path, [])
    scores = (folder / "scores.csv").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.parent.rmdir()
    return scores, {key: value for key, value in metrics.items() if key not in TIMES}


def reported(run: Run) -> Any:
    """Return the page of the report of ``run``."""
    page = write_run_report(run.path)
    text = page.read_text()
    page.unlink()
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text)  # when the page was made


def compared(run: Run) -> Any:
    """Return the table and the notes of the comparison of the sweep that ``run`` is in."""
    table = read_sweep(run.path.parent, "head")
    return table.runs.to_csv(), table.notes


def resumed(run: Run) -> Any:
    """Return what of its checkpoint training of ``run`` would go on from."""
    checkpoint = read_checkpoint(run.last_checkpoint)
    return str(sorted(checkpoint)), {key: value.tolist() for key, value in checkpoint["state_dict"].items()}


JOBS: dict[str, Callable[[Run], Any]] = {
    "evaluate": evaluated,
    "report": reported,
    "compare": compared,
    "resume": resumed,
}


def outcome(job: Callable[[Run], Any], run: Run, seconds: float = 20) -> Any:
    """Return the result of ``job``, or ``REFUSED``; any other error and a longer time are errors of the test."""
    with limited(seconds):
        try:
            return job(run)
        except InputError:
            return REFUSED


class TooLongError(BaseException):
    """A job took too long; no ``except Exception`` catches it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``TooLongError`` in the block after ``seconds``, also where it waits for the writer of a FIFO."""

    def stop(*_: object) -> None:
        raise TooLongError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    """Replace the content of a JSON file, sealed or not, by what ``change`` returns or makes of it."""
    content = read_json(path)
    seal = isinstance(content, dict) and content.pop("sha256", None)
    changed = change(content)
    content = content if changed is None else changed
    path.write_text(sealed(content) if seal else json.dumps(content))


def without_manifest(run: Run) -> None:
    """Give ``run`` the files that runs had before they had a manifest."""
    run.manifest.unlink()
    write_json(run.status, {key: value for key, value in read_json(run.status).items() if key != "manifest"})


def resealed(run: Run) -> None:
    """Make all checksums of ``run`` anew, so that only the contents can give a change away."""
    for path, also in (
        (run.model / "scorer.json", {}),
        (run.model / "detector.json", {"about": {"split": sha256(run.split)}}),
        (run.embeddings / "checksums.json", {"embedder": sha256(run.embedder)}),
    ):
        with contextlib.suppress(InputError):
            record = unsealed(path)
            listed = {name: sha256(path.parent / name) for name in record["files"]}
            if isinstance(record.get("about", {}), dict):
                record |= also
            path.write_text(sealed({**record, "files": listed}))
    there = [run.path / name for name in manifest.listed(run.manifest)]
    manifest.write(run.manifest, [path for path in there if path.is_file()], {})
