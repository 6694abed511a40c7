"""Metric heads: what turns embeddings and labels into logits and a loss. One class and one YAML each."""

from metrad.heads.adaptive import CurricularFace, DynamicAdaCos, SubClusterAdaCos
from metrad.heads.base import CosineHead, Head
from metrad.heads.linear import L2Softmax, Softmax
from metrad.heads.margin import AdaCos, ArcFace, CosFace, NormFace, SphereFace
from metrad.heads.pml import PytorchMetricLearning
from metrad.heads.quality import AdaFace, MagFace
from metrad.heads.statistics import HeadStatistics

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
    "Softmax",
    "SphereFace",
    "SubClusterAdaCos",
]
