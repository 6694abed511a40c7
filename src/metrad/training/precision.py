"""The choice of a run's precision."""

from collections.abc import Callable

import torch

PROBED = ("32-true", "bf16-mixed")
TINY = 1_000_000  # parameters; the probe takes seconds, too long compared with the training of a smaller model


def choose_precision(
    wanted: str | int, accelerator: str, parameters: int, probe: Callable[[], dict[str, float]]
) -> tuple[str | int, str, dict[str, float]]:
    """Return the precision to train in, the reason for it, and the measured speeds.

    Args:
        wanted: ``auto``, or the precision to return.
        accelerator: accelerator, named as in Lightning.
        parameters: number of parameters of the embedder.
        probe: measures the speeds of ``PROBED`` on the CPU; called only if the choice depends on them.
    """
    if wanted != "auto":
        return wanted, "given", {}
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16-mixed", "the GPU computes bfloat16", {}) if fast else ("16-mixed", "the GPU lacks bfloat16", {})
    if accelerator not in ("auto", "cpu"):
        return "32-true", f"nothing is known of {accelerator}", {}
    has = torch.cpu.get_capabilities()
    if not (has.get("avx512_bf16") or has.get("amx_bf16")):
        return "32-true", "the CPU has no instructions for bfloat16", {}
    if parameters < TINY:
        return "32-true", "the backbone is too small for the precision to matter", {}
    speeds = probe()
    return max(PROBED, key=lambda name: speeds[name]), "the faster one here", speeds
