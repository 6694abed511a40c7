"""The study of a training: metrics of the test images after each epoch."""

import copy
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng

from metrad import collectives
from metrad.data.prepared import PreparedData
from metrad.errors import InputError
from metrad.evaluation.embeddings import Embedded, fit_and_embed
from metrad.evaluation.evaluate import attach_head
from metrad.evaluation.metrics import shown_in, summary
from metrad.evaluation.spectrum import spread_rank
from metrad.models.heads import Head
from metrad.scorers import Scorer
from metrad.training.epoch_log import EpochLog
from metrad.training.learner import MetricLearner

log = logging.getLogger(__name__)


class EpochStudy(pl.Callback):
    """Scores the test images before the first epoch and after each, and measures the spread of the normal embeddings.

    **A run's study uses its test images.** Its metrics go only into ``study.csv``, its plot and the report; they stop
    nothing and choose nothing. A fold of a selection is studied too, on training images that play the test images.
    The study evaluates copies of embedder and head and restores the random states, so it does not change training.

    Checkpoints contain ``history`` and ``seconds``, so those of a resumed run cover all its epochs.

    Args:
        data: images and their split.
        epochs: log of the epochs; it comes before this callback in the trainer's list.
        scorers: factories of unfitted scorers by name, the run's own first; empty for no study.
        label: first word of the study's log lines.

    Attributes:
        history: for each epoch its number (0 before training), the metrics that a study shows, the effective rank of
            the normal embeddings about their mean, ``auroc NAME`` for each scorer but the first, accuracy and loss in
            training. A missing value is None. Empty on all ranks but the first.
        seconds: duration of the study.
        here: part of ``seconds`` spent in this process.
    """

    def __init__(
        self,
        data: PreparedData,
        epochs: EpochLog,
        scorers: Mapping[str, Callable[[], Scorer]],
        *,
        label: str = "study",
    ) -> None:
        self.data = data
        self.label = label
        self.epochs = epochs
        self.scorers = scorers
        self.history: list[dict[str, float | None]] = []
        self.seconds = 0.0
        self.here = 0.0

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint, the same as in earlier versions."""
        return "Study"

    @property
    def wanted(self) -> bool:
        """Whether there are scorers to study with."""
        return bool(self.scorers)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Study the weights that training starts from, unless ``history`` already has their row."""
        begins = trainer.datamodule.first_epoch  # type: ignore[attr-defined]
        if not any(row["epoch"] == begins for row in self.history):
            self._note(trainer, pl_module, {"epoch": begins, "accuracy": None, "loss": None})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Study the weights after the epoch."""
        self._note(trainer, pl_module, self.epochs.history[-1])

    def _note(self, trainer: pl.Trainer, learner: pl.LightningModule, epoch: dict[str, Any]) -> None:
        if not self.scorers:
            return
        start = time.perf_counter()
        assert isinstance(learner, MetricLearner)
        with isolate_rng():
            embedder = copy.deepcopy(learner.evaluated)
            device, precision = trainer.strategy.root_device, str(trainer.precision)
            scorers = [make() for make in self.scorers.values()]
            embedded = fit_and_embed(embedder, self.data, scorers, device=device, precision=precision)
            if collectives.rank() == 0:
                found = self._metrics(copy.deepcopy(learner.head).cpu(), embedded)
                trained = {"accuracy": epoch["accuracy"], "loss": epoch["loss"]}
                self.history.append({"epoch": epoch["epoch"], **found, **trained})
        took = time.perf_counter() - start
        self.seconds, self.here = self.seconds + took, self.here + took

    def _metrics(self, head: Head, embedded: Embedded) -> dict[str, float | None]:
        """Return the metrics of the embeddings for a row of ``history``."""
        found: dict[str, float | None] = {}
        normal = [self.data.image_set.classes[i] for i in self.data.classes.normal]
        for name, make in self.scorers.items():
            scorer = make()
            attach_head(scorer, head, self.data.head_classes, normal)
            measured = _measured(scorer, embedded)
            if found:
                found[f"auroc {name}"] = measured["auroc"]
            else:
                found = {**measured, "effective_rank": spread_rank(embedded.arrays["normal"])}
        if found["auroc"] is not None:
            log.info("%s: AUROC %.4f, effective rank %.1f", self.label, found["auroc"], found["effective_rank"])
        elif not embedded.anomalous.any():
            log.info(
                "%s: no anomalous test images, so no AUROC; effective rank %.1f", self.label, found["effective_rank"]
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the state to keep in a checkpoint."""
        return {"history": self.history, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.history = list(state_dict["history"])
        self.seconds = state_dict["seconds"]


def _measured(scorer: Scorer, embedded: Embedded) -> dict[str, float | None]:
    """Return the metrics that a study shows, by a scorer; None for each without anomalous test images.

    They are None too if the scorer cannot serve the embeddings. That case logs a warning, and training continues.
    """
    names = [metric.name for metric in shown_in("study")]
    try:
        scorer.fit(embedded.arrays["normal"], embedded.normal_classes, reference=embedded.reference)
        if not embedded.anomalous.any():
            return dict.fromkeys(names)
        found = summary(scorer.score(embedded.test), embedded.anomalous)
    except InputError as error:
        log.warning("no metrics of this epoch: %s", error)
        return dict.fromkeys(names)
    return {name: found[name] for name in names}
