"""The images of a run: loaded, split into roles, served in batches, and restored for an evaluation."""

import hashlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from metrad.data.batches import Batch, ImageBatches, ResidentBatches
from metrad.data.roles import Roles, resolve_classes
from metrad.data.splits import Classes, Split, head_labels, hold_out
from metrad.data.splits import draw as draw_split
from metrad.data.store import ImageSet, Storage, load
from metrad.data.torchvision_sources import open_source
from metrad.errors import InputError


class PreparedData:
    """Images, labels and split of a run.

    Args:
        source: factory of the images' source.
        roles: classes and sizes of the roles.
        storage: where decoded images are kept.
        seed: seed of the split.
        image_size: input size of the model in pixels.
        skip_corrupt: leave out files that cannot be decoded instead of raising.

    Attributes:
        image_set: all images of the source; set by ``load``.
        classes: the classes of each role; set by ``load``.
        split: the images of each role; set by ``draw`` or ``restore_split``.
        turns: number of rotations, in steps of 90 degrees, that an epoch trains each image in; 1 for no rotation.
    """

    image_set: ImageSet
    classes: Classes
    split: Split

    def __init__(
        self,
        source: partial[Any],
        roles: Roles,
        storage: Storage,
        *,
        seed: int,
        image_size: int,
        skip_corrupt: bool = False,
    ) -> None:
        self.source = source
        self.roles = roles
        self.storage = storage
        self.seed = seed
        self.image_size = image_size
        self.skip_corrupt = skip_corrupt
        self.turns = 4 if roles.rotations else 1

    def draw(self) -> None:
        """Load the source and draw the split.

        Raises:
            InputError: a class does not exist or has two roles, an image cannot be decoded, a size does not fit, or
                images to rotate are not square.
        """
        self.load()
        sizes = self.roles.sizes
        self.split = draw_split(
            self.image_set.pool, self.classes, sizes, test_share=self.roles.test_share, seed=self.seed
        )
        if self.roles.held_out:
            self.split, self.classes = self._with_stand_in(*self.roles.held_out)
        height, width = self.image_set.images[self.train_indices[:1]].shape[1:3]
        if self.turns > 1 and height != width:
            raise InputError(f"dataset.rotations=true needs square images, and these are {height} by {width}")

    def _with_stand_in(self, name: str, share: float) -> tuple[Split, Classes]:
        held_out, labels = self.image_set.classes.index(name), self.image_set.pool.labels
        return hold_out(self.split, labels, self.classes, held_out, share=share, seed=self.seed)

    def load(self) -> None:
        """Load the source and resolve the classes of each role, without drawing a split.

        Raises:
            InputError: a class does not exist or has two roles, or an image cannot be decoded.
        """
        source = open_source(self.source)
        self.classes = resolve_classes(self.roles, source.classes, source.trainable_classes)
        self.image_set = load(source, self.image_size, self.storage, skip_corrupt=self.skip_corrupt)

    @property
    def train_indices(self) -> np.ndarray:
        """Positions, rising, of the images that the head is trained on: reference and normal."""
        return np.sort(np.concatenate([self.split.indices["reference"], self.split.indices["normal"]]))

    @property
    def epoch_images(self) -> int:
        """Number of images in an epoch, rotated copies included."""
        return len(self.train_indices) * self.turns

    @property
    def head_classes(self) -> list[str]:
        """Names of the head's classes in the order of its labels: unrotated classes first."""
        names = [self.image_set.classes[i] for i in self.classes.seen]
        return [*names, *(f"{name} at {90 * turn}°" for turn in range(1, self.turns) for name in names)]

    def class_names(self, role: str) -> list[str]:
        """Return the names of the classes of ``role``: reference, normal or anomalous."""
        return [self.image_set.classes[i] for i in getattr(self.classes, role)]

    @property
    def head_labels(self) -> np.ndarray:
        """The head's labels of an epoch's images, (turns * training images,), in the order of ``train_indices``."""
        upright = head_labels(self.image_set.pool.labels[self.train_indices], self.classes)
        return np.concatenate([upright + turn * len(self.classes.seen) for turn in range(self.turns)])

    @property
    def split_hash(self) -> str:
        """Hash over the names and contents of each role's images."""
        return self._split_hash(self.split)

    def describe_split(self) -> dict[str, Any]:
        """Return the split as plain values: its seed, its hash, its classes, and each role's images by name."""
        by_role = {role: [self.image_set.names[i] for i in indices] for role, indices in self.split.indices.items()}
        return {
            "seed": self.seed,
            "hash": self.split_hash,
            "classes": {role: self.class_names(role) for role in ("reference", "normal", "anomalous")},
            "head_classes": self.head_classes,
            "copies_left_out": self.split.copies_left_out,
            "corrupt_left_out": [self.image_set.names[i] for i in sorted(self.image_set.corrupt)],
            "images": by_role,
        }

    def records(self, role: str) -> list["ImageRecord"]:
        """Return the name, class and position of each image of ``role``, in the order of its indices."""
        names, classes, labels = self.image_set.names, self.image_set.classes, self.image_set.pool.labels
        return [ImageRecord(names[i], classes[labels[i]], int(i)) for i in self.split.indices[role]]

    def restore_split(self, description: dict[str, Any]) -> None:
        """Set the split that ``describe_split`` described, instead of drawing one.

        Raises:
            InputError: an image is missing, or has changed since it was described.
        """
        place = {name: i for i, name in enumerate(self.image_set.names)}
        indices = {}
        for role, names in description["images"].items():
            missing = [name for name in names if name not in place]
            if missing:
                raise InputError(
                    f"{len(missing)} images of this run are missing from the dataset, the first is {missing[0]}"
                )
            indices[role] = np.array([place[name] for name in names], dtype=np.int64)
        split = Split(indices, description["copies_left_out"])
        if self._split_hash(split) != description["hash"]:
            raise InputError(
                "the images of this run have changed since it was trained; restore them or train a new run"
            )
        self.split = split

    def _split_hash(self, split: Split) -> str:
        content = hashlib.blake2b(digest_size=16)
        for role, indices in split.indices.items():
            content.update(role.encode())
            for i in indices:
                content.update(self.image_set.names[i].encode() + self.image_set.digests[i].tobytes())
        return content.hexdigest()

    def batches(self, indices: np.ndarray, batch_size: int, *, pinned: bool = False) -> DataLoader[Batch]:
        """Return batches of the images at the positions ``indices`` in the source, in that order, with their positions.

        Args:
            indices: (N,).
            batch_size: images per batch.
            pinned: put batches in pinned memory, which a GPU copies from directly.
        """
        batches = ImageBatches(self.image_set.images, indices, torch.from_numpy(indices))
        starts = range(0, len(indices), batch_size)
        order = [torch.arange(len(indices))[start : start + batch_size] for start in starts]
        return self.loader(batches, order, pinned=pinned)

    def loader(
        self, batches: ImageBatches | ResidentBatches, sampler: Any, *, pinned: bool = False
    ) -> DataLoader[Batch]:
        """Return a loader of ``batches`` at the positions from ``sampler``, with workers to decode images on demand."""
        workers = self.storage.workers if self.image_set.on_demand else 0
        # Without a generator of its own, each iteration would draw from the global one, which the model's dropout uses.
        own = torch.Generator()
        return DataLoader(
            batches, batch_size=None, sampler=sampler, num_workers=workers, pin_memory=pinned, generator=own
        )


class ImageRecord(NamedTuple):
    """Name, class and position in the source of one image."""

    image: str
    class_name: str
    position: int
