"""Embed, fit, score, measure."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from metrad.datamodule import MetradDataModule
from metrad.metrics import summary
from metrad.scorers import Scorer

EMBEDDING_BATCH = 256
TEST_ROLES = ("test_normal", "test_anomalous")


@dataclass(frozen=True)
class Evaluation:
    """The scores of the test images and what follows from them.

    Attributes:
        indices: positions of the test images in the source, (N,).
        anomalous: the truth, (N,) booleans.
        scores: (N,); higher is more anomalous.
        nearest: position in the source of each test image's nearest normal image, (N,).
        figures: AUROC and its kin.
        seconds: time of each phase.
    """

    indices: np.ndarray
    anomalous: np.ndarray
    scores: np.ndarray
    nearest: np.ndarray
    figures: dict[str, float]
    seconds: dict[str, float]


def embed(
    embedder: nn.Module,
    data: MetradDataModule,
    indices: np.ndarray,
    *,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return the embeddings (len(indices), D) of the images at ``indices``, in that order, computed in float32.

    Args:
        embedder: images to embeddings; put into evaluation mode.
        data: where the images are.
        indices: positions in the source.
        device: where to compute.
    """
    embedder = embedder.to(device, torch.float32).eval()
    batches = data.images(indices, EMBEDDING_BATCH)
    parts = []
    with torch.inference_mode():
        for images, _ in tqdm(batches, "embedding", leave=False, delay=1, disable=None):
            parts.append(embedder(images.to(device)).float().cpu().numpy())
    return np.concatenate(parts)


def evaluate(
    embedder: nn.Module,
    scorer: Scorer,
    data: MetradDataModule,
    *,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Fit ``scorer`` on the normal training images and measure how it tells the test images apart."""
    start = time.perf_counter()
    normal = data.split.indices["normal"]
    indices = np.concatenate([data.split.indices[role] for role in TEST_ROLES])
    anomalous = np.arange(len(indices)) >= len(data.split.indices["test_normal"])
    normal_embeddings = embed(embedder, data, normal, device=device)
    test_embeddings = embed(embedder, data, indices, device=device)
    embedded = time.perf_counter()
    scorer.fit(normal_embeddings)
    scores = scorer.score(test_embeddings)
    nearest = normal[scorer.neighbours(test_embeddings)]
    seconds = {"embed": embedded - start, "score": time.perf_counter() - embedded}
    return Evaluation(indices, anomalous, scores, nearest, summary(scores, anomalous), seconds)
