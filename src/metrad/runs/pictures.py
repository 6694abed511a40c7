"""The pictures of a run: an entry for each says how it is drawn and named, and how a report shows it.

numpy, matplotlib and torch are imported only to draw, so that the names are available at once.
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
    from metrad.evaluation.unusual import UnusualImage

IMAGES_IN_A_ROW = 8  # number of test images in a row
Material = Literal[
    "evaluation", "images", "unusual", "epochs", "study", "selection", "synthetic", "good_images", "envelope"
]


@dataclass(frozen=True, kw_only=True)
class RunPicture:
    """A picture of a run.

    Attributes:
        name: name of its file, ``NAME.png``, in the directory of the run or in the folder of an evaluation.
        material: kind of content that it is drawn from: the ``Evaluation``, the ``ScoredImages``, the
            ``UnusualImages``, the rows of ``epochs.csv``, ``study.csv`` or ``good_images.csv``, the ``Selection``, the
            ``SyntheticDefects``, or the content of ``envelope.json``. A run without this content has no such picture.
        draw: returns the figure of the content; None if the content lacks what it shows, such as anomalous images.
        title: title in the report of a run.
        caption: sentence that says what the picture shows.
        in_report: False if the section "Pictures" of a report omits the file, for example because another section
            draws the same from the tables of the run.
    """

    name: str
    material: Material
    draw: Callable[[Any], "Figure | None"]
    title: str
    caption: str
    in_report: bool = True


@dataclass(frozen=True)
class ScoredImages:
    """The scores of the test images, and the pixels of test images and normal images."""

    result: "Evaluation"
    embedded: "Embedded"
    data: "PreparedData"

    def pairs(self, rows: "np.ndarray") -> "list[ImagePair]":
        """Return the pairs of the first 8 of ``rows`` (N,), which are positions among the test images."""
        import numpy as np

        from metrad.evaluation.plots import ImagePair

        result, images, rows = self.result, self.data.image_set.images, rows[:IMAGES_IN_A_ROW]
        test = [result.records[row] for row in rows]
        nearest = [self.embedded.records["normal"][result.nearest[row]] for row in rows]
        truth = np.where(result.anomalous[rows], "anomalous", "normal")
        columns = zip(
            images[np.array([record.position for record in test], dtype=int)],
            images[np.array([record.position for record in nearest], dtype=int)],
            [f"{score:.3g}\n{kind}" for score, kind in zip(result.scores[rows], truth, strict=True)],
            result.anomalous[rows],
            [record.image for record in test],
            [record.image for record in nearest],
            strict=True,
        )
        return [ImagePair(*column) for column in columns]


@dataclass(frozen=True)
class Selection:
    """The result of a selection: the rows of ``selection.csv``, and the chosen epochs, settings and scorer."""

    rows: Sequence[Mapping[str, Any]]
    chosen: Mapping[str, Any]


@dataclass(frozen=True)
class UnusualImages:
    """The good images of a run, the most unusual first, and their pixels."""

    found: "Sequence[UnusualImage]"
    data: "PreparedData"

    def pairs(self, first: int) -> "list[ImagePair]":
        """Return the pairs of 8 images from the position ``first``."""
        import numpy as np

        from metrad.evaluation.plots import ImagePair

        rows, images = self.found[first : first + IMAGES_IN_A_ROW], self.data.image_set.images
        own = images[np.array([one.record.position for one in rows], dtype=int)]
        nearest = images[np.array([one.nearest.position for one in rows], dtype=int)]
        return [
            ImagePair(
                above,
                below,
                title=f"{one.distance:.3g}\n{one.role}",
                anomalous=False,
                name=one.record.image,
                nearest_name=one.nearest.image,
            )
            for one, above, below in zip(rows, own, nearest, strict=True)
        ]


@dataclass(frozen=True)
class SyntheticDefects:
    """Kinds of synthetic defect, and the data whose normal images get them."""

    kinds: Sequence[str]
    data: "PreparedData"

    def pairs(self, first: int) -> "list[ImagePair]":
        """Return 8 images with a defect, the kinds in turns, each with the image that it was made from.

        ``first`` is the position of the first one among the normal images.
        """
        import numpy as np

        from metrad.data.synthetic_fold import defective
        from metrad.evaluation.plots import ImagePair

        normal = np.resize(self.data.split.indices["normal"][first:], IMAGES_IN_A_ROW + 1)
        plain, kinds = self.data.image_set.images[normal], np.resize(self.kinds, IMAGES_IN_A_ROW).tolist()
        return [
            ImagePair(defective(plain[i], plain[i + 1], kind, [0, first, i]), plain[i], kind, anomalous=True)
            for i, kind in enumerate(kinds)
        ]


def _roc(result: "Evaluation") -> "Figure | None":
    from metrad.evaluation import plots

    if not result.anomalous.any():
        return None
    return plots.roc(result.scores, result.anomalous, result.metrics["auroc"])


def _scores(result: "Evaluation") -> "Figure":
    from metrad.evaluation import plots

    lines = {entry["false_alarm_rate"]: entry["threshold"] for entry in result.metrics["thresholds"]}
    return plots.histogram(result.scores, result.anomalous, result.metrics["auroc"], lines)


def _neighbours(images: ScoredImages) -> "Figure":
    from metrad.evaluation import plots

    order = images.result.scores.argsort(kind="stable")
    groups = {"Highest scores": order[::-1], "Lowest scores": order}
    return plots.image_pairs({title: images.pairs(rows) for title, rows in groups.items()})


def _hardest(images: ScoredImages) -> "Figure | None":
    from metrad.evaluation import plots

    if not images.result.anomalous.any():
        return None
    order, anomalous = images.result.scores.argsort(kind="stable"), images.result.anomalous
    normal = order[~anomalous[order]][::-1]
    groups = {
        "Normal images with the highest scores": normal,
        "Anomalous ones with the lowest": order[anomalous[order]],
    }
    return plots.image_pairs({title: images.pairs(rows) for title, rows in groups.items()})


def _unusual(images: UnusualImages) -> "Figure":
    from metrad.evaluation import plots

    starts = {"Most unusual good images": 0, "The next": IMAGES_IN_A_ROW}
    return plots.image_pairs({title: images.pairs(first) for title, first in starts.items()}, upper="good image")


def _head(epochs: Sequence[Mapping[str, float]]) -> "Figure":
    from metrad.evaluation import plots

    return plots.head(epochs)


def _study(epochs: Sequence[Mapping[str, float | None]]) -> "Figure":
    from metrad.evaluation import plots

    return plots.study(epochs)


def _selection(selection: Selection) -> "Figure":
    from metrad.evaluation import plots

    return plots.selection(selection.rows, selection.chosen)


def _synthetic(defects: SyntheticDefects) -> "Figure":
    from metrad.evaluation import plots

    starts = {"Synthetic defects": 0, "More": IMAGES_IN_A_ROW}
    pairs = {title: defects.pairs(first) for title, first in starts.items()}
    return plots.image_pairs(pairs, upper="with a defect", lower="the good image")


def _good_images(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    from metrad.evaluation import plots

    return plots.good_images(rows)


def _envelope(found: Mapping[str, Any]) -> "Figure":
    from metrad.evaluation import plots

    return plots.envelope(found)


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
        in_report=False,  # the section "Evidence" shows it if there is no hardest.png
    ),
    RunPicture(
        name="hardest",
        material="images",
        draw=_hardest,
        title="Hardest images",
        caption="The normal images with the highest and the anomalous ones with the lowest scores, and their nearest.",
        in_report=False,  # the section "Evidence" shows it
    ),
    RunPicture(
        name="unusual",
        material="unusual",
        draw=_unusual,
        title="Most unusual good images",
        caption="The good images of all roles that are most unlike the others; a good folder may hold defects.",
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
        caption="Mean AUROC over the stand-ins held out in turn, by epoch, candidate and scorer.",
    ),
    RunPicture(
        name="synthetic",
        material="synthetic",
        draw=_synthetic,
        title="Synthetic defects",
        caption="Good images with the defects that stood in for anomalies when choosing; none was trained on.",
    ),
    RunPicture(
        name="good_images",
        material="good_images",
        draw=_good_images,
        title="More and fewer good images",
        caption="AUROC, and alarms at one threshold, by the number of good images that the scorer compares with.",
        in_report=False,  # of an evaluation; the section "Good images" shows it
    ),
    RunPicture(
        name="envelope",
        material="envelope",
        draw=_envelope,
        title="Operating envelope",
        caption="False alarms on the calibration images under small changes of the photograph, by strength.",
        in_report=False,  # drawn from envelope.json
    ),
)
