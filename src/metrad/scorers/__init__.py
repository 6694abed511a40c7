"""Scorers: they turn embeddings into anomaly scores. Each has one class and one YAML file."""

from metrad.scorers.base import NoNeighboursError, NotFittedError, Scorer
from metrad.scorers.centre import Centre
from metrad.scorers.contrast import Contrast
from metrad.scorers.gaussian import GMM, Mahalanobis
from metrad.scorers.head import ClassHead, HeadScorer, NotAttachedError
from metrad.scorers.knn import KNN
from metrad.scorers.local import LOF, LocalKNN
from metrad.scorers.neighbours import NeighbourScorer

__all__ = [
    "GMM",
    "KNN",
    "LOF",
    "Centre",
    "ClassHead",
    "Contrast",
    "HeadScorer",
    "LocalKNN",
    "Mahalanobis",
    "NeighbourScorer",
    "NoNeighboursError",
    "NotAttachedError",
    "NotFittedError",
    "Scorer",
]
