"""Scorers: what turns embeddings into anomaly scores. One class and one YAML each."""

from metrad.scorers.base import NotFittedError, Scorer
from metrad.scorers.knn import KNN

__all__ = ["KNN", "NotFittedError", "Scorer"]
