"""Runs commands of metrad, each in a process of its own that is forked from one that has all libraries loaded.

To start the command and to load torch takes seconds, a refusal a fraction of one. A fork has the state of a fresh
process, can be killed when it hangs, and can end in any way. What would take most of the time and decides no outcome is
left out: pictures are blank, and an epoch has two batches.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytorch_lightning as pl
from PIL import Image

from metrad import files
from metrad.app import cli
from tests.helpers.commands import Result, composed, isolated
from tests.inputs.folders import Folders
from tests.inputs.input import Input

HUNG = -1000  # as the code of a result; no signal has it
MEMORY = 8 * 2**30  # bytes that a command may take, so that a wrong size does not take the machine with it
_UNSET = ("METRAD_DATA", "HYDRA_FULL_ERROR")  # of the environment
_BATCHES = 2  # of an epoch, unless the input says how many: whole epochs would take most of the time
_POLL = 0.02


@dataclass
class _Running:
    number: int
    process: int
    since: float
    folder: tempfile.TemporaryDirectory[str]


def preload() -> None:
    """Load what commands need, and let Hydra's parser and finder of plugins build what they keep."""
    import faiss
    import torch

    from metrad.app.hydra_seam import own_launchers

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with isolated(Path.cwd()), own_launchers():
        composed("experiment=demo", "+optimizer.betas=[0.9,0.99]", "dataset.normal=['a b']", hydra=True)


def apart(job: Callable[[], object]) -> None:
    """Call ``job`` in a process of its own and wait for it: what trains here would start threads, which no fork has.

    Raises:
        RuntimeError: it failed.
    """
    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with _exiting(0):
            job()
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("making the prepared folders failed")


def whole(given: Input, folders: Folders) -> Result:
    """Run the command of an input as a user does, with a Python of its own."""
    with tempfile.TemporaryDirectory() as folder:
        folders.copy(given.files, Path(folder, "work"))
        command = [sys.executable, "-m", "metrad", *given.args]
        environment = {key: value for key, value in os.environ.items() if key not in _UNSET}
        done = subprocess.run(
            command, cwd=Path(folder, "work"), env=environment, capture_output=True, text=True, check=False
        )
        return Result(
            done.returncode, *(text.replace(f"{folder}/work", "FOLDER") for text in (done.stdout, done.stderr))
        )


def results(inputs: Sequence[Input], folders: Folders, jobs: int, limit: float) -> Iterator[tuple[int, Result]]:
    """Run the commands of ``inputs``, ``jobs`` at a time, and yield the number and the result of each as it ends.

    Args:
        inputs: the inputs; a command that needs prepared folders gets copies.
        folders: the prepared folders.
        jobs: number of processes at a time.
        limit: seconds after which a command is killed, with the code ``HUNG``.
    """
    waiting, running = list(enumerate(inputs))[::-1], list[_Running]()
    while waiting or running:
        while waiting and len(running) < jobs:
            number, given = waiting.pop()
            running.append(_start(number, given, folders))
        time.sleep(_POLL)
        for one in list(running):
            code = _ended(one, limit)
            if code is not None:
                running.remove(one)
                yield one.number, _said(code, one)


def _start(number: int, given: Input, folders: Folders) -> _Running:
    folder = tempfile.TemporaryDirectory()
    folders.copy(given.files, Path(folder.name, "work"))
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        _run(given.args, Path(folder.name))
    return _Running(number, process, time.monotonic(), folder)


def _run(args: Sequence[str], folder: Path) -> NoReturn:
    """Be the process of one command: everything said goes into files beside its working directory."""
    os.setsid()
    for number, name in ((0, os.devnull), (1, folder / "out"), (2, folder / "err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.chdir(folder / "work")
    for name in _UNSET:
        os.environ.pop(name, None)
    files.write_picture = _blank
    pl.Trainer.__init__.__wrapped__.__kwdefaults__["limit_train_batches"] = _BATCHES
    sys.argv = ["metrad", *args]
    with _exiting(0):
        cli.main()


@contextlib.contextmanager
def _exiting(code: int) -> Iterator[None]:
    """End this process after the context as Python would, but without what is registered to run at its end."""
    try:
        yield
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _blank(path: Path, _: object) -> None:
    Image.new("L", (8, 8)).save(path)  # to draw the pictures takes a third of a small run


def _ended(one: _Running, limit: float) -> int | None:
    """Return the exit code of a process that has ended or is killed now; None if it goes on."""
    process, status = os.waitpid(one.process, os.WNOHANG)
    hung = not process and time.monotonic() - one.since > limit
    if not process and not hung:
        return None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(one.process, signal.SIGKILL)  # with what it has started
    if hung:
        os.waitpid(one.process, 0)
        return HUNG
    return os.waitstatus_to_exitcode(status)


def _said(code: int, one: _Running) -> Result:
    texts = [Path(one.folder.name, name).read_text(errors="replace") for name in ("out", "err")]
    one.folder.cleanup()
    return Result(code, *(text.replace(f"{one.folder.name}/work", "FOLDER") for text in texts))
