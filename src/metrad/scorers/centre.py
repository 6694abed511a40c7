"""Centre scorer: the angle to the mean direction of the nearest normal class."""

from typing import Any

import numpy as np

from metrad.scorers.base import Scorer, stored
from metrad.scorers.search.distances import unit


class Centre(Scorer):
    """1 - cos of the angle to the mean direction of the nearest normal class.

    s(x) = min over classes c of 1 - cos(x, μ_c), with μ_c the mean of the unit vectors of class c. An embedding of
    length zero scores 1.

    Source: the nearest class mean, as in prototypical networks (Snell 2017, arXiv 1703.05175), but by cosine.
    """

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        directions = unit(normal, np.float64)
        means = np.stack([directions[classes == number].mean(axis=0) for number in np.unique(classes)])
        self.centres_ = unit(means, np.float64)

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        cosine = unit(embeddings, np.float64) @ self.centres_.T
        scores: np.ndarray = 1 - np.minimum(cosine.max(axis=1), 1)
        return scores

    def _state(self) -> dict[str, Any]:
        return {"centres": self.centres_}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        self.centres_ = stored(state, "centres", None, self.width_)
