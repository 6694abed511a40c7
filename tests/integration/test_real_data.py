"""Few steps on the real data that the project is made for."""

import os
from pathlib import Path

import pytest

from metrad.files import read_json
from tests.helpers.runs import rows

pytestmark = pytest.mark.real_data
DATA = Path(__file__).parents[2] / "data"
WEIGHTS = DATA / "weights/mobilenet_v2_imagenet.pth"
SIZES = (
    "dataset.sizes={reference: 160, normal: 40, calibration: 20, test_normal: 40, test_anomalous: 40}",
    "image_size=32",
    "batch_size=64",
    "trainer.max_steps=2",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
)
WANTED = {"reference": 160, "normal": 40, "calibration": 20, "test_normal": 40, "test_anomalous": 40}


def need(*paths):
    missing = [str(path) for path in paths if not path.exists()]
    if missing and os.environ.get("METRAD_REQUIRE_REAL_DATA"):
        pytest.fail(f"METRAD_REQUIRE_REAL_DATA is set and the real data is missing: {', '.join(missing)}")
    if missing:
        pytest.skip(f"the real data is missing: {', '.join(missing)}; CONTRIBUTING says how to get it")


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "convnet"])
def test_fashion_mnist(backbone, train):
    need(DATA / "FashionMNIST/raw/train-images-idx3-ubyte.gz", WEIGHTS)  # unpacked by torchvision
    model = ["image_size=64", f"backbone.weights={WEIGHTS}"] if backbone == "mobilenet_v2" else []
    run = train("dataset=fmnist", *SIZES, f"paths.data={DATA}", f"backbone={backbone}", *model)
    metrics, split = read_json(run.metrics), read_json(run.split)
    assert metrics["sizes"] == WANTED
    assert split["classes"]["normal"] == ["Sneaker"]
    assert split["classes"]["anomalous"] == ["Ankle boot"]
    assert len(split["classes"]["reference"]) == 8
    assert split["head_classes"][-1] == "Sneaker"
    assert all(name.startswith("test/") for role in ("test_normal", "test_anomalous") for name in split["images"][role])
    assert all(name.startswith("train/") for role in ("reference", "normal") for name in split["images"][role])
    assert {(row["class"], row["role"]) for row in rows(run.scores)} == {
        ("Sneaker", "test_normal"),
        ("Ankle boot", "test_anomalous"),
    }
    assert metrics["auroc"] > (0.7 if backbone == "mobilenet_v2" else 0.5)


@pytest.fixture
def some_of_cifar10(tmp_path):
    """Links to a few files of the real folder in its own layout, since decoding all 60,000 takes long."""
    source = DATA / "cifar10_folder"
    need(source / "train/deer", source / "test/horse")
    for part in ("train", "test"):
        for name in ("cat", "dog", "deer", "horse"):
            (tmp_path / "cifar" / part / name).mkdir(parents=True)
            for path in sorted((source / part / name).iterdir())[:120]:
                (tmp_path / "cifar" / part / name / path.name).symlink_to(path)
    return tmp_path / "cifar"


def test_a_folder_of_jpegs_gives_the_same_results_kept_in_memory_on_disk_and_streamed(
    some_of_cifar10, train, small, comparable, tmp_path
):
    found = []
    for name, limits in {
        "memory": [],
        "disk": ["dataset.memory_limit_gib=0"],
        "cached": ["dataset.memory_limit_gib=0"],
        "streamed": ["dataset.memory_limit_gib=0", "dataset.disk_limit_gib=0"],
    }.items():
        run = train(
            *small,
            *("dataset=cifar10_folder", f"dataset.source.root={some_of_cifar10}", "dataset.reference=[cat,dog]"),
            *SIZES,
            *(f"paths.data={tmp_path}", *limits),
            name=name,
        )
        found.append((comparable(run), run.scores.read_bytes(), run.embedder.read_bytes(), run.split.read_bytes()))
    assert [result == found[0] for result in found] == [True] * 4
    assert found[0][0]["sizes"] == WANTED
    assert len(list(tmp_path.glob("cache/*/images.npy"))) == 1
    split = read_json(run.split)
    assert split["head_classes"] == ["cat", "dog", "deer"]
    assert all(name.startswith("test/") for name in split["images"]["test_anomalous"])


def test_magnetic_tiles_need_no_code_of_their_own(train, small):
    root = DATA / "magnetic_tile"
    need(root / "MT_Free", root / "MT_Blowhole")
    run = train(*small, "dataset=magnetic_tile", "image_size=32", "trainer.max_steps=2", f"paths.data={DATA}")
    metrics, split = read_json(run.metrics), read_json(run.split)
    names = [name for role in split["images"].values() for name in role]
    of_the_roles = len([path for path in root.rglob("*") if path.suffix.lower() == ".jpg"])
    assert split["head_classes"] == ["MT_Blowhole", "MT_Break", "MT_Free"]
    assert split["classes"]["anomalous"] == ["MT_Crack", "MT_Fray", "MT_Uneven"]
    assert {Path(name).suffix for name in names} == {".jpg"}
    left_out = metrics["copies_left_out"] + split["left_out_for_groups"]
    assert of_the_roles - left_out - 10 <= len(names) == len(set(names)) <= of_the_roles - left_out  # ends of groups
    assert {row["class"] for row in rows(run.scores)} == {"MT_Free", "MT_Crack", "MT_Fray", "MT_Uneven"}
    groups = {role: set(numbers) for role, numbers in split["groups"].items()}
    training = groups["reference"] | groups["normal"]
    test = groups["test_normal"] | groups["test_anomalous"]
    assert not training & test
    assert not groups["calibration"] & (training | test)
    assert metrics["groups"]["calibration"] >= 19  # what a threshold for 5 % takes
