"""The images of a run: loaded, split into roles, served in batches, and restored for an evaluation."""

import hashlib
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from metrad import collectives
from metrad.data.arrays import changed_image
from metrad.data.batches import Batch, ImageBatches, ResidentBatches
from metrad.data.bit_depth import FULL, depth_of, to_8_bits
from metrad.data.broken_images import names_left_out
from metrad.data.decoding import KNOWN_VERSIONS, Decoded, Decoding, Kept, Reading
from metrad.data.duplicates import digest
from metrad.data.found_groups import Found, find, look_at
from metrad.data.groups import AUTO, OWN_GROUP, group_numbers
from metrad.data.properties import Table
from metrad.data.roles import Roles, resolve_classes
from metrad.data.splits import Classes, Pool, Split, SyntheticFold, different_images, fold_out, head_labels, hold_out
from metrad.data.splits import draw as draw_split
from metrad.data.store import ChooseDepth, ImageSet, Storage, load
from metrad.data.synthetic_fold import hold_out_fold
from metrad.data.torchvision_sources import open_source
from metrad.data.ungrouped import UngroupedViews
from metrad.errors import InputError

LOOKED_AT, LOOKED_AT_ON_DEMAND = 2000, 200  # images that a run without groups looks for them in
AUDITED = 2000  # normal and calibration images each that are compared with those of a test part
WORTH_A_WORD = 0.02  # share of images in groups from which it says so
_found: dict[bytes, Found] = {}  # the last ones, for the folds of a selection and the runs of a sweep


class PreparedData:
    """Images, labels and split of a run.

    Args:
        source: factory of the images' source.
        roles: classes and sizes of the roles.
        storage: where decoded images are kept.
        seed: seed of the split.
        image_size: input size of the model in pixels.
        skip_corrupt: leave out files that cannot be decoded instead of raising.
        reading: how image files are read; None for the defaults.

    Attributes:
        image_set: all images of the source; set by ``draw`` or ``restore_split``.
        classes: the classes of each role; set by ``draw`` or ``restore_split``.
        split: the images of each role; set by ``draw`` or ``restore_split``.
        turns: number of rotations, in steps of 90 degrees, that an epoch trains each image in; 1 for no rotation.
        found: what ``dataset.group=auto`` found, in words; empty for other settings and for a restored split.
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
        reading: Reading | None = None,
    ) -> None:
        self.source = source
        self.roles = roles
        self.storage = storage
        self.seed = seed
        self.image_size = image_size
        self.skip_corrupt = skip_corrupt
        self.reading = reading or Reading()
        self._groups: dict[str, np.ndarray] = {}
        self.found: list[str] = []
        self.turns = 4 if roles.rotations else 1

    def draw(self) -> None:
        """Load the source and draw the split.

        Raises:
            InputError: a class does not exist or has two roles, an image cannot be decoded, a size does not fit, or
                images to rotate are not square.
        """
        self._load(self.reading.depth or self._depth_of_training_images)
        pool = self._grouped(self.image_set.pool)
        self.split, self.classes = self._drawn(pool)
        fold = self.roles.held_out
        if isinstance(fold, SyntheticFold):
            self.image_set, self.split, self.classes = hold_out_fold(
                self.image_set, self.split, pool, self.classes, fold, seed=self.seed
            )
        if pool.groups is not None and not isinstance(fold, SyntheticFold):
            self._groups = {role: pool.groups[indices] for role, indices in self.split.indices.items()}
        height, width = self.image_set.images[self.train_indices[:1]].shape[1:3]
        if self.turns > 1 and height != width:
            raise InputError(f"dataset.rotations=true needs square images, and these are {height} by {width}")

    def _load(self, depth: int | ChooseDepth) -> None:
        source = open_source(self.source)
        source.reading = self.reading
        if self.roles.group is None and OWN_GROUP in source.columns:
            self.roles = replace(self.roles, group=OWN_GROUP)
        self._names = source.classes
        self._image_names, self._columns, self._size_of = source.names, source.columns, source.size_of
        self._named, self._read = source.named, source.read
        self._as_arrays, self._root, self._patterns = source.pixels is not None, source.root, source.patterns
        self.classes = resolve_classes(self.roles, source.classes, source.trainable_classes)
        self.image_set = load(source, self.image_size, self.storage, skip_corrupt=self.skip_corrupt, depth=depth)

    def _drawn(self, pool: Pool) -> tuple[Split, Classes]:
        sizes, share = self.roles.sizes, self.roles.test_share
        split = draw_split(pool, self.classes, sizes, test_share=share, seed=self.seed)
        if self.roles.held_out is None or isinstance(self.roles.held_out, SyntheticFold):
            return split, self.classes
        name, share = self.roles.held_out
        held_out = self._names.index(name)
        return hold_out(split, pool, self.classes, held_out, share=share, seed=self.seed)

    def folded(self, fold: SyntheticFold) -> Split:
        """Return the split of a fold of a selection, as ``draw`` makes it but without the images with defects."""
        groups = None
        if self._groups:
            groups = np.full(len(self.image_set.names), -1)
            for role, numbers in self._groups.items():
                groups[self.split.indices[role]] = numbers
        pool = replace(self.image_set.pool, groups=groups)
        return fold_out(self.split, pool, number=fold.number, folds=fold.folds, seed=self.seed)

    def _depth_of_training_images(self, pool: Pool, peaks: np.ndarray) -> int:
        # Groups are found in pixels, which depend on the depth. So the depth is that of a split without them.
        grouped = pool if self.finds_groups else self._grouped(pool)
        return depth_of(peaks[_train_indices(self._drawn(grouped)[0])])

    @property
    def finds_groups(self) -> bool:
        """Whether groups are found by names and likeness, and not read from names or a column."""
        return self.roles.group == AUTO

    def _grouped(self, pool: Pool) -> Pool:
        """Return ``pool`` with the groups that ``roles.group`` asks for."""
        if self.roles.group is None:
            return pool
        if self.finds_groups:
            kept = different_images(pool, self.classes)[0]
            found = collectives.same(self._find(kept))  # ranks on other machines may round otherwise
            self.found = found.lines([self._image_names[i] for i in kept])
            alone = np.arange(len(pool.labels)) + len(kept)
            alone[kept] = found.numbers
            return replace(pool, groups=alone)
        numbers = group_numbers(self.roles.group, self._image_names, columns=self._columns, size_of=self._size_of)
        return replace(pool, groups=numbers)

    def _find(self, positions: np.ndarray) -> Found:
        images = self.image_set
        labels, names = images.pool.labels, self._image_names
        key = digest(repr((names, self.image_size)).encode() + images.digests[positions].tobytes())
        if key not in _found:
            _found.clear()
            seen = look_at(images.images, positions, names=names, labels=labels, size_of=self._size_of)
            _found[key] = find(seen)
        return _found[key]

    def unnamed_groups(self) -> str:
        """Return in words the groups that ``dataset.group=auto`` would find, if images of files have no groups yet.

        Few images are looked at, those of the normal classes first, so that it takes little time. The words are empty
        if fewer than a share ``WORTH_A_WORD`` of the images have a group.
        """
        looked = self._unnamed
        return "" if looked is None else looked[1].lines([self._image_names[i] for i in looked[0]])[0]

    @property
    def ungrouped_views(self) -> UngroupedViews | None:
        """The numbers of ``unnamed_groups``; None where its words are empty."""
        looked = self._unnamed
        return None if looked is None else UngroupedViews(len(looked[0]), int(looked[1].numbers.max()) + 1)

    @property
    def _unnamed(self) -> tuple[np.ndarray, Found] | None:
        """The positions of the images looked at, and their groups, if these are worth a word."""
        if self.roles.group is not None or not self._named:
            return None
        pool = self.image_set.pool
        kept = different_images(pool, self.classes)[0]
        normal_first = kept[np.argsort(~np.isin(pool.labels[kept], self.classes.normal), kind="stable")]
        few = np.sort(normal_first[: LOOKED_AT_ON_DEMAND if self.image_set.on_demand else LOOKED_AT])
        found = self._find(few)
        return None if found.grouped < WORTH_A_WORD * len(few) else (few, found)

    @property
    def given_test_part(self) -> bool:
        """Whether the source says which images are for testing. Else they are drawn, and good images are alike."""
        return self.image_set.pool.in_test_part is not None

    def properties(self) -> Table:
        """Return the trivial properties of the test images, and of the training images that they are compared with.

        Only a given test part can differ from the training images by more than chance. Without one there are no
        training images in the table, and of many there are ``AUDITED`` of each role.
        """
        roles = ("test_normal", "test_anomalous", *(("normal", "calibration") if self.given_test_part else ()))
        few = {role: _spread(self.split.indices[role], None if "test" in role else AUDITED) for role in roles}
        positions = np.concatenate(list(few.values()))
        return Table(
            images=[self.image_set.names[i] for i in positions],
            roles=[role for role, chosen in few.items() for _ in chosen],
            groups=self._supposed_groups(positions),
            values=self.image_set.properties[positions],
        )

    def near_copies_across(self) -> list[tuple[str, str]]:
        """Return the names of training and test images that are near copies of each other, the most similar first.

        Training images are normal and calibration ones. Of many, ``LOOKED_AT`` are looked at. Images of sources without
        file names have no near copies.
        """
        if not self._named:
            return []
        tested = self.split.indices["test_normal"]
        trained = np.concatenate([self.split.indices[role] for role in ("normal", "calibration")])
        most = (LOOKED_AT_ON_DEMAND if self.image_set.on_demand else LOOKED_AT) // 2
        positions = np.sort(np.concatenate([_spread(trained, most), _spread(tested, most)]))
        pairs = positions[self._find(positions).copies]
        names = self._image_names
        across = [pair for pair in pairs.tolist() if len({*np.isin(pair, tested).tolist()}) == 2]
        return [(names[one], names[other]) for one, other in across]

    def _supposed_groups(self, positions: np.ndarray) -> np.ndarray | None:
        """Return the groups of the images at ``positions``, those that ``unnamed_groups`` finds if there are no others.

        Images of one part would otherwise count as several witnesses that training and test differ.
        """
        if self._groups:
            known = [(self.split.indices[role], numbers) for role, numbers in self._groups.items()]
        else:
            looked = self._unnamed
            if looked is None:
                return None
            known = [(looked[0], looked[1].numbers)]
        where, numbers = (np.concatenate(parts) for parts in zip(*known, strict=True))
        found: np.ndarray = np.arange(len(self.image_set.names)) + int(numbers.max(initial=0)) + 1
        found[where] = numbers
        chosen: np.ndarray = found[positions]
        return chosen

    @property
    def train_indices(self) -> np.ndarray:
        """Positions, rising, of the images that the head is trained on: reference and normal."""
        return _train_indices(self.split)

    @property
    def decoding(self) -> Decoding:
        """How the images were decoded, for images to come."""
        return Decoding(self.reading.version, self.image_set.depth)

    @property
    def kept(self) -> Kept:
        """How the images are kept, for images to come."""
        height, width, channels = self.image_set.images[self.train_indices[:1]].shape[1:]
        root = None if self._root is None else str(self._root.absolute())
        return Kept(height, width, channels, self._as_arrays, self.reading.max_megapixels, root, self._patterns)

    @property
    def fitted_digests(self) -> np.ndarray:
        """Keys of the contents of the reference, normal and calibration images, each once, rising, (K, 16) uint8."""
        fitted = [self.split.indices[role] for role in ("reference", "normal", "calibration")]
        return np.unique(self.image_set.digests[np.concatenate(fitted)], axis=0)

    @property
    def clipped(self) -> int:
        """Number of images with a role that have values above the range."""
        peaks = self.image_set.peaks[np.concatenate(list(self.split.indices.values()))]
        return int((peaks >= 1 << (self.image_set.depth or FULL)).sum())

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
        """Return the split as plain values.

        They are its seed, hash and classes, each role's images by name, the images left out, and the decoding.
        """
        names = self.image_set.names
        by_role = {role: [names[i] for i in indices] for role, indices in self.split.indices.items()}
        return {
            "seed": self.seed,
            "hash": self.split_hash,
            "classes": {role: self.class_names(role) for role in ("reference", "normal", "anomalous")},
            "head_classes": self.head_classes,
            "copies_left_out": self.split.copies_left_out,
            "copies": {names[copy]: names[kept] for copy, kept in self.split.copies.items()},
            "corrupt_left_out": names_left_out(self.image_set.corrupt, names),
            "endings_left_out": dict(self.image_set.left_out),
            **asdict(self.decoding),
            **self._describe_groups(),
            "images": by_role,
        }

    def _describe_groups(self) -> dict[str, Any]:
        if not self._groups:
            return {}
        numbers = {role: found.tolist() for role, found in self._groups.items()}
        return {"left_out_for_groups": self.split.left_out_for_groups, "groups": numbers}

    @property
    def groups(self) -> dict[str, np.ndarray] | None:
        """Group number of each image, (N,), by role; None if each image is a group of its own."""
        return self._groups or None

    def records(self, role: str) -> list["ImageRecord"]:
        """Return the name, class and position of each image of ``role``, in the order of its indices."""
        names, classes, labels = self.image_set.names, self.image_set.classes, self.image_set.pool.labels
        return [ImageRecord(names[i], classes[labels[i]], int(i)) for i in self.split.indices[role]]

    def decoded(self, position: int) -> Decoded:
        """Return the image at ``position`` as its file or array holds it, at its own size and with 8 bits.

        Images of more than 8 bits are scaled by the range that those of the run share.

        Raises:
            InputError: the image cannot be read, or has changed since the data were loaded.
        """
        found = self._read(position)
        if found.digest != self.image_set.digests[position].tobytes():
            raise changed_image(self.image_set.names[position])
        pixels = to_8_bits(found.pixels, self.image_set.depth or FULL, white_is_zero=found.white_is_zero)
        return Decoded(pixels, found.digest)

    def restore_split(self, description: dict[str, Any]) -> None:
        """Load the source and set the split that ``describe_split`` described, instead of drawing one.

        Images are decoded as they were for that split. A split of metrad 0.1 does not say how, and means version 1.

        Raises:
            InputError: an image is missing, cannot be decoded, or has changed since it was described.
        """
        version = description.get("decoder", 1)
        if version not in KNOWN_VERSIONS:
            raise InputError(
                f"the images of this run were decoded by version {version!r}, and this version of metrad knows "
                f"{' and '.join(map(str, KNOWN_VERSIONS))}; use the version of metrad that made the run"
            )
        self.reading = replace(self.reading, version=version)
        self._load(description.get("range") or FULL)
        place = {name: i for i, name in enumerate(self.image_set.names)}
        indices = {}
        for role, names in description["images"].items():
            missing = [name for name in names if name not in place]
            if missing:
                raise InputError(
                    f"{len(missing)} images of this run are missing from the dataset, the first is {missing[0]}"
                )
            indices[role] = np.array([place[name] for name in names], dtype=np.int64)
        known = ((place.get(copy), place.get(kept)) for copy, kept in description.get("copies", {}).items())
        copies = {copy: kept for copy, kept in known if copy is not None and kept is not None}
        split = Split(indices, description["copies_left_out"], copies, description.get("left_out_for_groups", 0))
        if self._split_hash(split) != description["hash"]:
            raise InputError(
                "the images of this run have changed since it was trained; restore them or train a new run"
            )
        self.split = split
        self._groups = {role: np.array(numbers) for role, numbers in description.get("groups", {}).items()}

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


def _spread(indices: np.ndarray, most: int | None) -> np.ndarray:
    """Return ``indices``, or ``most`` of them at equal distances."""
    if most is None or len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).astype(np.int64)]


def _train_indices(split: Split) -> np.ndarray:
    return np.sort(np.concatenate([split.indices["reference"], split.indices["normal"]]))


class ImageRecord(NamedTuple):
    """Name, class and position in the source of one image."""

    image: str
    class_name: str
    position: int
