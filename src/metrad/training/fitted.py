"""The results of training a run, before scoring."""

from dataclasses import dataclass
from typing import Any

from metrad.data.prepared import PreparedData
from metrad.evaluation.embeddings import Embedded
from metrad.training.epoch_log import EpochLog
from metrad.training.epoch_study import EpochStudy
from metrad.training.learner import MetricLearner


@dataclass(frozen=True)
class Selected:
    """The result of a selection of epochs, settings and scorer.

    Attributes:
        figures: entries of ``metrics.json`` about the choice.
        rows: AUROC of each candidate, stand-in, epoch and scorer.
        seconds: duration of the selection, summed over all processes of a resumed run.
        here: part of ``seconds`` spent in this process.
        defects: kinds of synthetic defect that stood in; empty for reference classes.
    """

    figures: dict[str, Any]
    rows: list[dict[str, Any]]
    seconds: float
    here: float
    defects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """A trained model and the embeddings of the images.

    Attributes:
        learner: embedder and head.
        data: images and their split.
        embedded: embeddings; empty on all ranks but the first, and in a fold of a selection.
        epochs: log of the epochs.
        study: study of the epochs; without rows if it has no scorers.
        precision: precision of the embeddings, named as in Lightning.
        selected: result of the selection; None without a selection.
        seconds: duration of each phase.
        started: start of the training, from ``time.perf_counter``.
        first: whether this process is the first rank; True for a single process.
    """

    learner: MetricLearner
    data: PreparedData
    embedded: Embedded
    epochs: EpochLog
    study: EpochStudy
    precision: str
    selected: Selected | None
    seconds: dict[str, float]
    started: float
    first: bool
