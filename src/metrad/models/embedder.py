"""The embedder: the deployable model, from images to embeddings."""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from metrad.models.base import Backbone
from metrad.models.cpu import overwrite, quicken
from metrad.models.pooling import pool


class Embedder(nn.Module):
    """Resizing, normalisation, backbone, pooling, averaging over flips, and whitening in one module.

    Mean, standard deviation and whitening are buffers, so they are saved with the weights.

    Args:
        backbone: the module and its input specification.
        image_size: height and width of the backbone's input in pixels; None for the size its weights prefer.
        channels_last: keep images and weights in channels-last order, which is fastest for convolutions on CPUs and
            recent GPUs.
        whiten: whether to whiten embeddings outside training mode; before ``set_whitening`` they stay unchanged.
        test_time_flip: whether an embedding outside training mode is the mean over the image and its mirror image,
            taken before whitening. Source: Krizhevsky, Sutskever and Hinton 2012, NeurIPS, average over flips.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    whitening: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int | None = None,
        channels_last: bool = True,
        whiten: bool = False,
        test_time_flip: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone.module
        quicken(self.backbone)
        self.out_features = backbone.out_features
        self.size = image_size or backbone.input_spec.size
        self.test_time_flip = test_time_flip
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)
        self.register_buffer("mean", torch.tensor(backbone.input_spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.input_spec.std).view(1, 3, 1, 1))
        self.register_buffer("centre", torch.zeros(self.out_features) if whiten else None)
        self.register_buffer("whitening", torch.eye(self.out_features) if whiten else None)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or evaluation mode, in which activations overwrite their input."""
        overwrite(self.backbone, on=not mode)
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, out_features) of uint8 images (N, height, width, channels), channels 1 or 3."""
        batch = self.preprocess(images)
        embeddings = pool(self.backbone(batch))
        if self.training:
            return embeddings
        if self.test_time_flip:
            embeddings = (embeddings + pool(self.backbone(batch.flip(-1)))) / 2
        return self.whitened(embeddings)

    def whitened(self, embeddings: Tensor) -> Tensor:
        """Return W(e - c) for embeddings e (N, D), or e itself if this embedder does not whiten."""
        if self.whitening is None:
            return embeddings
        with torch.autocast(embeddings.device.type, enabled=False):
            return (embeddings.to(self.centre.dtype) - self.centre) @ self.whitening.T

    def set_whitening(self, centre: np.ndarray, whitening: np.ndarray) -> None:
        """Set the whitening of an embedding e to W(e - c), with c ``centre`` (D,) and W ``whitening`` (D, D)."""
        assert self.whitening is not None
        self.centre.copy_(torch.from_numpy(centre))
        self.whitening.copy_(torch.from_numpy(whitening))

    def preprocess(self, images: Tensor) -> Tensor:
        """Return uint8 images (N, height, width, channels) as input of the backbone, (N, 3, size, size)."""
        ready = images.shape[1:] == (self.size, self.size, 3) and self.mean.dtype == torch.float32
        if ready and images.device.type == "cpu" and torch.is_inference_mode_enabled():
            return self._normalised_rows(images).to(memory_format=self.memory_format)
        batch = images.permute(0, 3, 1, 2).float().div_(255)
        if batch.shape[-2:] != (self.size, self.size):
            batch = transforms.resize(batch, [self.size, self.size], antialias=True)
        normalised = (batch.expand(-1, 3, -1, -1) - self.mean) / self.std
        return normalised.to(self.mean.dtype, memory_format=self.memory_format)

    def _normalised_rows(self, images: Tensor) -> Tensor:
        """Return what ``preprocess`` does for images of the right size, in place and a whole row at a time."""
        mean, std = (values.flatten().repeat(self.size) for values in (self.mean, self.std))
        rows = images.reshape(-1, 3 * self.size).float().div_(255).sub_(mean).div_(std)
        return rows.view(images.shape).permute(0, 3, 1, 2)
