"""What is noted epoch by epoch while a run trains."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from metrad import collectives
from metrad.training.learner import MetricLearner

log = logging.getLogger(__name__)


class EpochLog(pl.Callback):
    """Logs a line an epoch, keeps its figures, and adds up the time that training takes.

    Attributes:
        history: for each epoch its number from 1, its mean loss and what ``HeadStatistics`` gives; it is part of the
            checkpoint, so a resumed run has that of all epochs.
        seconds: time that the epochs took, without validation or checkpoints; of a resumed run, that of all of them.
        images: images trained on in that time.
        earlier: the part of ``seconds`` that lies before this process.

    Args:
        tell: called with the number of epochs done and of all, before the first and after each.
    """

    def __init__(self, tell: Callable[[int, int | None], None] = lambda done, of: None) -> None:
        self.tell = tell
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.images = 0
        self.earlier = 0.0
        self._start = 0.0
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell where training begins."""
        self.tell(trainer.current_epoch, trainer.max_epochs)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start, self._images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's images, those of this rank."""
        self._images += len(batch[1])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock, and log and keep the figures of the epoch, over all ranks."""
        took = time.perf_counter() - self._start
        self.seconds += took
        self.images += collectives.total(self._images)
        assert isinstance(pl_module, MetricLearner)
        figures = pl_module.statistics.compute()
        pl_module.statistics.reset()
        pl_module.log_dict(figures, sync_dist=collectives.several())
        epoch = {"epoch": trainer.current_epoch + 1, "loss": float(trainer.callback_metrics["loss"]), **figures}
        self.history.append(epoch)
        told = "loss {loss:.4f}, accuracy {accuracy:.4f}, scale {scale:.2f}, median angle {angle_median:.0f}°"
        log.info("epoch %d/%s: %s, %.1f s", epoch["epoch"], trainer.max_epochs, told.format(**epoch), took)
        self.tell(trainer.current_epoch + 1, trainer.max_epochs)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"history": self.history, "seconds": self.seconds, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history = list(state_dict["history"])
        self.seconds, self.images = state_dict["seconds"], state_dict["images"]
        self.earlier = self.seconds
