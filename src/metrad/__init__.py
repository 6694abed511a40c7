"""Metric-learning anomaly detection.

``metrad.fit(folder)`` makes a ``Detector`` from good images, ``Detector.load(path)`` loads one, and
``detector.score(images)`` returns ``Verdicts``. What cannot be used is an ``InputError``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from metrad import renamed

if TYPE_CHECKING:
    from metrad.app.inspect import fit
    from metrad.detector.core import Detector
    from metrad.detector.verdicts import Verdicts
    from metrad.errors import InputError

__version__ = "0.2.0"
__all__ = ["Detector", "InputError", "Verdicts", "__version__", "fit"]

# Public name → module. It is imported at the first use of the name, so that ``import metrad`` needs no torch.
_PUBLIC = {
    "Detector": "metrad.detector.core",
    "InputError": "metrad.errors",
    "Verdicts": "metrad.detector.verdicts",
    "fit": "metrad.app.inspect",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]


renamed.install()
