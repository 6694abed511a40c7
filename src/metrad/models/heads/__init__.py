"""Metric heads: they turn embeddings and labels into logits and a loss. Each has one class and one YAML file."""

from metrad.models.heads.adacos import AdaCos, DynamicAdaCos, SubClusterAdaCos
from metrad.models.heads.base import CosineHead, Head
from metrad.models.heads.linear import L2Softmax, Softmax
from metrad.models.heads.margin import ArcFace, CosFace, CurricularFace, NormFace, SphereFace
from metrad.models.heads.pml import PytorchMetricLearning
from metrad.models.heads.quality import AdaFace, MagFace
from metrad.models.heads.reach import Reach
from metrad.models.heads.statistics import HeadStatistics

__all__ = [
    "AdaCos",
    "AdaFace",
    "ArcFace",
    "CosFace",
    "CosineHead",
    "CurricularFace",
    "DynamicAdaCos",
    "Head",
    "HeadStatistics",
    "L2Softmax",
    "MagFace",
    "NormFace",
    "PytorchMetricLearning",
    "Reach",
    "Softmax",
    "SphereFace",
    "SubClusterAdaCos",
]
