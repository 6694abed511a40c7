"""The plan of a run's ranks, and the arguments that describe them to Lightning's trainer."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from pytorch_lightning.plugins.environments import TorchElasticEnvironment  # type: ignore[attr-defined]

from metrad import collectives
from metrad.errors import InputError
from metrad.training.devices import launch
from metrad.training.devices.batchnorm import RankBatchNorms

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]  # settings of Lightning's trainer by name

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
TIMEOUT = timedelta(minutes=30)  # longest wait for another rank; torch's default for gloo


@dataclass(frozen=True)
class Plan:
    """The ranks of a run.

    Attributes:
        count: number of ranks.
        to_start: whether this process must start the ranks; otherwise this process is one of them.
    """

    count: int
    to_start: bool


def plan(trainer: Settings, batch_size: int) -> Plan:
    """Return the ranks that the trainer's settings ask for; ``batch_size`` counts the images of all ranks.

    Raises:
        InputError: the machine lacks the devices, or their number does not suit the other settings.
    """
    others = launch.started_by_others()
    here, nodes = device_count(trainer), int(trainer.get("num_nodes", 1))
    count = here * nodes
    there = int(os.environ["WORLD_SIZE"]) if others else 1
    if others and there != count:
        raise InputError(
            f"trainer.devices={trainer['devices']} and trainer.num_nodes={nodes} ask for {count} processes in all, and "
            f"{there} were started; set trainer.devices to the number of processes on each machine"
        )
    if nodes > 1 and not others:
        raise InputError(f"trainer.num_nodes={nodes}: start the command on every machine with torchrun or srun")
    if count == 1 and trainer.get("strategy", "auto") != "auto":
        log.warning("trainer.strategy=%s has no effect on one device; set trainer.devices=N", trainer["strategy"])
    if count > 1:
        _check(trainer, batch_size, count)
    if count > 1 and others:  # the ranks log this, and not the process that starts them
        log.info("%d ranks, each with %.4g of the %d images of a batch", count, batch_size / count, batch_size)
    return Plan(count, to_start=count > 1 and not others)


def _check(trainer: Settings, batch_size: int, count: int) -> None:
    strategy, least = trainer.get("strategy", "auto"), least_images(trainer)
    if strategy not in STRATEGIES:
        raise InputError(f"trainer.strategy={strategy} is not supported on several devices; choose ddp")
    if trainer.get("plugins"):
        raise InputError("trainer.plugins cannot be set on several devices: metrad sets it itself; leave it out")
    if batch_size < count * least:
        raise InputError(f"batch_size={batch_size} must be at least {count * least}: {count} ranks need {least} each")


def least_images(trainer: Settings) -> int:
    """Return the fewest images of a batch that each rank needs: 2 if it normalises over its own images alone."""
    return 1 if trainer.get("sync_batchnorm") else 2


def is_cpu(trainer: Settings) -> bool:
    """Return whether ranks compute on the CPU."""
    return trainer["accelerator"] == "cpu" or (trainer["accelerator"] == "auto" and not torch.cuda.is_available())


def device_count(trainer: Settings) -> int:
    """Return how many devices of this machine the trainer's settings ask for.

    Raises:
        InputError: the machine has fewer devices, or its accelerator trains on one device only.
    """
    devices = trainer["devices"]
    if is_cpu(trainer):
        return _cpus(devices)
    if trainer["accelerator"] not in ("auto", "gpu", "cuda"):
        if devices not in (1, "1", "auto"):
            raise InputError(
                f"trainer.devices={devices}: accelerator={trainer['accelerator']} trains on one device only"
            )
        return 1
    if not torch.cuda.is_available():
        if trainer["accelerator"] != "cuda" and torch.backends.mps.is_available():
            return 1
        raise InputError(
            f"trainer.accelerator={trainer['accelerator']}: there is no GPU that torch can use; "
            "set trainer.accelerator=cpu"
        )
    return len(_gpus(devices))


def _cpus(devices: Any) -> int:
    if devices in ("auto", -1, "-1"):
        return int(os.environ["LOCAL_WORLD_SIZE"]) if launch.started_by_others() else 1
    try:
        return int(CPUAccelerator.parse_devices(devices))
    except Exception as error:  # errors of Lightning and of Python share no base
        raise InputError(f"trainer.devices={devices} must be a number of at least 1 on the CPU") from error


def _gpus(devices: Any) -> list[int]:
    try:
        wanted = list(devices) if not isinstance(devices, int | str) else devices
        wanted = -1 if wanted == "auto" else wanted
        return list(CUDAAccelerator.parse_devices(wanted) or [])
    except Exception as error:  # as in _cpus
        there = ", ".join(str(i) for i in range(torch.cuda.device_count()))
        hint = "; parallel jobs of a sweep see one GPU each (hydra.launcher.n_jobs=1 lets a job see all)"
        raise InputError(f"trainer.devices={devices}: there are the GPUs {there}{hint}") from error


@contextlib.contextmanager
def joined(trainer: Settings, count: int) -> Iterator[None]:
    """Make this process one of ``count`` ranks inside this context, as torchrun's variables describe it.

    All ranks leave the context together, so the first rank can then work alone without a time limit.
    """
    if count == 1:
        yield
        return
    cpu = is_cpu(trainer)
    if not cpu:
        torch.cuda.set_device(_gpus(trainer["devices"])[int(os.environ["LOCAL_RANK"])])
    dist.init_process_group("gloo" if cpu else "cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, launch.cores() // int(os.environ["LOCAL_WORLD_SIZE"]))))
    yield
    collectives.total(0)  # waits for all ranks; an error skips this line
    dist.destroy_process_group()
    torch.set_num_threads(threads)


def trainer_arguments(trainer: Settings) -> dict[str, Any]:
    """Return the arguments of Lightning's trainer, besides its settings, that make this process one of the ranks."""
    if not collectives.several():
        return {"devices": 1, "strategy": "auto"} if str(trainer.get("strategy")) in STRATEGIES[1:] else {}
    plugins: list[Any] = [TorchElasticEnvironment()]
    if trainer.get("sync_batchnorm") and is_cpu(trainer):
        plugins.append(RankBatchNorms())
    found = {"strategy": "ddp"} if trainer.get("strategy", "auto") == "auto" else {}
    here = device_count(trainer) if is_cpu(trainer) else _gpus(trainer["devices"])
    return {"devices": here, "plugins": plugins, "use_distributed_sampler": False, **found}
