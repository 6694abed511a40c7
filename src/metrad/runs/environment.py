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


def environment() -> dict[str, Any]:
    """Return the entries of ``environment.json`` on this machine and its packages, by which runs can be compared."""
    import torch

    return {
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "git_commit": _git_commit(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


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
