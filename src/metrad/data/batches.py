"""Batches of images: which, in what order, and from where."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from metrad import collectives
from metrad.data.arrays import Indexable, OnDemand

GPU_SHARE = 0.25  # of a GPU's free memory, up to which training images are kept there
_ROWS = 4096  # images copied to a GPU at once

Batch = tuple[Tensor, Tensor]


class ImageBatches(Dataset[Batch]):
    """Whole batches by index tensor: one gather, no Python an image.

    Args:
        images: the source's images.
        indices: positions in the source, (N,).
        labels: (N,); or (T·N,) for T - 1 further rounds of the same images, each turned by 90 degrees more.
    """

    def __init__(self, images: Indexable, indices: np.ndarray, labels: Tensor) -> None:
        self.images = images
        self.indices = indices
        self.labels = labels

    def __getitem__(self, chosen: Tensor) -> Batch:
        rounds, place = divided(chosen, len(self.indices))
        return turned(torch.from_numpy(self.images[self.indices[place.numpy()]]), rounds), self.labels[chosen]


class ResidentBatches(Dataset[Batch]):
    """The same batches from a copy of the images on a device, so that of a batch only its positions go there."""

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
    """Return of positions (B,) in rounds of ``count`` images the round and the place in it, each (B,)."""
    return chosen // count, chosen % count


def turned(images: Tensor, quarters: Tensor) -> Tensor:
    """Return images (B, height, width, channels), each turned by 90 degrees as often as ``quarters`` (B,) says."""
    for quarter in set(quarters.tolist()) - {0}:
        wanted = quarters == quarter
        images[wanted] = images[wanted].rot90(quarter, dims=(1, 2))
    return images


def fits(batches: ImageBatches, device: torch.device) -> bool:
    """Tell whether the images of ``batches`` are to be kept on ``device``.

    They are on the GPU of a single rank, if they take at most ``GPU_SHARE`` of its free memory and need not be decoded
    on demand.
    """
    if device.type != "cuda" or collectives.several() or isinstance(batches.images, OnDemand):
        return False
    needed: int = len(batches.indices) * batches.images[batches.indices[:1]].nbytes
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= GPU_SHARE * free


class EpochShuffle(Sampler[Tensor]):
    """Batches of positions in an order that depends on the seed and the epoch alone, so that resuming repeats it.

    Of each batch a rank gets its part: all ranks together step through the batches of a single process. The parts of a
    batch that does not divide differ by one image. A last batch of fewer than ``least`` images is left out; in one
    of a single image batch normalisation has nothing to average.

    Args:
        count: how many positions.
        batch_size: positions a batch, of all ranks together.
        seed: of the order.
        least: the fewest positions of a batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, least: int = 2) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.least = least
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, math.ceil(self.count / self.batch_size) - (0 < self.count % self.batch_size < self.least))

    def __iter__(self) -> Iterator[Tensor]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        batches = torch.from_numpy(order).split(self.batch_size)[: len(self)]
        return (batch.tensor_split(collectives.world_size())[collectives.rank()] for batch in batches)
