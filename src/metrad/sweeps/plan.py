"""The plan of a sweep: which of its runs are still to be made, and how each run ended."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from metrad import progress
from metrad.errors import InputError
from metrad.runs.directory import REFUSED, Run
from metrad.runs.identity import identity
from metrad.runs.saved import made_by_metrad

log = logging.getLogger("metrad")

# The state of a run before a sweep begins, and the words for it in the log.
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
    """One run of a sweep: its number, its directory, and its configuration, which contains Hydra's."""

    number: int
    run: Run
    config: Any


@dataclass(frozen=True)
class Ended:
    """How a run ended: its state, and one line with its metrics or the reason."""

    run: Run
    state: str
    text: str


@dataclass
class Sweep:
    """The progress of the sweep of one command.

    Attributes:
        folder: the folder of the sweep; None before the sweep starts.
        runs: all runs of the sweep.
        failures: number of runs that failed in this command.
        stopped: whether no more runs are made, because a run failed and ``sweep.fail_fast`` is set.
    """

    folder: Path | None = None
    runs: list[Run] = field(default_factory=list)
    failures: int = 0
    stopped: bool = False

    def unfinished(self) -> Counter[str]:
        """Return the number of runs that did not finish, by state."""
        return Counter(state for run in self.runs if (state := run.state) != "finished")

    def all_refused(self) -> bool:
        """Return whether every run that did not finish was refused for its settings or images before training."""
        return all(run.noted().get(REFUSED) for run in self.runs if run.state != "finished")

    def forget_unstarted(self) -> None:
        """Remove the files that Hydra wrote for the sweep if none of its runs started.

        Hydra writes ``multirun.yaml`` before it checks the settings of the runs.
        """
        if self.folder and not self.runs and not any(self.folder.glob("*/")):
            (self.folder / "multirun.yaml").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: it holds other files
                self.folder.rmdir()
            self.folder = None


def require_own(folder: Path) -> None:
    """Raise ``InputError`` if a sweep would replace files in ``folder``, and nothing says that metrad wrote them."""
    config, table = folder / "multirun.yaml", folder / "runs.csv"
    taken = [path.name for path in (config, table) if os.path.lexists(path)]
    if taken and not made_by_metrad(config) and not any(folder.glob("*/status.json")):
        raise InputError(
            f"{folder} holds {' and '.join(taken)}, and nothing there says that metrad wrote them; choose another "
            "folder with sweep=NAME or hydra.sweep.dir, or move them away"
        )


@dataclass(frozen=True)
class SweepTask:
    """The function that Hydra calls to make a run. Hydra also passes it to the launcher, which reads the sweep from it.

    Attributes:
        sweep: the progress of the sweep of this command.
        train: makes the run of a configuration; the launcher sends it to other processes, without ``sweep``.
    """

    sweep: Sweep
    train: Callable[[Any], Any]

    def __call__(self, cfg: Any) -> Any:
        """Make a run in this process."""
        return self.train(cfg)


def require_runs(overrides: Sequence[Sequence[str]]) -> None:
    """Check that the values of a command stand for a run; ``overrides`` has those of each.

    Raises:
        InputError: they stand for none.
    """
    if not overrides:
        raise InputError(
            "the values of this sweep stand for no run, as where glob(…) fits no choice; metrad train --help lists the "
            "choices"
        )


def plan(sweep: Sweep, jobs: Sequence[Job]) -> list[Job]:
    """Log the number of runs in each state, and return the jobs of the runs that this process makes."""
    states = [_state(job) for job in jobs]
    counts = Counter(states)
    listed = ", ".join(f"{counts[state]} {words}" for state, words in PLANNED.items() if counts[state])
    log.info("sweep of %d runs in %s: %s", len(jobs), sweep.folder, listed)
    sweep.runs += [job.run for job in jobs]
    return [job for job, state in zip(jobs, states, strict=True) if state not in ("finished", "running")]


def _state(job: Job) -> str:
    state = job.run.state
    if state != "finished":
        return state
    if job.run.figures() is None:  # metrics.json is lost or broken
        return "interrupted"
    try:
        return state if job.run.noted().get("identity") == identity(job.config) else "other"
    except OmegaConfBaseException:  # the check of the run reports it
        return "new"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep log lines and progress bars of runs out of the terminal; each ``run.log`` gets all log lines of its run."""
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
