"""The log of a training: loss, statistics of the head and duration of each epoch."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from metrad import collectives
from metrad.training.learner import MetricLearner

log = logging.getLogger(__name__)


class EpochLog(pl.Callback):
    """Logs a line per epoch, keeps its metrics, and measures the training time.

    Checkpoints contain ``history``, ``seconds`` and ``images``, so those of a resumed run cover all its epochs.

    Attributes:
        history: for each epoch its number from 1, its mean loss and the values of ``HeadStatistics``.
        seconds: duration of the epochs, without validation or checkpoints.
        images: number of images trained on in ``seconds``.
        earlier: part of ``seconds`` spent in earlier processes.

    Args:
        report: called with the number of finished epochs and of all epochs, before the first epoch and after each.
    """

    def __init__(self, report: Callable[[int, int | None], None] = lambda done, of: None) -> None:
        self.report = report
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.images = 0
        self.earlier = 0.0
        self._start = 0.0
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the number of epochs finished before."""
        self.report(trainer.current_epoch, trainer.max_epochs)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to measure the epoch."""
        self._start, self._images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count this rank's images of the batch."""
        self._images += len(batch[1])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the duration of the epoch; log and keep its metrics over all ranks."""
        took = time.perf_counter() - self._start
        self.seconds += took
        self.images += collectives.total(self._images)
        assert isinstance(pl_module, MetricLearner)
        metrics = pl_module.statistics.compute()
        pl_module.statistics.reset()
        pl_module.log_dict(metrics, sync_dist=collectives.several())
        epoch = {"epoch": trainer.current_epoch + 1, "loss": float(trainer.callback_metrics["loss"]), **metrics}
        self.history.append(epoch)
        line = "loss {loss:.4f}, accuracy {accuracy:.4f}, scale {scale:.2f}, median angle {angle_median:.0f}°"
        log.info("epoch %d/%s: %s, %.1f s", epoch["epoch"], trainer.max_epochs, line.format(**epoch), took)
        self.report(trainer.current_epoch + 1, trainer.max_epochs)

    def state_dict(self) -> dict[str, Any]:
        """Return the state to keep in a checkpoint."""
        return {"history": self.history, "seconds": self.seconds, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.history = list(state_dict["history"])
        self.seconds, self.images = state_dict["seconds"], state_dict["images"]
        self.earlier = self.seconds
