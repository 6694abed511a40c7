"""The launch of a run's ranks: one process per device, all ended together.

Lightning would start the command line again in each process, and Hydra would begin another run there, or a whole sweep.
Here each process calls one function, so a run on several devices can be part of any job.
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

from metrad.errors import DivergedError, InputError, TrainingError, is_fault

GRACE = 3.0  # seconds to wait for errors of other ranks, since the first error need not be the cause
POLL = 0.1  # seconds between looks at the processes
# Words in the error of a rank that lost another rank. Such an error is raised only if no rank has another error.
_CONSEQUENCES = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "tcpstore")


@dataclass(frozen=True)
class Failure:
    """The error that ended a rank.

    Attributes:
        rank: number of the rank.
        kind: class name of the error; empty if the process ended without an error.
        text: message of the error, or how the process ended.
        trace: traceback of the error.
        of_input: whether the error is an ``InputError``.
        of_metrad: whether the error is a fault of metrad's own.
    """

    rank: int
    kind: str
    text: str
    trace: str = ""
    of_input: bool = False
    of_metrad: bool = False

    @property
    def cause(self) -> int:
        """Priority as the cause of all failures: 0 for an error, 1 for an end without one, 2 for a lost rank."""
        if not self.kind:
            return 1
        message = f"{self.kind} {self.text}".lower()
        return 2 if self.kind.startswith("Dist") or any(word in message for word in _CONSEQUENCES) else 0


class RankError(Exception):
    """A fault of metrad's own in another process; or its traceback, as the cause of the error raised in this one."""


def started_by_others() -> bool:
    """Return whether torchrun or srun started this process as one of several ranks."""
    if _of_srun():
        _adopt_srun()
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Return whether torchrun or srun started this process as a rank after the first."""
    return started_by_others() and int(os.environ["RANK"]) > 0


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_srun() -> bool:
    # A batch script has the variables of its job; only srun sets the variables of a step.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "RANK" not in os.environ


def _adopt_srun() -> None:
    """Set torchrun's environment variables from Slurm's."""
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

    The processes are ranks that find each other by torchrun's variables. The first rank's log records are logged here.
    If a rank fails or this process is interrupted, the other ranks are killed. If this process is killed, they end.

    Args:
        target: function of a module, which the new processes can import.
        arguments: arguments that can be pickled.
        count: number of ranks.

    Raises:
        InputError: a rank raised an InputError.
        RankError: a rank met a fault of metrad's own; the message names the rank.
        TrainingError: a rank failed otherwise; the message names the rank.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    context = multiprocessing.get_context("spawn")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # port 0: any free port, taken at once
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
    """Make processes that start in this context ignore Ctrl-C and use ``spawn`` as their start method.

    A terminal sends Ctrl-C to every process, but this process ends the ranks itself. New processes inherit the default
    start method. In a worker of a sweep, that is a method which they do not know.
    """
    usual = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    in_main = threading.current_thread() is threading.main_thread()  # only the main thread may set signal handlers
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        multiprocessing.set_start_method(usual, force=True)


def _watch(processes: list[SpawnProcess], ends: list[Connection]) -> list[Failure]:
    """Wait until all processes have ended or one has failed; log their records and return the failures."""
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
        own = ("", TrainingError.__name__, DivergedError.__name__)
        named = f"{failure.kind}: " if failure.kind not in own else ""
        kinds: dict[str, type[Exception]] = {DivergedError.__name__: DivergedError}
        other = RankError if failure.of_metrad and failure.cause == 0 else TrainingError
        error = kinds.get(failure.kind, other)(f"rank {failure.rank} of {count}: {named}{text}")
    error.__cause__ = RankError(f"\n{failure.trace}") if failure.trace else None
    return error


def _rank(
    target: Callable[..., None], arguments: tuple[Any, ...], variables: dict[str, str], end: Connection, level: int
) -> None:
    """Call ``target`` as one of the ranks, and send the parent process the failure, if any."""
    os.environ.update(variables)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rank = int(variables["RANK"])
    mute() if rank else _log_to(end, level)
    try:
        target(*arguments)
    except BaseException as error:
        whose = {"of_input": isinstance(error, InputError), "of_metrad": is_fault(error)}
        end.send(Failure(rank, type(error).__name__, str(error), traceback.format_exc(), **whose))
        end.close()
        os._exit(1)  # a regular exit would wait for the other ranks


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def mute() -> None:
    """Silence the log of this process, since the first rank logs for all ranks."""
    logger = logging.getLogger("metrad")
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = False


def _log_to(end: Connection, level: int) -> None:
    class Sender(QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(OSError):  # the parent process has ended
                end.send(record)

    logger = logging.getLogger("metrad")
    logger.handlers[:] = [Sender(None)]  # type: ignore[arg-type] # a Sender uses no queue
    logger.propagate = False
    logger.setLevel(level)
