"""The LightningDataModule: batches of a run's training images."""

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
        data: images and their split.
        batch_size: training images per step, over all ranks.
        least_images: fewest images of a batch that each rank needs.

    Attributes:
        first_epoch: epoch that training starts with. In a resumed run, Lightning begins to iterate before it gives the
            sampler the number of the epoch.
    """

    def __init__(self, data: PreparedData, *, batch_size: int, least_images: int = 1) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.least_images = least_images
        self.first_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the hash of the split and the version of the decoder, by which a checkpoint identifies its images."""
        return {"split": self.data.split_hash, "decoder": self.data.decoding.decoder}

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return batches of reference and normal images with the head's labels, in a new order each epoch.

        The images are kept on the GPU of a single rank if they fit. Otherwise a GPU gets batches from pinned memory.
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
