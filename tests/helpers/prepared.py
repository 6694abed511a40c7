"""Images of a run whose pixels are their positions."""

from functools import partial
from pathlib import Path

import numpy as np

from metrad.data.prepared import PreparedData
from metrad.data.roles import Roles
from metrad.data.sources import Source
from metrad.data.store import Storage

SIZES = {"reference": None, "normal": None, "calibration": 2, "test_normal": None, "test_anomalous": None}


class Numbered(Source):
    """Images whose every pixel is their position, ten of each class, classes in turns."""

    def __init__(self, classes: int = 4, count: int = 40) -> None:
        self.classes = [f"class {c}" for c in range(classes)]
        self.labels = np.arange(count) % classes
        self.names = [f"image {i}" for i in range(count)]
        self.pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3)).copy()


def roles(normal="cat", anomalous="dog", reference=None, **sizes) -> Roles:
    return Roles(normal, anomalous, reference, SIZES | sizes, test_share=0.3)


def module(source, chosen: Roles, storage: Storage | None = None, seed: int = 0, **settings) -> PreparedData:
    data = PreparedData(
        source, chosen, storage or Storage(2**30, 0, Path("unused")), seed=seed, image_size=8, **settings
    )
    data.draw()
    return data


def numbered(seed: int = 0, **settings) -> PreparedData:
    return module(partial(Numbered), roles("class 2", "class 0", ["class 3", "class 1"]), seed=seed, **settings)
