"""The embeddings of a run's images: computed once, and whitened if the embedder has a whitening."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from metrad import collectives
from metrad.data.batches import Batch
from metrad.data.prepared import ImageRecord, PreparedData
from metrad.errors import InputError
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
    embeddings = _embeddings(embedder, data, indices, torch.device(device), precision)
    ends = np.cumsum([len(data.split.indices[role]) for role in roles])
    arrays = dict(zip(roles, np.split(embeddings, ends[:-1]), strict=True))
    return Embedded(arrays, {role: data.records(role) for role in roles})


def fit_and_embed(
    embedder: Embedder,
    data: PreparedData,
    roles: Sequence[str] = EMBEDDED_ROLES,
    *,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
) -> Embedded:
    """Fit the whitening of ``embedder``, if it has one, and return the embeddings that ``embed`` returns.

    Each image is embedded once for both. The whitening is fitted to the training images, reference and normal, of all
    ranks. It moves the mean of the class means to the origin and whitens within the classes. The arguments are those
    of ``embed``.

    Raises:
        InputError: the embeddings do not vary within the classes.
    """
    if embedder.whitening is None:
        return embed(embedder, data, roles, device=device, precision=precision)
    width = embedder.out_features
    embedder.set_whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32))
    plain = embed(embedder, data, (*EMBEDDED_ROLES, REFERENCE), device=device, precision=precision)
    first = collectives.rank() == 0
    embedder.set_whitening(*collectives.same(_whitening(plain, data) if first else None))  # type: ignore[misc]
    if not first:
        return plain
    with torch.inference_mode():
        arrays = {role: _whitened(embedder, plain.arrays[role]) for role in roles}
    return Embedded(arrays, {role: plain.records[role] for role in roles})


def _whitening(plain: Embedded, data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    trained = (REFERENCE, "normal")
    embeddings = np.concatenate([plain.arrays[role] for role in trained])
    labels = np.concatenate([data.image_set.pool.labels[data.split.indices[role]] for role in trained])
    try:
        centre, whitening = within_class_whitening(embeddings, labels)
        return centre.astype(np.float32), whitening.astype(np.float32)
    except ValueError as error:
        raise InputError(f"whiten=true: {error}; give more images, or whiten=false") from error


def _whitened(embedder: Embedder, embeddings: np.ndarray) -> np.ndarray:
    found: np.ndarray = embedder.whitened(torch.from_numpy(embeddings).to(embedder.mean.device)).cpu().numpy()
    return found


def _embeddings(
    embedder: Embedder, data: PreparedData, indices: np.ndarray, device: torch.device, precision: str
) -> np.ndarray:
    """Return the embeddings (N, D) of the images at ``indices``; on all ranks but the first, no rows."""
    embedder = embedder.to(device, torch.float32).eval()
    forward = Forward(embedder, device, half_type(precision))
    size = collectives.same(forward.largest_batch(data.batches(indices[:1], 1), len(indices)))
    spans = collectives.spans(len(indices), size)
    mine = slice(*spans[collectives.rank()])
    batches = data.batches(indices[mine], size, pinned=forward.device.type == "cuda")
    with lean_memory(forward.device):
        found = _filled(forward, batches, len(indices[mine]))
    return collectives.gather(found, spans)


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
