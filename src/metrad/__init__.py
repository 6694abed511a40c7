"""Metric-learning anomaly detection."""

from metrad import renamed

__version__ = "0.2.0"

renamed.install()
