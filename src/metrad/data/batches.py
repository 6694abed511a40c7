"""Batches of images: their order, their division among ranks, and the device they come from."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from metrad import collectives
from metrad.data.arrays import Indexable, OnDemand

RESIDENT_SHARE = 0.25  # of a GPU's free memory: the most that training images kept there may take
_ROWS = 4096  # images copied to a GPU at a time

Batch = tuple[Tensor, Tensor]


class ImageBatches(Dataset[Batch]):
    """A dataset of whole batches: an index tensor gives a batch in one gather, without a Python loop over images.

    Args:
        images: images of the source.
        indices: positions in the source, (N,).
        labels: (N,); or (T·N,) for T rounds over the images, each round rotated by 90 degrees more than the last.
    """

    def __init__(self, images: Indexable, indices: np.ndarray, labels: Tensor) -> None:
        self.images = images
        self.indices = indices
        self.labels = labels

    def __getitem__(self, chosen: Tensor) -> Batch:
        rounds, place = divided(chosen, len(self.indices))
        return turned(torch.from_numpy(self.images[self.indices[place.numpy()]]), rounds), self.labels[chosen]


class ResidentBatches(Dataset[Batch]):
    """The same batches from a copy of the images on a device, so that only positions travel to it."""

    def __init__(self, batches: ImageBatches, device: torch.device) -> None:
        parts = torch.arange(len(batches.indices)).split(_ROWS)
        first = batches[parts[0][:1]][0]
        self.images = torch.empty((len(batches.indices), *first.shape[1:]), dtype=first.dtype, device=device)
        for part in parts:
            self.images[part[0] : part[-1] + 1] = batches[part][0]
        self.labels = batches.labels.to(device)

    def __getitem__(self, chosen: Tensor) -> Batch:
        rounds, place = divided(chosen, len(self.images))
        return turned(self.images[place.to(self.labels.device)], rounds), self.labels[chosen.to(self.labels.device)]


def divided(chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the round, and the place in the round, of positions (B,) in rounds of ``count`` images, each (B,)."""
    return chosen // count, chosen % count


def turned(images: Tensor, quarters: Tensor) -> Tensor:
    """Rotate images (B, height, width, channels) in place, each by 90 degrees times its ``quarters`` (B,)."""
    for quarter in set(quarters.tolist()) - {0}:
        wanted = quarters == quarter
        images[wanted] = images[wanted].rot90(quarter, dims=(1, 2))
    return images


def fits(batches: ImageBatches, device: torch.device) -> bool:
    """Return whether to keep the images of ``batches`` on ``device``.

    A single rank keeps them on its GPU if they take at most ``RESIDENT_SHARE`` of its free memory and are not decoded
    on demand.
    """
    if device.type != "cuda" or collectives.several() or isinstance(batches.images, OnDemand):
        return False
    needed: int = len(batches.indices) * batches.images[batches.indices[:1]].nbytes
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= RESIDENT_SHARE * free


class EpochShuffle(Sampler[Tensor]):
    """Batches of positions in an order that depends only on seed and epoch, so that a resumed run repeats it.

    Each rank gets its part of every batch, so the ranks together step through the batches of a single process. The
    parts of a batch differ by at most one image. A last batch of fewer than ``least`` images is left out, because batch
    normalisation cannot average over a single image.

    Args:
        count: number of positions.
        batch_size: positions per batch, over all ranks.
        seed: seed of the order.
        least: smallest size of a batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, least: int = 2) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.least = least
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the order is drawn for; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, math.ceil(self.count / self.batch_size) - (0 < self.count % self.batch_size < self.least))

    def __iter__(self) -> Iterator[Tensor]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        batches = torch.from_numpy(order).split(self.batch_size)[: len(self)]
        return (batch.tensor_split(collectives.world_size())[collectives.rank()] for batch in batches)
