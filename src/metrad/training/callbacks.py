"""Callbacks of training for signals and memory."""

import signal
from contextlib import ExitStack

import pytorch_lightning as pl

from metrad.models.cpu import lean_memory


class KeepSigterm(pl.Callback):
    """Keeps the SIGTERM handler from before training, if there was one.

    Lightning's own handler ends training. Slurm sends SIGTERM to announce a preemption. A job that then ends by itself
    is over; a job that continues until it is killed is requeued.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the earlier handler; Lightning has set its own by now."""
        if callable(self.before):
            signal.signal(signal.SIGTERM, self.before)


class LeanMemory(pl.Callback):
    """Trains inside ``lean_memory``."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Enter ``lean_memory``."""
        self._open.enter_context(lean_memory(trainer.strategy.root_device))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave ``lean_memory``."""
        self._open.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave ``lean_memory`` after an error too."""
        self._open.close()
