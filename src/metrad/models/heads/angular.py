"""Angular arithmetic: the cosines, margins and scales that heads share.

All functions are pure. Tensors have any shape unless a docstring says otherwise.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-3


def at_least_float32(values: Tensor) -> Tensor:
    """Return ``values`` in float32, or unchanged if they are float64.

    In half precision a cosine close to 1 rounds to 1, and softmax at scale 30 overflows float16.
    """
    return values if values.dtype == torch.float64 else values.float()


def unit(vectors: Tensor) -> Tensor:
    """Return ``vectors`` (N, D) divided by their lengths, or by ``SHORTEST`` if they are shorter than that.

    The gradient of x/‖x‖ grows as 1/‖x‖. The bound keeps it finite in every dtype, also for zero vectors.
    """
    return F.normalize(vectors, eps=SHORTEST)


def embedding_lengths(embeddings: Tensor) -> Tensor:
    """Return ‖x‖ of embeddings (N, D) as (N, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    return lengths


def cosines(embeddings: Tensor, W: Tensor) -> Tensor:
    """Return cos θ between each embedding (N, D) and each class weight (C, D), as (N, C)."""
    return F.linear(unit(embeddings), unit(W.to(embeddings.dtype)))


def angles(cosine: Tensor) -> Tensor:
    """Return θ in [0, π] from cos θ, for statistics. It has no gradient, because the slope is infinite at both ends."""
    return cosine.detach().clamp(-1, 1).acos()


def sines(cosine: Tensor) -> Tensor:
    """Return sin θ from cos θ for θ in [0, π], with a finite gradient at both ends.

    ``acos`` and ``sqrt(1 - cos²)`` have infinite slope at ±1. Where sin² θ is below the machine epsilon, the sine is
    constant and its gradient is zero.
    """
    smallest = torch.finfo(cosine.dtype).eps
    return (1 - cosine.square()).clamp_min(smallest).sqrt()


def add_angle(cosine: Tensor, angle: Tensor) -> Tensor:
    """Return cos(θ + angle) from cos θ by the angle-addition formula, also where θ + angle leaves [0, π]."""
    return cosine * angle.cos() - sines(cosine) * angle.sin()


def add_angular_margin(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """Return cos(θ + m), or cos θ - m·sin m where θ + m exceeds π.

    That continuation, from the authors' code, makes the result decrease in θ over the whole of [0, π].
    Source: ArcFace, Deng 2019, arXiv 1801.07698, in the angle-addition form.

    Args:
        cosine: cos θ.
        margin: m in radians, from 0 to π/2: a number, or a tensor that broadcasts with ``cosine``.
    """
    m = torch.as_tensor(margin, dtype=cosine.dtype, device=cosine.device)
    past_end = cosine < -m.cos()  # cos(π - m)
    return torch.where(past_end, cosine - m * m.sin(), add_angle(cosine, m))


def multiply_angle(cosine: Tensor, m: int) -> Tensor:
    """Return ψ(θ) = (-1)^k cos(mθ) - 2k on [kπ/m, (k+1)π/m], a variant of cos(mθ) that decreases over [0, π].

    cos(mθ) comes from the Chebyshev recurrence, so its gradient is finite everywhere.
    Source: SphereFace, Liu 2017, arXiv 1704.08063.

    Args:
        cosine: cos θ.
        m: a whole number, at least 1.
    """
    before, multiple = torch.ones_like(cosine), cosine
    for _ in range(m - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    k = sum(((cosine < math.cos(i * math.pi / m)).to(cosine.dtype) for i in range(1, m)), torch.zeros_like(cosine))
    sign = 1 - 2 * (k % 2)
    return sign * multiple - 2 * k
