"""Who answers to signals while a model is trained."""

import signal
from contextlib import ExitStack

import pytorch_lightning as pl

from metrad.models.cpu import lean_memory


class KeepSigterm(pl.Callback):
    """Leaves SIGTERM to whoever had it before training began, if anybody had.

    Lightning ends training on SIGTERM. In a job that Slurm preempts, that is the announcement of the end, and a job
    that ends by itself then is over, while one that goes on until it is killed is requeued.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the earlier handler back; Lightning has set its own by now."""
        if callable(self.before):
            signal.signal(signal.SIGTERM, self.before)


class LeanMemory(pl.Callback):
    """Trains with ``lean_memory``."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self._open.enter_context(lean_memory(trainer.strategy.root_device))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End."""
        self._open.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End, whatever happened."""
        self._open.close()
