"""The LightningModule: embedder, head and optimiser. It does no scoring."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metrad import collectives
from metrad.errors import DivergedError
from metrad.models.embedder import Embedder
from metrad.models.heads import Head, HeadStatistics, Reach
from metrad.training.finetuning import Finetuning
from metrad.training.finetuning_methods import Teacher, freeze_batch_norms, moving_average, parameter_groups

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]
MakeScheduler = Callable[[Optimizer], Any]


class MetricLearner(pl.LightningModule):
    """Trains an embedder through a head.

    Args:
        embedder: turns images into embeddings; kept after training.
        head: turns embeddings and labels into loss and logits.
        optimizer: makes the optimiser of all parameters, the head's included.
        augmentation: changes the images (N, height, width, channels) uint8 of a training step; None for no change.
        scheduler: makes a learning-rate scheduler that steps once an epoch; None for a constant rate.
        finetuning: options that keep the embedder near its initial weights; None for the defaults.
        seed: with the epoch, seeds the random draws inside the model, so that a resumed run repeats an unbroken one.

    Attributes:
        statistics: statistics of the head since the last reset.
        reach: reach of the head's settings since training began.
        average: moving average of the embedder; None if there is none.
        settings: settings that the weights depend on, by dotted keys, for the record in checkpoints; empty at first.
    """

    def __init__(
        self,
        embedder: Embedder,
        head: Head,
        optimizer: MakeOptimizer,
        *,
        augmentation: nn.Module | None = None,
        scheduler: MakeScheduler | None = None,
        finetuning: Finetuning | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.head = head
        self.augmentation = augmentation
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.seed = seed
        self.settings: dict[str, Any] = {}
        self.statistics = HeadStatistics()
        self.reach = Reach()
        self.finetuning = finetuning or Finetuning()
        self.teacher = Teacher(embedder) if self.finetuning.distillation else None
        self.average = moving_average(embedder, self.finetuning.ema) if self.finetuning.ema else None

    @property
    def evaluated(self) -> Embedder:
        """The embedder to evaluate: the moving average, if there is one."""
        evaluated: Embedder = self.embedder if self.average is None else self.average.module
        return evaluated

    def on_train_epoch_start(self) -> None:
        """Seed augmentation, dropout and other random draws by seed, epoch and rank."""
        if not self.finetuning.batch_norm:
            freeze_batch_norms(self.embedder)
        torch.manual_seed(self.seed * 100_003 + self.current_epoch + 1_000_003_000_019 * collectives.rank())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of images (N, height, width, channels) uint8 and the head's labels (N,).

        Raises:
            DivergedError: an embedding or the loss is not finite.
        """
        images, labels = batch
        augmented = self._augmented(images)
        embeddings = self.embedder(augmented)
        loss: Tensor = self.head(embeddings, labels)[0]
        if self.teacher:
            loss = loss + self.finetuning.distillation * self.teacher.loss(augmented, embeddings)
        # A pair loss may leave out NaN distances and stay finite, so a check of the loss is not enough.
        if not (torch.isfinite(loss) & torch.isfinite(embeddings).all()):
            what = f"the loss became {loss.item()}" if torch.isfinite(embeddings).all() else _spoilt(embeddings)
            raise DivergedError(
                f"{what} at step {self.global_step} (epoch {self.current_epoch}); "
                "lower optimizer.lr, or set trainer.precision=32-true or trainer.gradient_clip_val=1"
            )
        self.statistics.update(self.head, embeddings, labels)
        self.reach.update(self.head, embeddings, labels)
        self.log(
            *("loss", loss.detach()),
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(labels),
            sync_dist=collectives.several(),
        )
        return loss * collectives.gradient_weight(labels)

    def _augmented(self, images: Tensor) -> Tensor:
        if self.augmentation is None:
            return images
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            augmented: Tensor = self.augmentation(images)
        return augmented

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, from the gradients of one or more batches, and the moving average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.embedder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the weights depend on and the state dict does not show."""
        checkpoint["head"] = type(self.head).__qualname__
        checkpoint["finetuning"] = asdict(self.finetuning)
        checkpoint["settings"] = self.settings
        checkpoint["precision"] = str(self.trainer.precision)
        checkpoint["reach"] = self.reach.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the reach of the head's settings, which older checkpoints lack."""
        if "reach" in checkpoint:
            self.reach.load_state_dict(checkpoint["reach"])

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with the scheduler if there is one."""
        optimizer = self._optimizer()
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def _optimizer(self) -> Optimizer:
        if self.finetuning.layer_decay == 1:
            return self.make_optimizer([*self.embedder.parameters(), *self.head.parameters()])
        groups = parameter_groups(self.embedder, self.head, self.finetuning.layer_decay)
        optimizer = self.make_optimizer([{"params": parameters} for parameters, _ in groups])
        for group, (_, share) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] *= share
        return optimizer


def _spoilt(embeddings: Tensor) -> str:
    count = int((~torch.isfinite(embeddings)).any(dim=1).sum())
    return f"{count} of {len(embeddings)} embeddings became NaN or infinite"
