"""The pictures of a run: one entry each, by which a picture is drawn, named and shown in the run's report.

Whoever only needs the names waits for neither numpy, matplotlib nor torch: they are imported to draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from metrad.data.prepared import PreparedData
    from metrad.evaluation.embeddings import Embedded
    from metrad.evaluation.evaluate import Evaluation
    from metrad.evaluation.plots import ImagePair

COLUMNS = 8  # test images in a row
Material = Literal["evaluation", "images", "epochs", "study", "selection"]


@dataclass(frozen=True, kw_only=True)
class RunPicture:
    """A picture of a run.

    Attributes:
        name: its file is ``NAME.png`` in the run's directory, or in the folder of an evaluation.
        material: what it is drawn from, and so when: the ``Evaluation``, the ``ScoredImages``, the rows of
            ``epochs.csv`` or of ``study.csv``, or the ``Selection``. A run without it has no such picture.
        draw: returns the picture of the material.
        title: what it is called in the run's report.
        caption: what it shows, in a sentence.
        in_report: False if the run's report leaves the file out, as where it draws its own from the run's tables.
    """

    name: str
    material: Material
    draw: Callable[[Any], "Figure"]
    title: str
    caption: str
    in_report: bool = True


@dataclass(frozen=True)
class ScoredImages:
    """The test images with their scores, and the normal images that they are compared with."""

    result: "Evaluation"
    embedded: "Embedded"
    data: "PreparedData"

    def pairs(self, rows: "np.ndarray") -> "list[ImagePair]":
        """Return the first test images at the positions ``rows`` (N,) of the scores, beside their nearest images."""
        import numpy as np

        from metrad.evaluation.plots import ImagePair

        result, images, rows = self.result, self.data.image_set.images, rows[:COLUMNS]
        test = np.array([record.position for record in result.records])[rows]
        nearest = np.array([record.position for record in self.embedded.records["normal"]])[result.nearest[rows]]
        truth = np.where(result.anomalous[rows], "anomalous", "normal")
        titles = [f"{score:.3g}\n{kind}" for score, kind in zip(result.scores[rows], truth, strict=True)]
        columns = zip(images[test], images[nearest], titles, result.anomalous[rows], strict=True)
        return [ImagePair(*column) for column in columns]


@dataclass(frozen=True)
class Selection:
    """What was found when epochs, settings and scorer were chosen: the rows of ``selection.csv``, and the choice."""

    rows: Sequence[Mapping[str, Any]]
    chosen: Mapping[str, Any]


def _roc(result: "Evaluation") -> "Figure":
    from metrad.evaluation import plots

    return plots.roc(result.scores, result.anomalous, result.figures["auroc"])


def _scores(result: "Evaluation") -> "Figure":
    from metrad.evaluation import plots

    lines = {entry["false_alarm_rate"]: entry["threshold"] for entry in result.figures["thresholds"]}
    return plots.histogram(result.scores, result.anomalous, result.figures["auroc"], lines)


def _neighbours(images: ScoredImages) -> "Figure":
    from metrad.evaluation import plots

    order = images.result.scores.argsort(kind="stable")
    groups = {"Highest scores": order[::-1], "Lowest scores": order}
    return plots.image_pairs({title: images.pairs(rows) for title, rows in groups.items()})


def _hardest(images: ScoredImages) -> "Figure":
    from metrad.evaluation import plots

    order, anomalous = images.result.scores.argsort(kind="stable"), images.result.anomalous
    normal = order[~anomalous[order]][::-1]
    groups = {
        "Normal images with the highest scores": normal,
        "Anomalous ones with the lowest": order[anomalous[order]],
    }
    return plots.image_pairs({title: images.pairs(rows) for title, rows in groups.items()})


def _head(epochs: Sequence[Mapping[str, float]]) -> "Figure":
    from metrad.evaluation import plots

    return plots.head(epochs)


def _study(epochs: Sequence[Mapping[str, float | None]]) -> "Figure":
    from metrad.evaluation import plots

    return plots.study(epochs)


def _selection(selection: Selection) -> "Figure":
    from metrad.evaluation import plots

    return plots.selection(selection.rows, selection.chosen)


PICTURES = (
    RunPicture(
        name="roc",
        material="evaluation",
        draw=_roc,
        title="ROC curve",
        caption="Anomalous images found against normal images called anomalous, over all thresholds.",
        in_report=False,  # drawn from scores.csv
    ),
    RunPicture(
        name="scores",
        material="evaluation",
        draw=_scores,
        title="Scores",
        caption="Scores of the normal and of the anomalous test images, and the thresholds.",
        in_report=False,  # drawn from scores.csv
    ),
    RunPicture(
        name="neighbours",
        material="images",
        draw=_neighbours,
        title="Neighbours",
        caption="The test images with the highest and the lowest scores above their nearest normal training images.",
        in_report=False,  # the section Evidence shows it if there is no hardest.png
    ),
    RunPicture(
        name="hardest",
        material="images",
        draw=_hardest,
        title="Hardest images",
        caption="The normal images with the highest and the anomalous ones with the lowest scores, and their nearest.",
        in_report=False,  # shown in the section Evidence
    ),
    RunPicture(
        name="head",
        material="epochs",
        draw=_head,
        title="The head over epochs",
        caption="Angles, cosines, scale, accuracy and loss in training.",
        in_report=False,  # drawn from epochs.csv
    ),
    RunPicture(
        name="study",
        material="study",
        draw=_study,
        title="AUROC after each epoch",
        caption="The AUROC of the test images and the effective rank of the normal embeddings.",
        in_report=False,  # drawn from study.csv
    ),
    RunPicture(
        name="selection",
        material="selection",
        draw=_selection,
        title="Selection",
        caption="Mean AUROC over the reference classes held out in turn, by epoch, candidate and scorer.",
    ),
)
