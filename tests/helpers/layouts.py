"""Small made-up images in the layouts of public datasets."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def put_images(root: Path, names: Iterable[str], seed: int = 0) -> Path:
    """Write a different noisy image of 16 by 16 pixels at each of ``names`` below ``root``, darker for defects."""
    draw = np.random.default_rng(seed)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(120, 200, (16, 16, 3), dtype=np.uint8)
        if not any(word in name for word in ("good", "Normal", "OK")):
            pixels[4:9, 4:9] = draw.integers(0, 40, 3)
        Image.fromarray(pixels).save(path)
    return root


def numbered(folder: str, count: int, ending: str = ".png") -> list[str]:
    """Return ``count`` names in ``folder``, as in MVTec AD: 000.png, 001.png."""
    return [f"{folder}/{i:03d}{ending}" for i in range(count)]


def mvtec(root: Path, kinds: Mapping[str, Iterable[str]], good: int = 24) -> Path:
    """Write MVTec AD with the categories and kinds of defects ``kinds``, masks included."""
    names = []
    for category, defects in kinds.items():
        names += [*numbered(f"{category}/train/good", good), *numbered(f"{category}/test/good", 6)]
        for kind in defects:
            names += numbered(f"{category}/test/{kind}", 4)
            names += numbered(f"{category}/ground_truth/{kind}", 4, "_mask.png")
        (root / category).mkdir(parents=True, exist_ok=True)
        (root / category / "license.txt").write_text("CC BY-NC-SA 4.0")
        (root / category / "readme.txt").write_text("MVTec AD")
    (root / "readme.txt").write_text("MVTec AD")
    return put_images(root, names)


def visa(root: Path, categories: Iterable[str]) -> Path:
    """Write VisA with ``categories``: images, masks and the table ``split_csv/1cls.csv``."""
    rows, names = ["object,split,label,image,mask"], []
    for category in categories:
        normal = numbered(f"{category}/Data/Images/Normal", 30, ".JPG")
        anomalous = numbered(f"{category}/Data/Images/Anomaly", 5, ".JPG")
        masks = numbered(f"{category}/Data/Masks/Anomaly", 5)
        rows += [f"{category},{'train' if i < 24 else 'test'},normal,{name}," for i, name in enumerate(normal)]
        rows += [f"{category},test,anomaly,{name},{mask}" for name, mask in zip(anomalous, masks, strict=True)]
        names += [*normal, *anomalous, *masks]
    (root / "split_csv").mkdir(parents=True)
    (root / "split_csv" / "1cls.csv").write_text("\n".join([*rows, ""]))
    return put_images(root, names)
