"""The contract of all scorers: fit, score, neighbours, save and load, with their checks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.numpy import save_file

from metrad.errors import InputError, MetradError
from metrad.files import checksums, follow_umask, read_arrays, require_unchanged, sealed, sha256, unsealed

RECORD = "scorer.json"
ARRAYS = "scorer.safetensors"
BLOCK = 4096  # embeddings scored at a time; bounds memory


def stored(state: Mapping[str, np.ndarray], name: str, *shape: int | None, kind: str = "f") -> np.ndarray:
    """Return the array ``name`` of a saved state.

    Args:
        state: the arrays by name.
        name: name of the array.
        shape: its shape, with None for any length above 0.
        kind: NumPy's letter of its type: ``f`` for floating-point numbers, ``i`` for integers.

    Raises:
        InputError: the array is missing, is of another type or shape, or is not finite.
    """
    array = state.get(name)
    fits = (
        array is not None
        and array.dtype.kind == kind
        and array.ndim == len(shape)
        and all(length == (wanted or length) and length for length, wanted in zip(array.shape, shape, strict=True))
        and bool(np.isfinite(array).all())
    )
    if array is None or not fits:
        came = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
        raise InputError(f"{ARRAYS}: {name} must be finite, of type {kind} and shape {shape}, got {came}; fit again")
    return array


class NotFittedError(MetradError, RuntimeError):
    """A scorer was used before ``fit`` or ``load``."""


class NoNeighboursError(MetradError, NotImplementedError):
    """A scorer without neighbours was asked for neighbours."""


class Scorer(ABC):
    """Anomaly scores of embeddings, fitted on normal images; a higher score is always more anomalous.

    Fitted values end in ``_``. Embeddings are (N, D) float arrays. A failed ``fit`` or ``load`` leaves the scorer
    unchanged.

    Attributes:
        has_neighbours: whether ``neighbours`` is supported.
        needs_head: whether ``attach`` must pass the trained head to the scorer before ``fit`` and ``score``.
        needs_reference: whether ``fit`` also needs the embeddings of reference images.
        files: names of the files of a saved scorer, except its record.
    """

    has_neighbours: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = (ARRAYS,)

    width_: int

    def fit(
        self, normal: np.ndarray, classes: np.ndarray | None = None, *, reference: np.ndarray | None = None
    ) -> Self:
        """Fit the scorer to normal embeddings.

        Args:
            normal: normal embeddings (N, D).
            classes: class number of each normal embedding, (N,) integers; None for a single class. Scorers that do not
                work per class ignore it.
            reference: reference embeddings (M, D); scorers that do not need them ignore them.

        Raises:
            InputError: embeddings are missing or not finite, or a setting does not suit them.
        """
        normal = self._checked(normal, None)
        self.check_size(len(normal))
        numbers = self._checked_classes(classes, len(normal))
        with self._unchanged_on_error():
            self._fit(normal, numbers)
            if self.needs_reference:
                self._fit_reference(self._checked_reference(reference, normal.shape[1]))
            self.width_ = normal.shape[1]
        return self

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the scores of the embeddings (N, D), as (N,) float32.

        Raises:
            NotFittedError: ``fit`` or ``load`` has not been called.
            InputError: the width differs from the fitted width, or values are not finite or too large to score.
        """
        embeddings = self._checked(embeddings, self.fitted_width)
        scores = np.empty(len(embeddings), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, by row
            for i in range(0, len(embeddings), BLOCK):
                scores[i : i + BLOCK] = self._score(embeddings[i : i + BLOCK])
        bad = ~np.isfinite(scores)
        if bad.any():
            raise InputError(
                f"scorer {type(self).__name__}: {bad.sum()} of {len(scores)} embeddings are too large to score, "
                f"the first at row {bad.argmax()}"
            )
        return scores

    def neighbours(self, embeddings: np.ndarray) -> np.ndarray:
        """Return for each of the embeddings (N, D) the position of its nearest normal embedding, (N,).

        Raises:
            NoNeighboursError: the scorer does not compare with single normal images; see ``has_neighbours``.
            NotFittedError: ``fit`` or ``load`` has not been called.
            InputError: as for ``score``.
        """
        if not self.has_neighbours:
            raise NoNeighboursError(f"scorer {type(self).__name__} has no neighbours; choose scorer=knn to see them")
        return self._neighbours(self._checked(embeddings, self.fitted_width))

    def fitted_figures(self) -> dict[str, float]:
        """Return the numbers that fitting measured or chose, by name; empty for most scorers.

        Raises:
            NotFittedError: ``fit`` or ``load`` has not been called.
        """
        return self._figures() if self.fitted_width else {}

    def check_size(self, normal_images: int) -> None:
        """Raise ``InputError`` if the number of normal images is too small to fit; also called before training."""
        if normal_images < 1:
            raise InputError(f"scorer {type(self).__name__}: no normal images to fit")

    def check_reference(self, reference_images: int) -> None:
        """Raise ``InputError`` if the number of reference images is too small to fit; also called before training."""
        if self.needs_reference and reference_images < 1:
            raise InputError(
                f"scorer {type(self).__name__} compares with reference images, and there are none; choose scorer=knn, "
                "or name classes in dataset.reference"
            )

    @property
    def fitted_width(self) -> int:
        """Width of the embeddings that the scorer was fitted on.

        Raises:
            NotFittedError: ``fit`` or ``load`` has not been called.
        """
        if not hasattr(self, "width_"):
            raise NotFittedError(f"scorer {type(self).__name__} is not fitted; call fit or load first")
        return self.width_

    def save(self, folder: str | Path) -> None:
        """Write the fitted state into ``folder``, without pickle: arrays, and ``scorer.json`` with their checksums."""
        folder = Path(folder)
        record = {"scorer": type(self).__name__, "settings": self._shaping(), "width": self.fitted_width}
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder)
        digests = {name: sha256(folder / name) for name in self.files}
        (folder / RECORD).write_text(sealed({**record, "files": digests}), encoding="utf-8")

    def load(self, folder: str | Path, *, mmap: bool = False, verify: bool = True) -> Self:
        """Read the state that ``save`` wrote.

        Args:
            folder: folder of the saved state.
            mmap: leave the vectors of an index on disk and read them when they are needed.
            verify: verify the checksums of the files; False if the caller has done so.

        Raises:
            InputError: a file is missing or has changed, or the state belongs to another scorer or to other settings.
        """
        folder = Path(folder)
        path = folder / RECORD
        record = unsealed(path)
        self._require_own(record, path)
        listed, width = checksums(record, path), record.get("width")
        if not listed.keys() >= set(self.files) or not isinstance(width, int) or width < 1:
            raise InputError(f"{path} lacks the width or {' or '.join(self.files)}; fit again")
        if verify:
            for name in self.files:
                require_unchanged(folder / name, listed[name])
        with self._unchanged_on_error():
            self.width_ = width
            self._read(folder, mmap=mmap)
        return self

    @abstractmethod
    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None: ...

    def _fit_reference(self, reference: np.ndarray) -> None:
        """Fit to reference embeddings, after ``_fit``; only called if ``needs_reference``."""
        raise NotImplementedError

    @abstractmethod
    def _score(self, embeddings: np.ndarray) -> np.ndarray: ...

    def _neighbours(self, embeddings: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _figures(self) -> dict[str, float]:
        return {}

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return the fitted arrays and numbers by name."""

    @abstractmethod
    def _restore(self, state: dict[str, np.ndarray]) -> None:
        """Set the fitted state from the result of ``_state``."""

    def _shaping(self) -> dict[str, Any]:
        """Return the settings that the fitted state depends on; ``load`` rejects a state with other values of them."""
        return {}

    def _write(self, folder: Path) -> None:
        """Write ``files`` into ``folder``."""
        save_file({name: np.array(value, order="C") for name, value in self._state().items()}, folder / ARRAYS)
        follow_umask(folder / ARRAYS)

    def _read(self, folder: Path, *, mmap: bool) -> None:
        """Read ``files`` from ``folder``; their checksums have been verified."""
        self._restore(read_arrays(folder / ARRAYS))

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        before = vars(self).copy()
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _require_own(self, record: dict[str, Any], path: Path) -> None:
        own = type(self).__name__
        if record.get("scorer") != own:
            raise InputError(f"{path} is of scorer {record.get('scorer')}, not {own}")
        settings = record.get("settings")
        if not isinstance(settings, dict):
            raise InputError(f"{path} lacks the settings of the scorer; fit again")
        for name, value in self._shaping().items():
            saved = settings.get(name)
            if saved != value:
                raise InputError(
                    f"{path} was fitted with scorer.{name}={saved}, not {value}; fit again or change the setting"
                )
        if set(record["files"]) != set(self.files):
            raise InputError(f"{path} was saved by another version of metrad; fit again")

    def _checked(self, embeddings: np.ndarray, width: int | None, name: str = "embeddings") -> np.ndarray:
        """Return the embeddings as C-ordered float32, which is what FAISS reads."""
        with np.errstate(over="ignore"):  # values too large for float32 become infinite and are rejected below
            embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
        if embeddings.ndim != 2 or embeddings.shape[1] == 0 or (width is not None and embeddings.shape[1] != width):
            wanted = "any width" if width is None else f"width {width}"
            raise InputError(
                f"scorer {type(self).__name__}: {name} must be (N, D) of {wanted}, got shape {embeddings.shape}"
            )
        bad = ~np.isfinite(embeddings).all(axis=1)
        if bad.any():
            raise InputError(
                f"scorer {type(self).__name__}: {bad.sum()} of {len(embeddings)} {name} hold NaN or infinite "
                f"values, the first at row {bad.argmax()}; the model has diverged"
            )
        return embeddings

    def _checked_reference(self, reference: np.ndarray | None, width: int) -> np.ndarray:
        given = np.empty((0, width), np.float32) if reference is None else reference
        checked = self._checked(given, width, "reference embeddings")
        self.check_reference(len(checked))
        return checked

    def _checked_classes(self, classes: np.ndarray | None, size: int) -> np.ndarray:
        if classes is None:
            return np.zeros(size, dtype=np.int64)
        numbers = np.asarray(classes)
        if numbers.shape != (size,) or not np.issubdtype(numbers.dtype, np.integer):
            raise InputError(
                f"scorer {type(self).__name__}: classes must be {size} whole numbers, one for each normal embedding, "
                f"got {numbers.dtype} of shape {numbers.shape}"
            )
        return numbers
