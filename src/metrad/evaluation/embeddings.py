"""The embeddings of a run's images: computed once, and whitened if the embedder has a whitening."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from metrad import collectives
from metrad.data.batches import Batch
from metrad.data.prepared import ImageRecord, PreparedData
from metrad.evaluation.forward import Forward, half_type
from metrad.models.cpu import lean_memory
from metrad.models.embedder import Embedder
from metrad.models.whitening import within_class_whitening
from metrad.progress import bar
from metrad.scorers import Scorer

EMBEDDED_ROLES = ("normal", "calibration", "test_normal", "test_anomalous")
REFERENCE = "reference"


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a run's images, and records of the images.

    Attributes:
        arrays: embeddings (N, D) float32 by role: ``EMBEDDED_ROLES``, and ``REFERENCE`` if a scorer needs it.
        records: records (N) of the images by role, in the order of the embeddings.
    """

    arrays: dict[str, np.ndarray]
    records: dict[str, list[ImageRecord]]

    @property
    def normal_classes(self) -> np.ndarray:
        """Number of the normal class of each normal embedding, (N,)."""
        return np.unique([record.class_name for record in self.records["normal"]], return_inverse=True)[1]

    @property
    def reference(self) -> np.ndarray | None:
        """The reference embeddings, (N, D); None if they were not computed."""
        return self.arrays.get(REFERENCE)

    @property
    def test(self) -> np.ndarray:
        """Embeddings of the test images, normal ones first, (N, D)."""
        return np.concatenate([self.arrays["test_normal"], self.arrays["test_anomalous"]])

    @property
    def anomalous(self) -> np.ndarray:
        """Whether each test image is anomalous, (N,) booleans in the order of ``test``."""
        normal, anomalous = len(self.arrays["test_normal"]), len(self.arrays["test_anomalous"])
        return np.arange(normal + anomalous) >= normal


def roles_for(scorers: Iterable[Scorer]) -> tuple[str, ...]:
    """Return the roles whose embeddings ``scorers`` need to be fitted and evaluated."""
    return (*EMBEDDED_ROLES, REFERENCE) if any(scorer.needs_reference for scorer in scorers) else EMBEDDED_ROLES


def embed(
    embedder: Embedder,
    data: PreparedData,
    roles: Sequence[str] = EMBEDDED_ROLES,
    *,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
) -> Embedded:
    """Return the embeddings of all images of ``roles``, as float32.

    With several ranks, each rank computes a part. The first rank returns all embeddings, the other ranks no rows.

    Args:
        embedder: turns images into embeddings; put into evaluation mode, and its weights into float32.
        data: the images and their split.
        roles: the roles to embed; see ``roles_for``.
        device: the device to compute on.
        precision: Lightning's name of a precision. Layers run in its half-precision type, if it has one; everything
            else is in float32.
    """
    indices = np.concatenate([data.split.indices[role] for role in roles])
    forward = Forward(embedder.to(device, torch.float32).eval(), torch.device(device), half_type(precision))
    size = forward.largest_batch(data.image_set.images, indices)
    spans = collectives.spans(len(indices), size)
    mine = indices[slice(*spans[collectives.rank()])]
    batches = data.batches(mine, size, pinned=forward.device.type == "cuda")
    records = {role: data.records(role) for role in roles}
    with lean_memory(forward.device):
        found = _filled(forward, batches, len(mine))
    ends = np.cumsum([len(data.split.indices[role]) for role in roles])
    arrays = dict(zip(roles, np.split(collectives.gather(found, spans), ends[:-1]), strict=True))
    return Embedded(arrays, records)


def fit_and_embed(
    embedder: Embedder,
    data: PreparedData,
    scorers: Sequence[Scorer],
    *,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
) -> Embedded:
    """Fit the whitening of ``embedder``, if it has one, and return the embeddings that ``scorers`` need.

    Each image is embedded once for both. The whitening is fitted to the training images, reference and normal, of all
    ranks. It moves the mean of the class means to the origin and whitens within the classes. The other arguments are
    those of ``embed``.

    Raises:
        InputError: the embeddings do not vary within the classes.
    """
    if embedder.whitening is not None:  # it is fitted to plain embeddings
        embedder.set_whitening(np.zeros(embedder.out_features), np.eye(embedder.out_features))
    roles = roles_for(scorers)
    every = roles if embedder.whitening is None else (*EMBEDDED_ROLES, REFERENCE)
    plain, fitted = embed(embedder, data, every, device=device, precision=precision), None
    if embedder.whitening is None:
        return plain
    if collectives.rank() == 0:
        trained = (REFERENCE, "normal")
        labels = np.concatenate([data.image_set.pool.labels[data.split.indices[role]] for role in trained])
        fitted = within_class_whitening(np.concatenate([plain.arrays[role] for role in trained]), labels)
    embedder.set_whitening(*collectives.same(fitted))  # type: ignore[misc]
    if collectives.rank() > 0:
        return plain
    forward = Forward(embedder, torch.device(device), None)
    arrays = {role: forward.whitened(plain.arrays[role]) for role in roles}
    return Embedded(arrays, {role: plain.records[role] for role in roles})


def _filled(forward: Forward, batches: Iterable[Batch], count: int) -> np.ndarray:
    """Return the embeddings of all ``batches``, which hold ``count`` images, in one array that is allocated once."""
    embeddings, done = np.empty((0, 0), dtype=np.float32), 0
    for images, _ in bar(batches, "embedding"):
        found = forward(images)
        if not done:
            embeddings = np.empty((count, found.shape[1]), dtype=np.float32)
        embeddings[done : done + len(found)] = found
        done += len(found)
    return embeddings
