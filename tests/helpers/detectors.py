"""Small detectors of random weights, fitted on noise, that need no training."""

import numpy as np
import torch

from metrad.data.decoding import Kept
from metrad.data.duplicates import content_key
from metrad.detector.bundle import Blueprint
from metrad.detector.core import Detector
from metrad.detector.torch_backend import TrainedBackend, embedding
from metrad.evaluation.conformal import Calibration
from metrad.models.backbones import convnet
from metrad.models.embedder import Embedder
from metrad.models.heads import ArcFace
from metrad.scorers import KNN

CONVNET = {"_target_": "metrad.models.backbones.convnet", "channels": [4, 6]}
ARCFACE = {"_target_": "metrad.models.heads.ArcFace", "scale": 8.0, "margin": 0.1}
SIZE = 8
NORMAL = [f"good/{i}.png" for i in range(20)]


def noise(count: int, seed: int = 0, shape: tuple[int, ...] = (SIZE, SIZE, 3)) -> np.ndarray:
    """Return images of noise, (count, height, width, channels) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def small_detector(calibration: int = 30, precision: str = "32-true", scorer: object = None) -> Detector:
    """Return a detector of images of ``SIZE`` pixels whose normal and calibration images are ``noise``, seed 0."""
    torch.manual_seed(0)
    embedder = Embedder(convnet(channels=[4, 6]), image_size=SIZE).eval()
    images = noise(len(NORMAL) + calibration)
    embeddings = embedding(embedder, "cpu", precision)(list(images))
    fitted = (scorer or KNN(k=2)).fit(embeddings[: len(NORMAL)])
    detector = Detector(
        Blueprint(CONVNET, {"image_size": SIZE}, ARCFACE, {"_target_": "metrad.scorers.KNN", "k": 2}),
        TrainedBackend(embedder, ArcFace(6, 3, scale=8.0, margin=0.1)),
        lambda: fitted,
        calibration=Calibration(np.sort(fitted.score(embeddings[len(NORMAL) :])) if calibration else np.empty(0)),
        normal_images=NORMAL,
        precision=precision,
    )
    detector.kept = Kept(SIZE, SIZE)
    detector.fitted_digests = np.stack([np.frombuffer(content_key(image), np.uint8) for image in images])
    return detector
