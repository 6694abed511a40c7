"""Metric heads: what turns embeddings and labels into logits and a loss. One class and one YAML each."""

from metrad.heads.base import CosineHead, Head
from metrad.heads.linear import L2Softmax, Softmax
from metrad.heads.margin import AdaCos, ArcFace

__all__ = ["AdaCos", "ArcFace", "CosineHead", "Head", "L2Softmax", "Softmax"]
