"""The average over the image."""

import torch

from metrad.models.pooling import pool


def test_the_average_is_taken_in_float32():
    features = torch.tensor([256.0, 1.0, 1.0, 1.0], dtype=torch.bfloat16).view(1, 1, 2, 2)
    assert pool(features).item() == 64.75  # bfloat16 would give 64.5 or 65
    assert pool(features.double()).dtype == torch.float64
