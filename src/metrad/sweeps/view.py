"""The display of a running sweep: a live view on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metrad.runs.directory import Run
from metrad.sweeps.plan import Ended
from metrad.terminal import printable

SHOWN = 8


class View:
    """Prints how each run ended, and shows the progress of the running runs and the remaining time.

    Args:
        runs: all runs of the sweep.
        todo: the runs that are made now.
    """

    def __init__(self, runs: Sequence[Run], todo: Sequence[Run]) -> None:
        self.todo = list(todo)
        self.total = len(runs)
        self.skipped = len(runs) - len(todo)
        self.ended: dict[Path, str] = {}
        self.start = time.monotonic()
        console = Console()
        self.live = Live(get_renderable=self.picture, console=console, refresh_per_second=2, transient=True)
        self.shown = console.is_terminal and bool(todo)

    def __enter__(self) -> Self:
        if self.shown:
            self.live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            self.live.stop()

    def report(self, ended: Ended) -> None:
        """Print how a run ended: to stdout if it finished, else to stderr with the path of its log."""
        self.ended[ended.run.path] = ended.state
        count = f"{self.skipped + len(self.ended)}/{self.total}"
        if ended.state == "finished":
            typer.echo(printable(f"{count} {ended.run.path.name}: {ended.text}"))
        else:
            where = f"log: {_relative(ended.run.log)}" if ended.run.log.exists() else ended.run.path.name
            typer.echo(printable(f"{count} {ended.state}: {ended.text}; {where}"), err=True)

    def picture(self) -> Group:
        """Return the live view at this moment."""
        open_runs = [run for run in self.todo if run.path not in self.ended]
        noted = {run: run.noted() for run in open_runs}
        running = {run: status for run, status in noted.items() if status.get("state") == "running"}
        shares = {run: _share(status) for run, status in running.items()}
        ended = Counter(self.ended.values())
        words = [
            f"{ended['finished']} finished",
            f"{len(running)} running",
            f"{ended['failed']} failed",
            f"{self.skipped} skipped",
            *([f"{ended['interrupted']} interrupted"] if ended["interrupted"] else []),
            *([f"{ended['running']} of another process"] if ended["running"] else []),
        ]
        left = self.time_left(sum(shares.values()))
        head = Text("  ".join([*words, *([f"{left} left"] if left else [])]))
        table = Table.grid(padding=(0, 2))
        for run, status in list(running.items())[:SHOWN]:
            table.add_row(Text(printable(run.path.name)), _progress(status))
        bar = ProgressBar(self.total, self.skipped + len(self.ended) + sum(shares.values()), width=20)
        header = Table.grid(padding=(0, 2))
        header.add_row(bar, head)
        return Group(header, table)

    def time_left(self, begun: float) -> str:
        """Return the estimated time that the remaining runs take; empty before the first run ended.

        Args:
            begun: sum of the finished shares of the running runs.
        """
        done = len(self.ended) + begun
        if not self.ended:
            return ""
        seconds = (time.monotonic() - self.start) / done * (len(self.todo) - done)
        return str(timedelta(seconds=round(seconds)))


def _share(status: Mapping[str, Any]) -> float:
    """Return the finished share of a run, 0 to 1: its epochs, and the trainings of its selection."""
    begun = status.get("epoch", 0) / (status.get("epochs") or 1)
    return float((status.get("training", 0) + begun) / status.get("trainings", 1))


def _progress(status: Mapping[str, Any]) -> str:
    if "epoch" in status:
        return f"epoch {status['epoch']}/{status['epochs']}"
    if status.get("training", 0) + 1 < status.get("trainings", 1):
        return f"choosing: training {status['training'] + 1}/{status['trainings'] - 1}"
    return "getting ready"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
