"""The images of a run: read, split into roles, served in batches, and found again when the run is evaluated."""

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
        source: makes the source of the images when they are read.
        roles: classes and sizes.
        storage: where decoded images are kept.
        seed: draws the split.
        image_size: input size of the model.
        skip_corrupt: leave out files that cannot be decoded instead of raising.

    Attributes:
        image_set: all images of the source; set by ``load``.
        classes: the classes of each role; set by ``load``.
        split: the images of each role; set by ``draw`` or ``restore_split``.
        turns: how many times an epoch trains on each image, each time turned by 90 degrees more.
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
        """Read the source and draw the split.

        Raises:
            InputError: a class or an image is missing, broken or asked for twice.
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
        """Read the source and find the classes of each role, without drawing a split.

        Raises:
            InputError: a class or an image is missing or broken.
        """
        source = open_source(self.source)
        self.classes = resolve_classes(self.roles, source.classes, source.trainable_classes)
        self.image_set = load(source, self.image_size, self.storage, skip_corrupt=self.skip_corrupt)

    @property
    def train_indices(self) -> np.ndarray:
        """Positions of the images the head is trained on: reference and normal."""
        return np.sort(np.concatenate([self.split.indices["reference"], self.split.indices["normal"]]))

    @property
    def epoch_images(self) -> int:
        """How many images an epoch trains on."""
        return len(self.train_indices) * self.turns

    @property
    def head_classes(self) -> list[str]:
        """Names of the classes that the head tells apart, in the order of its labels: first all as they are."""
        names = [self.image_set.classes[i] for i in self.classes.seen]
        return [*names, *(f"{name} at {90 * turn}°" for turn in range(1, self.turns) for name in names)]

    def class_names(self, role: str) -> list[str]:
        """Return the names of the classes that play ``role``: reference, normal or anomalous."""
        return [self.image_set.classes[i] for i in getattr(self.classes, role)]

    @property
    def head_labels(self) -> np.ndarray:
        """The head's label of each image of an epoch, (turns * training images,), in the order of ``train_indices``."""
        upright = head_labels(self.image_set.pool.labels[self.train_indices], self.classes)
        return np.concatenate([upright + turn * len(self.classes.seen) for turn in range(self.turns)])

    @property
    def split_hash(self) -> str:
        """A hash over the names and the content of the images of each role."""
        return self._split_hash(self.split)

    def describe_split(self) -> dict[str, Any]:
        """Return the split as plain values: the images of each role by name, and a hash over names and content."""
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
        """Return what the images of ``role`` are, in the order of its indices."""
        names, classes, labels = self.image_set.names, self.image_set.classes, self.image_set.pool.labels
        return [ImageRecord(names[i], classes[labels[i]], int(i)) for i in self.split.indices[role]]

    def restore_split(self, description: dict[str, Any]) -> None:
        """Take the split that ``describe_split`` described in place of a newly drawn one.

        Raises:
            InputError: an image is missing or has changed since.
        """
        place = {name: i for i, name in enumerate(self.image_set.names)}
        indices = {}
        for role, names in description["images"].items():
            missing = [name for name in names if name not in place]
            if missing:
                raise InputError(f"{len(missing)} images of this run are no longer in the dataset, first {missing[0]}")
            indices[role] = np.array([place[name] for name in names], dtype=np.int64)
        split = Split(indices, description["copies_left_out"])
        if self._split_hash(split) != description["hash"]:
            raise InputError("the images of this run have changed since it was trained; its scores would not compare")
        self.split = split

    def _split_hash(self, split: Split) -> str:
        content = hashlib.blake2b(digest_size=16)
        for role, indices in split.indices.items():
            content.update(role.encode())
            for i in indices:
                content.update(self.image_set.names[i].encode() + self.image_set.digests[i].tobytes())
        return content.hexdigest()

    def batches(self, indices: np.ndarray, batch_size: int, *, pinned: bool = False) -> DataLoader[Batch]:
        """Return batches of the images at the source's positions ``indices``, in that order, with their positions.

        Args:
            indices: (N,).
            batch_size: images a batch.
            pinned: keep batches in memory that a GPU reads from by itself.
        """
        batches = ImageBatches(self.image_set.images, indices, torch.from_numpy(indices))
        starts = range(0, len(indices), batch_size)
        order = [torch.arange(len(indices))[start : start + batch_size] for start in starts]
        return self.loader(batches, order, pinned=pinned)

    def loader(
        self, batches: ImageBatches | ResidentBatches, sampler: Any, *, pinned: bool = False
    ) -> DataLoader[Batch]:
        """Return a loader of the ``batches`` at the positions that ``sampler`` gives, with workers where they help."""
        workers = self.storage.workers if self.image_set.on_demand else 0
        # A generator of its own: otherwise each iteration draws from the global one, which dropout in the model uses.
        own = torch.Generator()
        return DataLoader(
            batches, batch_size=None, sampler=sampler, num_workers=workers, pin_memory=pinned, generator=own
        )


class ImageRecord(NamedTuple):
    """What an image is: its name, its class, and its position in the source."""

    image: str
    class_name: str
    position: int
