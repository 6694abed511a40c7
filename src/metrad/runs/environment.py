"""The environment of a run: packages, machine and commit."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from metrad.training.devices.processor import processor

PACKAGES = (
    *("faiss-cpu", "hydra-core", "metrad", "numpy", "omegaconf", "pillow", "pytorch-lightning", "scikit-learn"),
    *("torch", "torchmetrics", "torchvision"),
)


# Instruction sets, beside torch's own choice, by which oneDNN chooses its kernels and so the order of sums.
INSTRUCTIONS = ("avx_vnni", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_fp16")


def environment(device: str) -> dict[str, Any]:
    """Return the entries of ``environment.json`` on this machine and its packages, by which runs can be compared.

    The last digits of trained weights depend on ``device``, ``gpu``, ``threads``, ``processor``, ``instructions`` and
    ``packages``, and on ``precision``, ``ranks`` and ``compiled`` in ``speed``, which the training adds.
    Runs that agree in these and in their settings agree bit for bit.

    Args:
        device: the device of the training, such as ``cpu`` or ``cuda:0``.
    """
    import torch

    return {
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "instructions": _instructions(),
        "git_commit": _git_commit(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _instructions() -> list[str]:
    """Return the processor's instruction sets that torch computes with; $ATEN_CPU_CAPABILITY may limit the first."""
    import torch

    has = torch.cpu.get_capabilities()
    return [torch.backends.cpu.get_cpu_capability(), *(name for name in INSTRUCTIONS if has.get(name))]


def _git_commit() -> str | None:
    """Return the commit of the checkout that metrad runs from, with a + if it has changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(tracked, cwd=here, capture_output=True, check=True)  # noqa: S603
        describe = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
        result = subprocess.run(describe, cwd=here, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
