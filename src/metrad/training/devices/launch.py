"""Starts the processes of a run on several devices, and sees to it that they end together.

Lightning would start the command line again in each of them, which makes Hydra begin another run there, and in a sweep
the whole sweep. Here a process calls one function, so a run on several devices is like any other part of a job.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from metrad.errors import InputError, TrainingError

GRACE = 3.0  # seconds for other ranks' errors to come in, since the first need not be the cause
POLL = 0.1
# What a rank says when another one has gone: the consequence, and not to be told if there is a cause.
_CONSEQUENCES = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "tcpstore")


@dataclass(frozen=True)
class Failure:
    """Why a rank ended.

    Attributes:
        rank: which.
        kind: name of the error's class; empty where the process ended without a word.
        text: its message.
        trace: its traceback.
        of_input: it was an ``InputError``.
    """

    rank: int
    kind: str
    text: str
    trace: str = ""
    of_input: bool = False

    @property
    def cause(self) -> int:
        """How likely it is the cause of the others; the lower the likelier."""
        if not self.kind:
            return 1
        told = f"{self.kind} {self.text}".lower()
        return 2 if self.kind.startswith("Dist") or any(word in told for word in _CONSEQUENCES) else 0


class RankError(Exception):
    """The traceback of another process, to stand under the error raised here."""


def started_by_others() -> bool:
    """Tell whether torchrun or srun started this process, as one of several ranks."""
    if _of_srun():
        _adopt_srun()
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Tell whether torchrun or srun started this process as another rank than the first."""
    return started_by_others() and int(os.environ["RANK"]) > 0


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_srun() -> bool:
    # A batch script has the variables of its job too, but those of a step only under srun.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "RANK" not in os.environ


def _adopt_srun() -> None:
    """Say in torchrun's variables what Slurm says in its own."""
    from pytorch_lightning.plugins.environments import SLURMEnvironment  # type: ignore[attr-defined]

    world = int(os.environ["SLURM_STEP_NUM_TASKS"])
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
    port = 15000 + (int(os.environ["SLURM_JOB_ID"]) + 1000 * int(os.environ.get("SLURM_STEP_ID", "0"))) % 10000
    values = {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "GROUP_RANK": os.environ["SLURM_NODEID"],
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world // int(os.environ.get("SLURM_STEP_NUM_NODES", "1")),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or port,
    }
    os.environ.update({name: str(value) for name, value in values.items()})


def start(target: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Call ``target`` with ``arguments`` in ``count`` new processes of this machine, and wait until all have ended.

    They find each other by the variables of torchrun. What the first one logs is logged here. If one fails, the others
    are killed; so they are if this process is interrupted, and they end by themselves if it is killed.

    Args:
        target: a function of a module; it has to be found under its name in the new processes.
        arguments: can be pickled.
        count: how many.

    Raises:
        InputError: a rank raised one.
        TrainingError: a rank failed otherwise; the message names it.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    context = multiprocessing.get_context("spawn")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # of any free port; nobody can take it
    processes, ends = [], []
    try:
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            level = logging.getLogger("metrad").getEffectiveLevel()
            job = (target, arguments, _variables(rank, count, store.port), sender, level)
            processes.append(context.Process(target=_rank, args=job, name=f"rank {rank}"))
            ends.append(receiver)
            with _for_ranks():
                processes[-1].start()
            sender.close()
        failures = _watch(processes, ends)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    if failures:
        raise _as_error(min(failures, key=lambda failure: failure.cause), count)


def _variables(rank: int, count: int, port: int) -> dict[str, str]:
    of_rank = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    values: dict[str, Any] = of_rank | meeting
    if "lo" in [name for _, name in socket.if_nameindex()]:
        values["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo looks up the host's name, which need not resolve
    return {name: str(value) for name, value in values.items()}


@contextlib.contextmanager
def _for_ranks() -> Iterator[None]:
    """Have processes started here ignore Ctrl-C, which a terminal sends to all; this one ends them itself.

    A new process takes on the way of starting processes that is usual in this one, and in a worker of a sweep that is
    one the new process does not know.
    """
    usual = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    in_main = threading.current_thread() is threading.main_thread()  # only there can signals be dealt with
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        multiprocessing.set_start_method(usual, force=True)


def _watch(processes: list[SpawnProcess], ends: list[Connection]) -> list[Failure]:
    """Wait until all processes have ended or one has failed; log what they log, and return why they failed."""
    failures: dict[int, Failure] = {}
    until = float("inf")
    while any(process.is_alive() for process in processes) and time.monotonic() < until:
        wait([end for end in ends if not end.closed], POLL)
        _read(ends, failures)
        if failures or any(process.exitcode for process in processes):
            until = min(until, time.monotonic() + GRACE)
    _read(ends, failures)
    for rank, process in enumerate(processes):
        if process.exitcode and rank not in failures:
            failures[rank] = Failure(rank, "", _silent_end(process.exitcode))
    return list(failures.values())


def _read(ends: list[Connection], failures: dict[int, Failure]) -> None:
    for rank, end in enumerate(ends):
        while not end.closed and end.poll():
            try:
                message = end.recv()
            except (EOFError, OSError):
                end.close()
                continue
            if isinstance(message, Failure):
                failures[rank] = message
            else:
                logging.getLogger(message.name).handle(message)


def _silent_end(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed, as the system does for want of memory"
    return f"it ended by signal {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"


def _as_error(failure: Failure, count: int) -> Exception:
    text = " ".join(failure.text.split()) or failure.kind
    if failure.of_input:
        error: Exception = InputError(text)
    else:
        named = f"{failure.kind}: " if failure.kind not in ("", TrainingError.__name__) else ""
        error = TrainingError(f"rank {failure.rank} of {count}: {named}{text}")
    error.__cause__ = RankError(f"\n{failure.trace}") if failure.trace else None
    return error


def _rank(
    target: Callable[..., None], arguments: tuple[Any, ...], variables: dict[str, str], end: Connection, level: int
) -> None:
    """Be one of the ranks: call ``target`` and tell the process that started this one how it ended."""
    os.environ.update(variables)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rank = int(variables["RANK"])
    mute() if rank else _log_to(end, level)
    try:
        target(*arguments)
    except BaseException as error:
        end.send(Failure(rank, type(error).__name__, str(error), traceback.format_exc(), isinstance(error, InputError)))
        end.close()
        os._exit(1)  # an orderly end would wait for the others


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def mute() -> None:
    """Let this process log nothing: the first rank tells all there is to tell."""
    logger = logging.getLogger("metrad")
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = False


def _log_to(end: Connection, level: int) -> None:
    class Sender(QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(OSError):  # nobody is there any more
                end.send(record)

    logger = logging.getLogger("metrad")
    logger.handlers[:] = [Sender(None)]  # type: ignore[arg-type] # it has no queue
    logger.propagate = False
    logger.setLevel(level)
