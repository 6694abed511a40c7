"""The pooling of a backbone's features over the image."""

import torch
from torch import Tensor


def pool(features: Tensor) -> Tensor:
    """Return the global average (N, D) of a feature map (N, D, h, w) or (N, D, L); vectors (N, D) stay as they are.

    The average is computed in at least float32. In half precision, its rounding error would exceed that of all other
    layers together.
    """
    if features.ndim < 3:
        return features
    return features.mean(dim=tuple(range(2, features.ndim)), dtype=torch.promote_types(features.dtype, torch.float32))
