"""Each benchmark runs in a small setting and prints its table; its figures are another matter."""

import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.helpers.commands import DIGITS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
# These read runs and make none, or take data that cannot be made up: their tests are in tests/unit/benchmarks
READERS = ("article", "envelope", "false_alarms", "pseudo_anomaly", "recipes", "stand_ins")
SIDES = ("best_loop",)  # of another benchmark
BENCHMARKS = sorted(
    path.name for path in FOLDER.glob("*.py") if path.name[0] != "_" and path.stem not in (*READERS, *SIDES)
)
SMALL_RUN = ["backbone=convnet", "image_size=16", "--share=0.02", "--no-warm-up"]
HEADS = ["softmax", "l2_softmax", "normface", "sphereface", "cosface", "arcface", "subcenter_arcface", "adacos"]
HEADS += ["adacos_dynamic", "subcluster_adacos", "curricularface", "adaface", "magface"]
RUN = f"python train.py {' '.join(DIGITS)}"


@dataclass(frozen=True)
class Small:
    """A small setting and what comes of it.

    Attributes:
        arguments: of the command; {data}, {run} and {embeddings} stand for what the tests make.
        rows: the first column of its tables, one behind the other.
        figures: columns that hold numbers, and whether every row has one.
    """

    arguments: list[str]
    rows: list[str]
    figures: dict[str, bool]


SMALL = {
    "augmentation.py": Small(
        ["--batch=2", "--rounds=1", "--device=cpu"],
        ["flip", "crop", "color", "rand_augment", "all"],
        {"metrad, ms": True, "kornia, ms": True, "torchvision image by image, ms": True},
    ),
    "embedding.py": Small(
        ["{run}", "--rounds=1", "--images=8"],
        ["32", "64", "128", "256", "512", "1024", "32-true, seed 0"],
        {"32-true": False, "ratio": False, "AUROC, embedded in 32-true": False},
    ),
    # Only one run, of the two kinds the one that no other benchmark makes.
    "growth.py": Small(
        ["--data={data}", "--factors=1", "--kept=streamed", "--backbone=convnet", "--image-size=16", *SMALL_RUN[2:]],
        ["streamed"],
        {"images": True, "run s": True, "epoch s": True, "images/s": True, "peak MB": True, "own - array MB": True},
    ),
    "heads.py": Small(
        ["--sizes=small", "--rounds=1", "--device=cpu"], HEADS, {"ms": True, "MB": True, "time ratio": False}
    ),
    "knn.py": Small(
        ["--embeddings={embeddings}", "--sizes=200", "--queries=50", "--rounds=1", "--sides=metrad flat,faiss flat"],
        ["metrad flat", "faiss flat"],
        {"process MB": True, "recall@1": True, "speed-up": True},
    ),
    "precision.py": Small(
        ["--data={data}", "--seeds=1", "--epochs=1", *SMALL_RUN],
        ["32-true", "bf16-mixed"],
        {"AUROC, mean": True, "train s, median": True, "÷ 32-true": True, "difference from 32-true": False},
    ),
    "predict.py": Small(
        # random weights tell images apart by so little that the rounding of two resizes is a fifth of a distance
        ["--images=24", "--good=60", "--width=128", "--height=96", "--rounds=1", "--tolerance=0.5"],
        ["metrad", "usual loop", "best loop"],
        {"images/s": True, "÷ usual loop": True, "peak MB": True, "difference": True, "rounds": True},
    ),
    "predict_throughput.py": Small(
        [
            "--count=12",
            "--pixels=40",
            "--image-size=32",
            "--rounds=1",
            "--device=cpu",
            "--precisions=32-true,bf16-mixed",
        ],
        [*["hand-written"] * 2, *["metrad, cold", "metrad, warm"] * 2],
        {"images/s, median": True, "÷ hand-written": True, "rounds": True},
    ),
    "startup.py": Small(
        ["--rounds=1", "--no-warm-up", *DIGITS],
        [
            *("python -c pass", "python -c 'import torch'"),
            *("python -c 'import torch, torchvision, pytorch_lightning, hydra, faiss'", "metrad --help"),
            *("python train.py --help", "python train.py --cfg job"),
            *(f"{RUN}: {mark}" for mark in ("first step begins", "first step is done", "whole run")),
        ],
        {"seconds, median": True, "CPU seconds": True, "of import torch": True, "wanted, idle machine": False},
    ),
    # None side by side, which takes three processes more; test_sweeps.py makes such sweeps.
    "sweep.py": Small(
        ["--runs=2", "--rounds=1", "--threads=1", "--jobs=", *DIGITS],
        ["one after another"],
        {"seconds": True, "of serial": True},
    ),
    "train_throughput.py": Small(
        ["--quick", "--device=cpu", "--precisions=bf16-mixed"],
        ["bf16-mixed contiguous -", "bf16-mixed channels-last -"],
        {
            "hand-written Lightning": True,
            "bare loop": True,
            "metrad": True,
            "÷ hand-written": True,
            "÷ bare loop": True,
        },
    ),
}


@pytest.fixture
def made(tmp_path, finished_run):
    """Return what benchmarks read: files like those of Fashion-MNIST, a run, and embeddings, all small."""
    generator = np.random.default_rng(0)
    parts = {"train": 40, "test": 25}  # images a class
    arrays = {
        part: (generator.integers(0, 256, (10 * count, 28, 28), dtype=np.uint8), np.arange(10 * count) % 10)
        for part, count in parts.items()
    }
    write = runpy.run_path(str(FOLDER / "_fashion_mnist.py"))["write"]
    write(tmp_path / "data", {part: (images, labels.astype(np.uint8)) for part, (images, labels) in arrays.items()})
    roles = ("normal", "calibration", "test_normal", "test_anomalous")
    embeddings = {role: generator.standard_normal((60, 32), dtype=np.float32) for role in roles}
    save_file(embeddings, tmp_path / "embeddings.safetensors")
    return {"data": tmp_path / "data", "run": finished_run.path, "embeddings": tmp_path / "embeddings.safetensors"}


def benchmark(name, *arguments):
    command = [sys.executable, f"benchmarks/{name}", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def rows_of(text: str) -> list[dict[str, str]]:
    """Return the rows of all Markdown tables in a text, by their columns; the first has the name "" as well."""
    rows, columns = [], []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif any(lines[i + 1 : i + 2]) and set(lines[i + 1]) <= set("|- "):
            columns = cells
        elif not set(line) <= set("|- "):
            assert len(cells) == len(columns), line
            rows.append(dict(zip(columns, cells, strict=True)) | {"": cells[0]})
    return rows


@pytest.mark.long
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_its_table(name, made):
    assert name in SMALL, f"{name} needs a small setting here"
    small = SMALL[name]
    result = benchmark(name, *(argument.format(**made) for argument in small.arguments))
    assert result.returncode == 0, result.stderr
    rows = rows_of(result.stdout)
    assert [row[""] for row in rows] == small.rows
    for column, everywhere in small.figures.items():
        cells = [row[column] for row in rows if row.get(column)]
        assert cells, column
        assert len(cells) == len(rows) or not everywhere, column
        assert all(np.isfinite(float(cell.replace(",", ""))) for cell in cells), cells


@pytest.mark.long
def test_the_memory_of_a_long_stream_is_printed_early_and_at_the_end():
    small = ["--stream=1500", "--images=20", "--good=60", "--width=40", "--height=30", "--size=32"]
    result = benchmark("predict.py", *small)
    assert result.returncode == 0, result.stderr
    early, end = rows_of(result.stdout)
    assert (early["images"], end["images"]) == ("1,024", "1,500")
    assert 0 < float(end["resident MB"]) <= float(end["at most MB"])
    assert float(end["at most MB"]) < 1.2 * float(early["at most MB"])


@pytest.mark.long
def test_data_that_is_missing_is_told_in_one_line(tmp_path):
    for name in ("growth.py", "precision.py"):
        result = benchmark(name, f"--data={tmp_path}")
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert all(word in result.stderr for word in (str(tmp_path), "dataset=fmnist", "--data"))


@pytest.mark.long
def test_jobs_on_a_gpu_take_one():
    result = benchmark("sweep.py", "--jobs-per-gpu=1,2")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "there is no GPU" in result.stderr


def test_repeated_images_are_all_different_and_the_first_copy_is_as_it_was(tmp_path):
    fashion_mnist = runpy.run_path(str(FOLDER / "_fashion_mnist.py"))
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    arrays = dict.fromkeys(("train", "test"), (images, np.arange(20, dtype=np.uint8) % 10))
    fashion_mnist["write"](tmp_path, arrays, 3)
    more, labels = fashion_mnist["load"](fashion_mnist["found"](tmp_path))["train"]
    assert np.array_equal(more[:20], images)
    assert np.array_equal(labels, np.tile(arrays["train"][1], 3))
    assert len(np.unique(more.reshape(60, -1), axis=0)) == 60
    assert np.abs(more.astype(int) - np.tile(images, (3, 1, 1))).max() == 1


def test_growth_is_told_as_a_line(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    growth = runpy.run_path(str(FOLDER / "growth.py"))
    costs = [growth["Cost"](20 + n / 100, n / 200, 0, 700 + 2 * n / 1000 + n / 10, n / 10) for n in (1000, 2000, 8000)]
    told = growth["fitted"]("memory", costs, [1000, 2000, 8000])
    assert "20.0 s and 10.00 ms an image" in told
    assert "700 MB and +2.00 MB a thousand images" in told
