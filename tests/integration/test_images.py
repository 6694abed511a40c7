"""Runs on images that are hard to read: deep ones, copies in other files, and files that are no images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from metrad.app.evaluate import evaluate_run
from metrad.detector.core import Detector
from metrad.files import read_json

FOLDER = ("dataset=image_folder", "dataset.normal=[a]", "dataset.anomalous=[b]")


@pytest.fixture
def deep_folder(image_folders, tmp_path):
    """Return a folder of images of 12 bits in 16, some also as TIFF, with a text file in a class."""
    root = image_folders(tmp_path / "images")
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as image:
            values = np.asarray(image)[..., 0].astype(np.uint16) * 16
        Image.fromarray(values).save(path)
        if path.stem in ("1", "2"):
            Image.fromarray(values).save(path.with_suffix(".tif"))
    (root / "a/notes.txt").write_text("12 parts")
    return root


def test_a_run_says_and_keeps_how_deep_images_were_decoded_and_evaluates_alike(train, small, deep_folder, tmp_path):
    run = train(*small, *FOLDER, f"dataset.source.root={deep_folder}")
    split, said = read_json(run.split), run.log.read_text()
    assert (split["decoder"], split["range"]) == (2, 12)
    assert "0 to 4095 become 0 to 255 (dataset.range=12)" in said
    assert split["copies_left_out"] == len(split["copies"]) == read_json(run.metrics)["copies_left_out"] == 8
    assert "left out 8 copies" in said
    assert split["endings_left_out"] == {".txt": 1}
    assert "1 .txt" in said
    assert Detector.load(run.model).decoding.range == 12
    before = read_json(run.metrics)
    shutil.rmtree(run.embeddings)
    _, again = evaluate_run(run.path, [])
    assert again["auroc"] == before["auroc"]
    assert json.dumps(again["split"]) == json.dumps(before["split"])
