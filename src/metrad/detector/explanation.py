"""The explanation of one score: the nearest normal images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Neighbour:
    """A normal image near to the explained one.

    Attributes:
        name: its name.
        distance: its distance in the scorer's metric, 1 - cosine or Euclidean.
    """

    name: str
    distance: float


@dataclass(frozen=True)
class Explanation:
    """Why an image has its score.

    Attributes:
        image: name of the image.
        score: its anomaly score.
        p_value: its conformal p-value; NaN without calibration images.
        known: whether the detector was fitted on an image of the same content.
        neighbours: its nearest normal images, nearest first; empty if the scorer compares with no single images.
    """

    image: str
    score: float
    p_value: float
    known: bool
    neighbours: list[Neighbour]
