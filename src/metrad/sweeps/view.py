"""The display of a running sweep: a live view on a terminal, plain lines elsewhere."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metrad.runs.directory import Run
from metrad.sweeps.plan import Ended
from metrad.sweeps.terminal import STDERR, STDOUT, Terminal, on_terminal
from metrad.terminal import printable

SHOWN = 8
REFRESH = 0.5  # seconds between two pictures of the live view


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
        self.terminal: Terminal | None = None
        self._stop = threading.Event()
        self._refreshing = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> Self:
        if self.todo and on_terminal():
            self.terminal = Terminal()
            self.live = Live(
                console=self.terminal,
                get_renderable=self.picture,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self.terminal.hold()
            self.live.start(refresh=True)
            self._refreshing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.terminal:
            self._stop.set()
            self._refreshing.join()
            self.live.stop()
            self.terminal.release()

    def _refresh(self) -> None:
        assert self.terminal is not None
        while not self._stop.wait(REFRESH):
            self.terminal.pass_on()
            with self.terminal.drawing:
                self.live.refresh()

    def report(self, ended: Ended) -> None:
        """Print how a run ended: to stdout if it finished, else to stderr with the path of its log."""
        self.ended[ended.run.path] = ended.state
        count = f"{self.skipped + len(self.ended)}/{self.total}"
        if ended.state == "finished":
            self._print(f"{count} {ended.run.path.name}: {ended.text}", STDOUT)
        else:
            where = f"log: {_relative(ended.run.log)}" if ended.run.log.exists() else ended.run.path.name
            self._print(f"{count} {ended.state}: {ended.text}; {where}", STDERR)

    def _print(self, line: str, descriptor: int) -> None:
        line = printable(line)
        if self.terminal and descriptor in self.terminal.held:
            with self.terminal.drawing:
                self.terminal.pass_on(unfinished=True)
                self.terminal.say(Text(line))
        else:
            typer.echo(line, err=descriptor == STDERR)

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
