"""The processes that make the runs of a sweep, each with its share of the machine."""

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from tqdm import tqdm

from metrad.errors import InputError
from metrad.runs.config import limits
from metrad.runs.config.checks import register
from metrad.sweeps.plan import Ended, Job, quiet
from metrad.training.devices.launch import cores

GPU_DEVICES = ("nvidia*", "kfd", "dxg", "nvmap")  # of NVIDIA, AMD, WSL, Jetson

_devices: list[FileLock] = []
_watches: list[threading.Thread] = []


@dataclass(frozen=True)
class Maker:
    """Makes runs by Hydra's ``run_job``."""

    context: HydraContext
    task: TaskFunction

    def make(self, job: Job) -> Ended:
        """Make one run in this process."""
        try:
            result = run_job(
                hydra_context=self.context,
                task_function=self.task,
                config=job.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                configure_logging=False,
            )
        except OSError as error:  # the directory of the run cannot be made
            return Ended(job.run, "failed", " ".join(str(error).split()))
        ended: Ended = result.return_value
        return ended


@dataclass(frozen=True)
class Share:
    """The share of the machine that a process gets.

    Attributes:
        jobs_per_gpu: number of processes that share a GPU, if there is one.
        threads: number of CPU threads of the process.
        crowded: whether all processes together have more threads than there are cores.
        locks: folder of the lock files that mark GPUs as taken.
    """

    jobs_per_gpu: int
    threads: int
    locks: Path
    crowded: bool = False

    def take(self) -> None:
        """Limit this process to its threads and to one GPU, which it keeps until it ends.

        If other commands hold all GPUs, it waits until one of them ends.
        """
        if self.crowded:  # threads that wait must leave their core to others; read when torch is loaded
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        import faiss
        import torch

        torch.set_num_threads(self.threads)
        faiss.omp_set_num_threads(self.threads)
        gpus = visible_gpus()
        if _devices or not gpus:
            return
        self.locks.mkdir(parents=True, exist_ok=True)
        while not self._takes_one_of(gpus):
            time.sleep(1)

    def _takes_one_of(self, gpus: Sequence[str]) -> bool:
        for place in range(self.jobs_per_gpu):
            for gpu in gpus:
                lock = FileLock(self.locks / f"{gpu}-{place}.lock")
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    _devices.append(lock)
                    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                    return True
        return False


@dataclass(frozen=True)
class Worker:
    """Makes runs in another process.

    Attributes:
        maker: makes the runs.
        share: the share of the machine that the process gets.
        state: Hydra's global state.
        launcher: id of the process that sends the runs.
    """

    maker: Maker
    share: Share
    state: dict[Any, Any]
    launcher: int

    def __call__(self, job: Job) -> Ended:
        """Make one run."""
        if not _watches:
            _watches.append(threading.Thread(target=_end_with, args=(self.launcher,), daemon=True))
            _watches[0].start()
        # tqdm's own lock is shared between processes, and Python warns if a process that holds it is killed.
        tqdm.set_lock(threading.RLock())
        Singleton.set_state(self.state)
        setup_globals()
        register()
        self.share.take()
        with quiet():
            try:
                return self.maker.make(job)
            except SystemExit:  # only this process got a signal to stop; other processes and its next run continue
                return Ended(job.run, "interrupted", job.run.noted().get("error", "stopped"))


def _end_with(launcher: int) -> None:
    """End this process when its parent ends, even if killed. Otherwise it would wait for ever and keep its GPU."""
    while os.getppid() == launcher:
        time.sleep(0.2)
    os._exit(1)


def visible_gpus() -> list[str]:
    """Return the names, as in ``CUDA_VISIBLE_DEVICES``, of the GPUs that this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    if sys.platform == "linux" and not any(next(Path("/dev").glob(name), None) for name in GPU_DEVICES):
        return []  # torch would find none too, after two seconds of import
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def make_all(
    jobs: Sequence[Job], maker: Maker, locks: Path, *, n_jobs: int | None, jobs_per_gpu: int
) -> Generator[Ended]:
    """Make runs and yield how each ended, as soon as it ends.

    Args:
        jobs: the jobs of the runs.
        maker: makes a run.
        locks: folder of the lock files that mark GPUs as taken.
        n_jobs: number of runs at a time. 1 makes all runs in this process, None as many as GPUs or CPU cores allow.
        jobs_per_gpu: number of processes that share a GPU.
    """
    if n_jobs == 1:
        yield from map(maker.make, jobs)
        return
    if n_jobs is not None and n_jobs > limits.processes():
        raise InputError(f"hydra.launcher.n_jobs={n_jobs} is too many here; set at most {limits.processes()}")
    room = len(visible_gpus()) * jobs_per_gpu or n_jobs or cores()
    processes = min(n_jobs or room, room, max(len(jobs), 1))
    threads = _threads_given() or max(1, cores() // processes)
    share = Share(jobs_per_gpu, threads, locks, crowded=threads * processes > cores())
    if processes == 1:  # another process would gain nothing
        share.take()
        yield from map(maker.make, jobs)
        return
    yield from side_by_side(jobs, Worker(maker, share, Singleton.get_state(), os.getpid()), processes)


def _threads_given() -> int | None:
    """Return the number of threads in $OMP_NUM_THREADS, which torch obeys in a run by itself; None if there is none."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else None


def side_by_side(jobs: Sequence[Job], make: Callable[[Job], Ended], workers: int) -> Iterator[Ended]:
    """Make runs in other processes and yield how each ended, as soon as it ends.

    If a process is killed, for example when memory runs out, all other processes end too. The runs then continue in
    new processes. A run whose process was killed twice counts as failed.

    Args:
        jobs: the jobs of the runs.
        make: makes a run; called in another process.
        workers: number of processes.
    """
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left = {job.number: job for job in jobs}
    deaths: Counter[int] = Counter()
    try:
        while left:
            try:
                with contextlib.closing(_made(tuple(left.values()), make, workers)) as made:
                    for number, ended in made:
                        del left[number]
                        yield ended
            except TerminatedWorkerError:
                victims = [job for job in left.values() if job.run.state == "interrupted"]
                deaths.update(job.number for job in victims)
                for job in victims:
                    if deaths[job.number] > 1:
                        yield _killed(left.pop(job.number))
    finally:  # if runs are left, the sweep was stopped and does not wait for them
        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=bool(left))


def _made(jobs: Sequence[Job], make: Callable[[Job], Ended], workers: int) -> Generator[tuple[int, Ended]]:
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered", batch_size=1)
    # The processes start here with Ctrl-C blocked, which a terminal sends to all processes; this process ends them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        made = parallel(delayed(_numbered)(make, job) for job in jobs)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        for each in made:  # noqa: UP028 # "yield from" would close it outside the filter of warnings
            yield each
    finally:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*limit unnecessary computation.*")  # it is stopped on purpose
            made.close()


def _numbered(make: Callable[[Job], Ended], job: Job) -> tuple[int, Ended]:
    return job.number, make(job)


def _killed(job: Job) -> Ended:
    text = "its process was killed twice; set hydra.launcher.n_jobs lower, so that each run has more memory"
    job.run.note(state="failed", error=text)
    return Ended(job.run, "failed", text)
