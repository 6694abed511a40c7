"""Cosines, margins and scales: the arithmetic that angular heads share.

Every function takes and returns tensors of any shape unless it says otherwise and keeps no state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-3


def at_least_float32(values: Tensor) -> Tensor:
    """Return ``values`` in float32, or in float64 if they came so.

    In half precision a cosine close to 1 is 1, and softmax at scale 30 overflows float16.
    """
    return values if values.dtype == torch.float64 else values.float()


def unit(vectors: Tensor) -> Tensor:
    """Return ``vectors`` (N, D) divided by their lengths; those shorter than ``SHORTEST`` stay as much shorter than 1.

    The slope of x/‖x‖ is 1/‖x‖, which the bound keeps inside the range of every dtype, zero vectors included.
    """
    return F.normalize(vectors, eps=SHORTEST)


def cosines(embeddings: Tensor, W: Tensor) -> Tensor:
    """Return cos θ of every embedding (N, D) with every class weight (C, D), as (N, C), each vector normalised."""
    return F.linear(unit(embeddings), unit(W))


def sines(cosine: Tensor) -> Tensor:
    """Return sin θ from cos θ for θ in [0, π], with a finite gradient at both ends.

    ``acos`` and ``sqrt(1 - cos²)`` have infinite slope at ±1; below the smallest step of the dtype the sine is held
    constant, so its gradient there is zero.
    """
    smallest = torch.finfo(cosine.dtype).eps
    return (1 - cosine.square()).clamp_min(smallest).sqrt()


def add_angular_margin(cosine: Tensor, margin: float) -> Tensor:
    """Return cos(θ + m), continued below it by cos θ - m·sin m where θ + m exceeds π.

    The continuation keeps the value falling in θ over the whole of [0, π]; it is the one of the authors' code.
    Source: ArcFace, Deng 2019, arXiv 1801.07698, in the angle-addition form.
    """
    shifted = cosine * math.cos(margin) - sines(cosine) * math.sin(margin)
    past_end = cosine < math.cos(math.pi - margin)
    return torch.where(past_end, cosine - margin * math.sin(margin), shifted)


def adacos_scale(num_classes: int) -> float:
    """Return the fixed scale of AdaCos, s̃ = √2 · ln(C - 1).

    Source: Zhang 2019, arXiv 1905.00292. It is 0 for two classes.
    """
    return math.sqrt(2) * math.log(num_classes - 1)
