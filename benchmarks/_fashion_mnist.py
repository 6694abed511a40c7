"""Fashion-MNIST for the benchmarks: where it is, what the article takes of it, and files of its kind."""

import gzip
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ARTICLE = {"reference": 8000, "normal": 1000, "calibration": 500, "test_normal": 1000, "test_anomalous": 1000}
PARTS = {"train": "train", "test": "t10k"}
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # images (N, 28, 28) and labels (N,) of each part


def counts(share: float) -> dict[str, int]:
    """Return how many images each role has in a share of the article's run."""
    return {role: max(2, round(count * share)) for role, count in ARTICLE.items()}


def sizes(share: float, factor: int = 1) -> str:
    """Return the override that asks for ``factor`` times those."""
    return f"dataset.sizes={{{', '.join(f'{role}: {factor * count}' for role, count in counts(share).items())}}}"


def found(data: Path) -> Path:
    """Return the folder of the files below ``data``; end this process if it is not there."""
    folder = data / "FashionMNIST" / "raw"
    if not folder.is_dir():
        sys.exit(f"there is no {folder}; python train.py dataset=fmnist downloads it, --data names another folder")
    return folder


def load(folder: Path) -> Arrays:
    """Return all images and labels, from files that are packed or not."""
    return {
        part: (_read(folder, f"{file}-images-idx3-ubyte"), _read(folder, f"{file}-labels-idx1-ubyte"))
        for part, file in PARTS.items()
    }


def _read(folder: Path, name: str) -> np.ndarray:
    file = folder / name
    content = file.read_bytes() if file.exists() else gzip.decompress(file.with_name(f"{name}.gz").read_bytes())
    dimensions = content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def write(data: Path, arrays: Arrays, copies: int = 1) -> None:
    """Write below ``data`` the files that torchvision reads, with so many copies of all images one behind the other."""
    folder = data / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, (images, labels) in arrays.items():
        _write(folder / f"{PARTS[part]}-images-idx3-ubyte", images, range(copies))
        _write(folder / f"{PARTS[part]}-labels-idx1-ubyte", labels, [0] * copies)


def _write(file: Path, array: np.ndarray, copies: Sequence[int]) -> None:
    with file.open("wb") as stream:
        stream.write(struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, len(copies) * len(array), *array.shape[1:]))
        for copy in copies:
            stream.write(repeated(array, copy).tobytes())


def repeated(images: np.ndarray, copy: int) -> np.ndarray:
    """Return the copy of that number: the first as it is, in others the lowest bit of each pixel drawn anew."""
    return images ^ np.random.default_rng(copy).integers(0, 2 if copy else 1, images.shape, dtype=np.uint8)
