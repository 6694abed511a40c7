"""The folder of a saved detector: its files, the settings of its parts, and the checksums.

Only the classes of ``TABLES`` and of packages that the caller allows are built, so a folder from elsewhere runs no
other code.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metrad.detector import targets
from metrad.errors import InputError, first_line
from metrad.files import checksums, read_arrays, read_json, require_inside, require_unchanged, sealed, sha256, unsealed
from metrad.renamed import present

RECORD = "detector.json"
EMBEDDER = "embedder.safetensors"
HEAD = "head.safetensors"
CALIBRATION = "calibration.safetensors"
NORMAL = "normal.json"
FITTED = "fitted.safetensors"
FORMAT = 1
KEY_BYTES = 16  # of the key of an image's content
PRECISIONS = ("16-mixed", "16-true", "32-true", "64-true", "bf16-mixed", "bf16-true")  # by their names in Lightning
MOST_CLASSES = 10**7  # of a head; a larger number in a record is a fault

MOST_ITEMS = 500  # of a setting, such as the channels of a network: building one takes time for each

Settings = dict[str, Any]

# Kind of part → module whose ``__all__`` lists what a bundle may name, and the class that these are subclasses of.
TABLES: dict[str, tuple[str, str | None]] = {
    "backbone": ("metrad.models.backbones", None),
    "head": ("metrad.models.heads", "Head"),
    "scorer": ("metrad.scorers", "Scorer"),
}
ROLES = {"backbone": targets.BACKBONE, "head": targets.HEAD, "scorer": targets.SCORER}


@dataclass(frozen=True)
class Blueprint:
    """Settings of a detector's parts. ``_target_`` names the class or function of a part; the rest are its arguments.

    Attributes:
        backbone: settings of the backbone; ``weights`` is ignored, since the bundle holds the trained weights.
        embedder: arguments of ``models.embedder.Embedder``, without ``_target_``.
        head: settings of the head that the embedder was trained with.
        scorer: settings of the fitted scorer; None for an old run that does not record them.
    """

    backbone: Settings
    embedder: Settings
    head: Settings
    scorer: Settings | None

    def described(self) -> dict[str, Any]:
        """Return the blueprint as ``detector.json`` stores it, with the short names of metrad's own classes."""
        plain = asdict(self)
        for kind in TABLES:
            if plain[kind] is not None:
                plain[kind]["_target_"] = _short(kind, plain[kind]["_target_"])
        return plain


def own_parts(kind: str) -> dict[str, Callable[..., Any]]:
    """Return by name what of metrad's own a bundle may build as ``kind``: backbone, head or scorer."""
    name, base = TABLES[kind]
    module = importlib.import_module(name)
    parts = {name: getattr(module, name) for name in module.__all__}
    if base is None:
        return parts
    wanted = parts[base]
    return {name: part for name, part in parts.items() if isinstance(part, type) and issubclass(part, wanted)}


def _short(kind: str, target: str) -> str:
    name = present(target).removeprefix(f"{TABLES[kind][0]}.")
    return name if name in own_parts(kind) else target


def same_part(kind: str, one: Settings | None, other: Settings | None) -> bool:
    """Return whether two settings describe the same part; all names of a class, old and new, count as one."""
    if one is None or other is None or not all(isinstance(each.get("_target_"), str) for each in (one, other)):
        return False
    named = [{**settings, "_target_": _short(kind, settings["_target_"])} for settings in (one, other)]
    return named[0] == named[1]


def build_part(kind: str, settings: Mapping[str, Any], allow: Sequence[str], **known: Any) -> Any:
    """Build a part of a detector.

    Args:
        kind: ``backbone``, ``head`` or ``scorer``.
        settings: ``_target_`` and the arguments of the part.
        allow: packages, such as ``mine``, whose classes may be built besides metrad's own.
        known: further arguments that only the caller knows, such as the width of the embeddings.

    Raises:
        InputError: the class has another role, or it rejects its arguments.
    """
    target = settings.get("_target_")
    short = isinstance(target, str) and target in own_parts(kind)
    name = f"{TABLES[kind][0]}.{target}" if short else target
    try:
        return targets.build(kind, {**settings, "_target_": name}, ROLES[kind], allow, **known)
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        raise InputError(f"{kind}: {target} refuses its settings ({first_line(error)})") from error


@dataclass(frozen=True)
class Bundle:
    """The folder of a detector, after each file was checked against its checksum.

    Attributes:
        folder: path of the folder.
        blueprint: settings of the detector's parts.
        precision: precision of the normal images' embeddings, named as in Lightning.
        head_size: number of classes that the head distinguishes; None if not recorded.
        files: SHA-256 by file name.
        about: further entries of the record, such as the checksum of the run's split.
    """

    folder: Path
    blueprint: Blueprint
    precision: str
    head_size: int | None
    files: dict[str, str]
    about: dict[str, Any]

    @property
    def normal_images(self) -> list[str]:
        """Names of the normal images, in the order of the scorer's index; empty if not recorded.

        Raises:
            InputError: the file does not list names.
        """
        path = self.folder / NORMAL
        names = read_json(path) if path.name in self.files else []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path} does not list the names of the normal images; create it again")
        return names

    @property
    def fitted_digests(self) -> np.ndarray | None:
        """Keys of the contents of the images that the detector was fitted on, (K, 16) uint8; None if not recorded.

        Raises:
            InputError: the file does not hold such keys.
        """
        path = self.folder / FITTED
        if path.name not in self.files:
            return None
        keys = read_arrays(path).get("digests", np.empty(0))
        if keys.ndim != 2 or keys.shape[1] != KEY_BYTES or keys.dtype != np.uint8:
            raise InputError(f"{path} does not list the keys of images; create it again")
        return keys


def seal(folder: Path, blueprint: Blueprint, *, precision: str, head_size: int, about: Mapping[str, Any]) -> None:
    """Write ``detector.json`` into ``folder``, with the checksum of every file there."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != RECORD}
    record = {
        "format": FORMAT,
        **blueprint.described(),
        "precision": precision,
        "head_size": head_size,
        "about": dict(about),
        "files": files,
    }
    (folder / RECORD).write_text(sealed(record), encoding="utf-8")


def unseal(folder: Path) -> Bundle:
    """Return the bundle in ``folder`` after checking each file against its checksum.

    Raises:
        InputError: a file is missing or has changed, or a later version of metrad wrote the folder.
    """
    path = folder / RECORD
    require_inside(folder, path)
    record = unsealed(path)
    if record.get("format") != FORMAT:
        raise InputError(f"{path} has format {record.get('format')}, and this version of metrad reads format {FORMAT}")
    files = checksums(record, path)
    for name in (EMBEDDER, HEAD, CALIBRATION):
        if name not in files:
            raise InputError(f"{path} lacks {name}; create it again")
    require_files(folder, files)
    parts: dict[str, Any] = {name: record.get(name) for name in ("backbone", "embedder", "head", "scorer")}
    for name, settings in parts.items():
        _require_settings(name, settings, path)
    size = record.get("head_size")
    if record.get("precision") not in PRECISIONS or not (size is None or _is_count(size)):
        raise InputError(f"{path} does not say the precision and the number of the head's classes; create it again")
    if not isinstance(record.get("about"), dict):
        raise InputError(f"{path} lacks about; create it again")
    return Bundle(folder, Blueprint(**parts), record["precision"], size, files, record["about"])


def require_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raise ``InputError`` unless each of ``files``, checksums by name, lies in ``folder`` and is unchanged."""
    for name, digest in files.items():
        require_inside(folder, folder / name)
        require_unchanged(folder / name, digest)


def _require_settings(part: str, settings: Any, path: Path) -> None:
    if part == "scorer" and settings is None:  # an old run does not record them
        return
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no settings of the {part}; create it again")
    if part == "embedder":
        _require_switches(settings, path)
    if any(len(value) > MOST_ITEMS for value in settings.values() if isinstance(value, list | dict)):
        raise InputError(f"{path} has a setting of the {part} with more than {MOST_ITEMS} items; create it again")


def _require_switches(settings: Settings, path: Path) -> None:
    for name in ("channels_last", "whiten", "test_time_flip"):
        if not isinstance(settings.get(name, False), bool):
            raise InputError(f"{path}: embedder.{name} must be true or false, got {str(settings[name])[:40]}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_CLASSES
