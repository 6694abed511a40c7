"""The forward pass that computes embeddings: in inference mode, in half precision, in the largest batch that fits."""

import numpy as np
import torch
from torch import Tensor

from metrad import collectives
from metrad.data.arrays import Indexable
from metrad.models.cpu import folded
from metrad.models.embedder import Embedder
from metrad.threads import in_blocks, running_a_model

CPU_BATCH = 128  # images that are loaded at a time for a CPU
GPU_BATCHES = (128, 4096)  # the batch whose memory is measured, and the largest batch
BATCH_SHARE = 0.5  # share of all GPU memory, free or not, so that a repeated run has the same batch size


def half_type(precision: str) -> torch.dtype | None:
    """Return the half-precision type of a precision by its Lightning name; None if it has none."""
    return {"bf16": torch.bfloat16, "16": torch.float16}.get(precision.split("-", maxsplit=1)[0])


class Forward:
    """Computes the embeddings of batches of images.

    Args:
        embedder: on ``device``, in evaluation mode, its weights in float32. On a CPU it is used as it is now, with its
            batch normalisations folded; a change of its weights later may have no effect.
        device: the device to compute on.
        half: type that autocast uses; None for float32 throughout.
    """

    def __init__(self, embedder: Embedder, device: torch.device, half: torch.dtype | None) -> None:
        self.embedder = folded(embedder) if device.type == "cpu" else embedder
        self.device = device
        self.half = half

    def __call__(self, images: Tensor) -> np.ndarray:
        """Return embeddings (N, D) float32 of images (N, height, width, channels) uint8.

        On a CPU the embedding of an image depends neither on the images beside it nor on the number of threads; see
        ``threads.in_blocks``. A batch that does not fit into the memory of the GPU is halved.

        Raises:
            torch.OutOfMemoryError: a single image does not fit.
        """
        return in_blocks(self._halving, images) if self.device.type == "cpu" else self._halving(images)

    def whitened(self, embeddings: np.ndarray) -> np.ndarray:
        """Return plain embeddings (N, D) whitened by the embedder, as a forward pass of their images would."""

        def whiten(rows: Tensor) -> np.ndarray:
            with running_a_model(), torch.inference_mode():
                found: np.ndarray = self.embedder.whitened(rows.to(self.device)).cpu().numpy()
            return found

        rows = torch.from_numpy(embeddings)
        return in_blocks(whiten, rows) if self.device.type == "cpu" else whiten(rows)

    def _halving(self, images: Tensor) -> np.ndarray:
        try:
            return self._once(images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        torch.cuda.empty_cache()
        return np.concatenate([self._halving(part) for part in images.split(-(-len(images) // 2))])

    def _once(self, images: Tensor) -> np.ndarray:
        half = torch.autocast(self.device.type, self.half, enabled=self.half is not None)
        with running_a_model(), torch.inference_mode(), half:
            embeddings: np.ndarray = self.embedder(images.to(self.device, non_blocking=True)).float().cpu().numpy()
        return embeddings

    def largest_batch(self, images: Indexable, indices: np.ndarray) -> int:
        """Return the batch size of all ranks: on a GPU the largest power of two that fits, on a CPU ``CPU_BATCH``.

        Args:
            images: images of the source.
            indices: positions of the images to embed, (N,). The first image is used to measure memory, and their number
                bounds the batch size on a GPU.
        """
        if self.device.type != "cuda":
            return CPU_BATCH
        image = torch.from_numpy(images[indices[:1]])
        smallest, largest = GPU_BATCHES
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self(image.expand(smallest, -1, -1, -1))
        needed = max(1, torch.cuda.max_memory_allocated(self.device) - before)
        total = torch.cuda.get_device_properties(self.device).total_memory
        return collectives.same(fitting_batch(needed / smallest, BATCH_SHARE * total, min(len(indices), largest)))


def fitting_batch(bytes_each: float, memory: float, most: int) -> int:
    """Return the largest power of two for which a batch fits into ``memory`` bytes, at least 1.

    An image needs ``bytes_each`` bytes. The result is at most the first power of two that reaches ``most``.
    """
    size = 1
    while size < most and 2 * size * bytes_each <= memory:
        size *= 2
    return size
