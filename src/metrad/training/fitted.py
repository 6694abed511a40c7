"""What training a run gives, before anything is scored."""

from dataclasses import dataclass
from typing import Any

from metrad.data.prepared import PreparedData
from metrad.evaluation.embeddings import Embedded
from metrad.training.epoch_log import EpochLog
from metrad.training.epoch_study import EpochStudy
from metrad.training.learner import MetricLearner


@dataclass(frozen=True)
class Selected:
    """How epochs, settings and scorer of a run were chosen.

    Attributes:
        figures: what ``metrics.json`` says of the choice.
        rows: the AUROC of each candidate, class held out, epoch and scorer.
        seconds: time that choosing took; of a resumed run, in all.
        here: the part of ``seconds`` that this process took.
    """

    figures: dict[str, Any]
    rows: list[dict[str, Any]]
    seconds: float
    here: float


@dataclass(frozen=True)
class Fitted:
    """A trained model and the embeddings it gave.

    Attributes:
        learner: embedder and head.
        data: the images and their split.
        embedded: the embeddings; empty on other ranks than the first, and in a fold of a selection.
        epochs: what was noted of each epoch.
        study: what was scored after each epoch, if that was asked for.
        precision: in which the embeddings were computed, as Lightning names it.
        selected: how the run was chosen; None if nothing was.
        seconds: time of each phase.
        started: when it began, by ``time.perf_counter``.
        first: whether this is the first rank, or the only one.
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
