"""The folders that inputs name: images, weights, runs and tables, made once and copied for each command."""

import os
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metrad.app import cli
from metrad.models.backbones import convnet
from tests.helpers.commands import DIGITS, isolated


class Folders:
    """The prepared folders, each of which is copied into the working directory of a command."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self, names: Iterable[str]) -> None:
        """Make the folders of these names; the empty name stands for none."""
        for name in sorted({*names} - {""}):
            (self.root / name).mkdir(parents=True)
            _MADE[name](self.root / name)

    def copy(self, name: str, target: Path) -> None:
        """Copy the folder ``name``, or nothing for an empty name, to ``target``, which must not exist."""
        if name:
            shutil.copytree(self.root / name, target, symlinks=True)
        else:
            target.mkdir()


def _images(folder: Path, counts: dict[str, int]) -> None:
    """Write ``counts`` of different images into folders of these names: light images, with a dark spot but for good."""
    generator = np.random.default_rng(len(str(sorted(counts))))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(150, 220, (32, 32, 3), dtype=np.uint8)
            if name != "good":
                row, column = generator.integers(0, 24, 2)
                pixels[row : row + 8, column : column + 8] = generator.integers(0, 80, 3)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


_FOUR = {"good": 120, "crack": 20, "scratch": 20, "dent": 20}


def _parts(folder: Path) -> None:
    _images(folder / "parts", _FOUR)


def _good_and_defects(folder: Path) -> None:
    _images(folder / "parts", {"good": 60, "crack": 20})


def _only_good(folder: Path) -> None:
    _images(folder / "parts", {"good": 60})


def _two_good(folder: Path) -> None:
    _images(folder / "parts", {**_FOUR, "good": 2})


def _unicode(folder: Path) -> None:
    _images(folder / "parts", dict.fromkeys(("良品", "größe", "it's", "a,b [1]", "crack"), 40))


def _numbers(folder: Path) -> None:
    _images(folder / "parts", dict.fromkeys(("008", "012", "1", "22"), 40))


def _train_test(folder: Path) -> None:
    _images(folder / "parts" / "train", {"good": 60, "scratch": 20, "dent": 20})
    _images(folder / "parts" / "test", {"good": 20, "crack": 20})


def _train_val(folder: Path) -> None:
    _images(folder / "parts" / "train", {"good": 60, "scratch": 20})
    _images(folder / "parts" / "val", {"good": 20, "crack": 20})


def _broken(folder: Path) -> None:
    _images(folder / "parts", _FOUR)
    good = folder / "parts" / "good"
    whole = (good / "0.png").read_bytes()
    (good / "cut.png").write_bytes(whole[: len(whole) // 2])
    (good / "empty.png").touch()
    (good / "text.png").write_text("no image", encoding="utf-8")


def _weights(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(convnet(channels=[32, 64, 128]).module.state_dict(), folder / "good.pth")
    torch.save(torch.nn.Linear(4, 2).state_dict(), folder / "other.pth")
    (folder / "text.pth").write_text("these are no weights\n", encoding="utf-8")
    (folder / "pickle.pth").write_bytes(pickle.dumps(Path("weights")))


def _run(folder: Path) -> None:
    with isolated(folder):
        cli.train([*DIGITS, "hydra.run.dir=outputs/run"])
    with isolated(folder):
        cli.train(["-m", *DIGITS, "head=adacos,arcface", "seed=0,1", "sweep=sweep"])


def _torn(folder: Path) -> None:
    _run(folder)
    outputs = folder / "outputs"
    torn = ("no_config", "half", "no_metrics", "bad_json", "short_scores")
    for name in torn:
        shutil.copytree(outputs / "run", outputs / name)
    (outputs / "empty").mkdir()
    (outputs / "no_config" / ".hydra" / "config.yaml").unlink()
    for name in ("metrics.json", "scores.csv"):
        (outputs / "half" / name).unlink()
    (outputs / "half" / "status.json").write_text('{"state": "interrupted"}', encoding="utf-8")
    (outputs / "no_metrics" / "metrics.json").unlink()
    _cut(outputs / "bad_json" / "metrics.json")
    _cut(outputs / "short_scores" / "scores.csv")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _csv(folder: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [
        f"{head},{dataset},{seed},{generator.uniform(0.8, 0.9):.4f}"
        for head in ("adacos", "arcface")
        for dataset in ("digits", "fmnist")
        for seed in range(6)
    ]
    head = "head,dataset,seed,auroc"
    for name, lines in {
        "figures": [head, *rows],
        "short": [head, *rows[:5], "adacos,digits"],
        "wrong_columns": ["a,b,c,d", *rows],
        "nan": [head, *rows[:5], "arcface,digits,5,nan", *rows[6:]],
    }.items():
        (folder / f"{name}.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (folder / "empty.csv").touch()
    (folder / "binary.csv").write_bytes(generator.bytes(500))


_MADE: dict[str, Callable[[Path], None]] = {
    "parts": _parts,
    "good_and_defects": _good_and_defects,
    "only_good": _only_good,
    "two_good": _two_good,
    "unicode": _unicode,
    "numbers": _numbers,
    "train_test": _train_test,
    "train_val": _train_val,
    "broken": _broken,
    "weights": _weights,
    "run": _run,
    "torn": _torn,
    "csv": _csv,
}
