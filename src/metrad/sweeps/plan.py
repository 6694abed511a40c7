"""Sweeps: which runs are still to be made, and how they ended."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf.errors import OmegaConfBaseException

from metrad.runs.directory import Run
from metrad.runs.identity import identity

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
    """What the sweep of this command came to so far.

    Attributes:
        folder: its folder; None before one was started.
        runs: all its runs.
        failures: how many runs failed in this command.
        stopped: no more runs are to be made, since one failed and ``sweep.fail_fast`` asks for that.
    """

    folder: Path | None = None
    runs: list[Run] = field(default_factory=list)
    failures: int = 0
    stopped: bool = False

    def unfinished(self) -> Counter[str]:
        """Return how many runs did not finish, by state."""
        return Counter(state for run in self.runs if (state := run.state) != "finished")


current = Sweep()


class RememberFolder(Callback):
    """Remembers the folder of a sweep until it holds runs.

    Hydra writes ``multirun.yaml`` there before it looks whether the runs' settings are any good.
    """

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Note the folder of the sweep."""
        current.folder, current.runs = Path(config.hydra.sweep.dir), []


def forget_unstarted() -> None:
    """Remove what Hydra wrote for a sweep none of whose runs started."""
    if current.folder and not current.runs and not any(current.folder.glob("*/")):
        (current.folder / "multirun.yaml").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: not ours
            current.folder.rmdir()
        current.folder = None


def plan(jobs: Sequence[Job]) -> list[Job]:
    """Tell how many runs of a sweep stand how, and return those that this process is to make."""
    states = [_state(job) for job in jobs]
    counts = Counter(states)
    told = ", ".join(f"{counts[state]} {words}" for state, words in PLANNED.items() if counts[state])
    log.info("sweep of %d runs in %s: %s", len(jobs), current.folder, told)
    current.runs += [job.run for job in jobs]
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
    """Keep what runs log out of the terminal; their ``run.log`` gets it all."""
    logger = logging.getLogger("metrad")
    before, level = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.propagate = before
        logger.setLevel(level)
