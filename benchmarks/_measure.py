"""What the benchmarks have in common: sides in turns, commands in processes of their own, tables."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

TRAIN = Path(__file__).parents[1] / "train.py"
Side = TypeVar("Side", bound=Hashable)
Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Ended:
    """What a command took.

    Attributes:
        seconds: from its start to its end.
        cpu: seconds that all of its processes computed.
        peak: resident memory of its largest process at most, in MB.
        said: its output.
    """

    seconds: float
    cpu: float
    peak: float
    said: str


def command(*arguments: object, watch: Callable[[int], None] | None = None) -> Ended:
    """Run a command to its end; if it fails, end this process with what it said.

    Args:
        arguments: of the command, its own name first.
        watch: called with the number of its process, to return when that has ended.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
        if watch is not None:
            watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)  # of this process alone, where getrusage has the most of all
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}:\n{said}")
    megabytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return Ended(seconds, usage.ru_utime + usage.ru_stime, megabytes, said)


def train(*overrides: object, watch: Callable[[int], None] | None = None) -> Ended:
    """Run ``python train.py`` with overrides."""
    return command(sys.executable, TRAIN, *overrides, watch=watch)


class Watch:
    """Notes the most memory that a process and all that it starts take together.

    Args:
        files: whether to count pages of files, such as those of the libraries.
        pause: seconds between two looks; each takes some milliseconds a process.

    Attributes:
        peak: in MB.
    """

    def __init__(self, *, files: bool = False, pause: float = 0.1) -> None:
        self.line = "Pss:" if files else "Pss_Anon:"
        self.pause = pause
        self.peak = 0.0

    def __call__(self, process: int) -> None:
        """Look again and again until it ends."""
        while now := together(process, self.line):
            self.peak = max(self.peak, now)
            time.sleep(self.pause)


def together(process: int, line: str) -> float:
    """Return the memory of a process and of those below it in MB; 0 once it has ended."""
    return sum(own(each, line) for each in family(process)) * 1024 / 1e6


def family(process: int) -> list[int]:
    """Return a process and all below it."""
    try:
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [process, *(one for child in below for one in family(int(child)))]


def own(process: int, line: str) -> int:
    """Return the ``line`` of a process's memory in KiB, with its part of what it shares; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(each.split()[1]) for each in lines if each.startswith(line)), 0)


def in_turns(sides: Mapping[Side, Callable[[], Figure]], rounds: int) -> dict[Side, list[Figure]]:
    """Return what each side gives in each round: forwards in one, backwards in the next."""
    measured: dict[Side, list[Figure]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
            measured[side].append(sides[side]())
            told = " ".join(map(str, side)) if isinstance(side, tuple) else side
            print(f"round {number + 1} of {rounds}: {told}", file=sys.stderr, flush=True)
    return measured


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two sides."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows))


def precisions() -> str:
    """Return the precisions that are worth measuring here: in software, bfloat16 takes ten times as long as float32."""
    import torch

    has = torch.cpu.get_capabilities()
    if torch.cuda.is_available():
        return "32-true,bf16-mixed,16-mixed"
    return "32-true,bf16-mixed" if has.get("avx512_bf16") or has.get("amx_bf16") else "32-true"


def machine() -> str:
    """Return what else a reader of a table has to know."""
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"OMP_NUM_THREADS {threads}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
