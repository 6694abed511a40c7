"""The LightningDataModule: the training batches of a run's images."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from metrad import collectives
from metrad.data.batches import Batch, EpochShuffle, ImageBatches, ResidentBatches, fits
from metrad.data.prepared import PreparedData


class MetradDataModule(pl.LightningDataModule):
    """Serves the training images of ``data`` in batches.

    Args:
        data: the images and their split.
        batch_size: training images a step, of all ranks together.
        least_images: how many images each rank needs of a batch.

    Attributes:
        first_epoch: the epoch that training starts with. When a run is resumed, Lightning starts to iterate before it
            tells the sampler which epoch it is.
    """

    def __init__(self, data: PreparedData, *, batch_size: int, least_images: int = 1) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.least_images = least_images
        self.first_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning keeps in a checkpoint: which images the training part is made of."""
        return {"split": self.data.split_hash}

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return batches of reference and normal images with the head's labels, in a new order each epoch.

        Images are kept on a GPU that this run has to itself and that has room for them; to other GPUs batches go from
        pinned memory.
        """
        labels = self.data.head_labels
        batches = ImageBatches(self.data.image_set.images, self.data.train_indices, torch.from_numpy(labels))
        least = max(2, self.least_images * collectives.world_size())
        sampler = EpochShuffle(len(labels), self.batch_size, self.data.seed, least=least)
        sampler.set_epoch(self.first_epoch)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if fits(batches, device):
            return self.data.loader(ResidentBatches(batches, device), sampler)
        return self.data.loader(batches, sampler, pinned=device.type == "cuda")
