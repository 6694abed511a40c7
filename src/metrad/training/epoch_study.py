"""What an evaluation would find after every epoch: for studies of training, never for a choice."""

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
from metrad.evaluation.embeddings import Embedded, fit_and_embed, roles_for
from metrad.evaluation.evaluate import attach_head
from metrad.evaluation.metrics import shown_in, summary
from metrad.evaluation.spectrum import spread_rank
from metrad.models.heads import Head
from metrad.scorers import Scorer
from metrad.training.epoch_log import EpochLog
from metrad.training.learner import MetricLearner

log = logging.getLogger(__name__)


class EpochStudy(pl.Callback):
    """Scores the test images before the first and after every epoch, and measures how far the normal ones spread.

    **These metrics are of the test images.** Nothing reads them but ``study.csv``, its picture and the report; they
    stop nothing and choose nothing. Training is the same with a study as without, bit for bit: copies of embedder and
    head are what is evaluated, and the random states are put back.

    Args:
        data: the images.
        epochs: what is noted of training; in the trainer's list of callbacks it comes before this one.
        scorers: by name, what makes a scorer that is not fitted. The first is the run's own; none for no study.
        told: what its lines in the log begin with.

    Attributes:
        history: for each epoch its number (0 before training), the metrics that a study shows, effective rank of the
            normal embeddings about their mean, ``auroc NAME`` for each scorer but the first, accuracy and loss in
            training; None for what there is not. It is part of the checkpoint, so a resumed run has that of all epochs;
            on other ranks than the first it is empty.
        seconds: time that all of it took; of a resumed run, that of all epochs.
        here: the part of ``seconds`` that this process took.
    """

    def __init__(
        self,
        data: PreparedData,
        epochs: EpochLog,
        scorers: Mapping[str, Callable[[], Scorer]],
        *,
        told: str = "study",
    ) -> None:
        self.data = data
        self.told = told
        self.epochs = epochs
        self.scorers = scorers
        self.history: list[dict[str, float | None]] = []
        self.seconds = 0.0
        self.here = 0.0

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint, which earlier versions wrote too."""
        return "Study"

    @property
    def wanted(self) -> bool:
        """Whether there is one."""
        return bool(self.scorers)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what training begins with, unless the checkpoint that it goes on from brought that."""
        begins = trainer.datamodule.first_epoch  # type: ignore[attr-defined]
        if not any(row["epoch"] == begins for row in self.history):
            self._note(trainer, pl_module, {"epoch": begins, "accuracy": None, "loss": None})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what the epoch made of it."""
        self._note(trainer, pl_module, self.epochs.history[-1])

    def _note(self, trainer: pl.Trainer, learner: pl.LightningModule, epoch: dict[str, Any]) -> None:
        if not self.scorers:
            return
        start = time.perf_counter()
        assert isinstance(learner, MetricLearner)
        with isolate_rng():
            embedder = copy.deepcopy(learner.evaluated)
            device, precision = trainer.strategy.root_device, str(trainer.precision)
            roles = roles_for(make() for make in self.scorers.values())
            embedded = fit_and_embed(embedder, self.data, roles, device=device, precision=precision)
            if collectives.rank() == 0:
                found = self._figures(copy.deepcopy(learner.head).cpu(), embedded)
                trained = {"accuracy": epoch["accuracy"], "loss": epoch["loss"]}
                self.history.append({"epoch": epoch["epoch"], **found, **trained})
        took = time.perf_counter() - start
        self.seconds, self.here = self.seconds + took, self.here + took

    def _figures(self, head: Head, embedded: Embedded) -> dict[str, float | None]:
        """Return what a row says of the embeddings."""
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
            log.info("%s: AUROC %.4f, effective rank %.1f", self.told, found["auroc"], found["effective_rank"])
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"history": self.history, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history = list(state_dict["history"])
        self.seconds = state_dict["seconds"]


def _measured(scorer: Scorer, embedded: Embedded) -> dict[str, float | None]:
    """Return a study's metrics by a scorer; None for each if it cannot serve the embeddings, which ends no training."""
    names = [metric.name for metric in shown_in("study")]
    try:
        scorer.fit(embedded.arrays["normal"], embedded.normal_classes, reference=embedded.reference)
        found = summary(scorer.score(embedded.test), embedded.anomalous)
    except InputError as error:
        log.warning("nothing to note of this epoch: %s", error)
        return dict.fromkeys(names)
    return {name: found[name] for name in names}
