"""Sweeps: which runs are still to be made, and how they ended."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from metrad.runs.directory import Run
from metrad.runs.identity import identity
from metrad.training import progress

log = logging.getLogger("metrad")

# How a run stands before a sweep begins, and what is going to be done about it.
PLANNED = {
    "finished": "finished",
    "running": "being trained by another process",
    "interrupted": "interrupted, to go on",
    "failed": "failed, to be tried again",
    "new": "to begin",
    "other": "made with other settings",
}


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its number, its directory, and its configuration with Hydra's own."""

    number: int
    run: Run
    config: Any


@dataclass(frozen=True)
class Ended:
    """How a run ended: its state, and in one line its figures or the reason."""

    run: Run
    state: str
    text: str


@dataclass
class Sweep:
    """What the sweep of one command came to so far.

    Attributes:
        folder: its folder; None before it was started.
        runs: all its runs.
        failures: number of runs that failed in this command.
        stopped: no more runs are to be made, since one failed and ``sweep.fail_fast`` asks for that.
    """

    folder: Path | None = None
    runs: list[Run] = field(default_factory=list)
    failures: int = 0
    stopped: bool = False

    def unfinished(self) -> Counter[str]:
        """Return how many runs did not finish, by state."""
        return Counter(state for run in self.runs if (state := run.state) != "finished")

    def forget_unstarted(self) -> None:
        """Remove what Hydra wrote for the sweep if none of its runs started.

        Hydra writes ``multirun.yaml`` before it looks whether the runs' settings are any good.
        """
        if self.folder and not self.runs and not any(self.folder.glob("*/")):
            (self.folder / "multirun.yaml").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: not ours
                self.folder.rmdir()
            self.folder = None


@dataclass(frozen=True)
class SweepTask:
    """What Hydra calls to make a run. Hydra hands it to the launcher too, which finds the sweep in it.

    Attributes:
        sweep: what the sweep of this command came to so far.
        train: makes a run of a configuration; the launcher sends it to other processes, without ``sweep``.
    """

    sweep: Sweep
    train: Callable[[Any], Any]

    def __call__(self, cfg: Any) -> Any:
        """Make a run in this process."""
        return self.train(cfg)


def plan(sweep: Sweep, jobs: Sequence[Job]) -> list[Job]:
    """Log how many runs of a sweep are in which state, and return those that this process is to make."""
    states = [_state(job) for job in jobs]
    counts = Counter(states)
    told = ", ".join(f"{counts[state]} {words}" for state, words in PLANNED.items() if counts[state])
    log.info("sweep of %d runs in %s: %s", len(jobs), sweep.folder, told)
    sweep.runs += [job.run for job in jobs]
    return [job for job, state in zip(jobs, states, strict=True) if state not in ("finished", "running")]


def _state(job: Job) -> str:
    state = job.run.state
    if state != "finished":
        return state
    if job.run.figures() is None:  # lost or broken
        return "interrupted"
    try:
        return state if job.run.noted().get("identity") == identity(job.config) else "other"
    except OmegaConfBaseException:  # the run's own check will tell
        return "new"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what runs log, and their progress bars, out of the terminal; their ``run.log`` gets all that they log."""
    logger = logging.getLogger("metrad")
    before, level = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        with progress.hidden():
            yield
    finally:
        logger.propagate = before
        logger.setLevel(level)
