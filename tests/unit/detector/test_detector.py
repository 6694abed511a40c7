"""A detector saved and loaded: the same scores, nothing changed unnoticed, and no class that metrad does not know."""

import copy
import json
import os
import pickle

import numpy as np
import pytest
import torch

from metrad.data.decoding import Decoding
from metrad.data.ungrouped import UngroupedViews
from metrad.detector import bundle
from metrad.detector.bundle import TABLES, Blueprint, build_part, own_parts, same_part
from metrad.detector.core import Detector
from metrad.detector.torch_backend import TrainedBackend
from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration
from metrad.files import sealed, unsealed
from metrad.models.backbones import convnet
from metrad.models.embedder import Embedder
from metrad.models.heads import ArcFace
from metrad.runs.config.catalogue import contents
from metrad.scorers import KNN, HeadScorer

CONVNET = {"_target_": "metrad.models.backbones.convnet", "channels": [4, 6], "weights": "gone.pth"}
ARCFACE = {"_target_": "metrad.models.heads.ArcFace", "scale": 8.0, "margin": 0.1}
SCORERS = {
    "KNN": {"_target_": "metrad.scorers.KNN", "k": 2},
    "HeadScorer": {"_target_": "metrad.scorers.HeadScorer", "variant": "cosine"},
}


def trained(scorer="KNN", head=ARCFACE, settings=None):
    """Return a detector whose scorer is fitted on the embeddings of noise, and 20 other embeddings."""
    torch.manual_seed(0)
    embedder = Embedder(convnet(channels=[4, 6]), image_size=8).eval()
    images = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        embeddings = embedder(images).numpy()
    made = {"KNN": KNN(k=2), "HeadScorer": HeadScorer(variant="cosine")}[scorer]
    arcface = ArcFace(6, 3, scale=8.0, margin=0.1)
    if scorer == "HeadScorer":
        made.attach(arcface, [1])
    made.fit(embeddings[:20])
    detector = Detector(
        Blueprint(CONVNET, {"image_size": 8, "channels_last": True}, head, settings or SCORERS[scorer]),
        TrainedBackend(embedder, arcface),
        lambda: made,
        calibration=Calibration(np.sort(made.score(embeddings[20:30])), np.arange(10) // 3),
        normal_images=[f"good/{i}ä.png" for i in range(20)],
        precision="bf16-mixed",
    )
    return detector, images[30:], made.score(embeddings[30:])


@pytest.fixture(name="folder")
def model_folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_detector_that_was_saved_gives_the_same_scores(scorer, folder):
    detector, images, scores = trained(scorer)
    detector.decoding = Decoding(2, 12)
    detector.save(folder, {"split": "abc"})
    loaded = Detector.load(folder)
    with torch.inference_mode():
        found = loaded.scorer.score(loaded.backend.embedder(images).numpy())
    np.testing.assert_array_equal(found, scores)
    np.testing.assert_array_equal(loaded.calibration.scores, detector.calibration.scores)
    np.testing.assert_array_equal(loaded.calibration.groups, detector.calibration.groups)
    assert (loaded.normal_images, loaded.precision) == (detector.normal_images, "bf16-mixed")
    assert loaded.loaded_from.about["split"] == "abc"
    assert loaded.decoding == Decoding(2, 12)
    assert not loaded.backend.embedder.training


def test_the_embedder_is_built_when_it_is_asked_for(folder, monkeypatch):
    trained()[0].save(folder)
    loaded = Detector.load(folder)
    monkeypatch.setattr(bundle, "build_part", lambda kind, *_, **__: pytest.fail(f"a {kind} was built"))
    assert len(loaded.calibration.scores) == 10


@pytest.mark.parametrize("name", ["embedder.safetensors", "head.safetensors", "calibration.safetensors", "normal.json"])
def test_a_changed_or_missing_file_is_refused_and_named(name, folder):
    trained()[0].save(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not the file that was saved"):
        Detector.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        Detector.load(folder)


def changed(folder, **entries):
    """Write the record of a bundle anew with ``entries``, as somebody would who knows the checksum's formula."""
    record = unsealed(folder / bundle.RECORD)
    (folder / bundle.RECORD).write_text(sealed({**record, **entries}), encoding="utf-8")


def test_what_a_fit_without_groups_warned_of_is_kept_and_read_strictly(folder):
    detector, _, _ = trained()
    detector.save(folder)
    assert Detector.load(folder).ungrouped_views is None
    assert "ungrouped_views" not in unsealed(folder / bundle.RECORD)["about"]
    detector.ungrouped_views = UngroupedViews(300, 62)
    detector.save(folder.with_name("other"))
    again = Detector.load(folder.with_name("other"))
    assert again.ungrouped_views == UngroupedViews(300, 62)
    again.save(folder.with_name("third"))
    path = folder.with_name("third") / bundle.RECORD
    record = unsealed(path)
    assert record["about"]["ungrouped_views"] == {"images": 300, "groups": 62}
    record["about"]["ungrouped_views"] = {"images": 3, "groups": 62}
    path.write_text(sealed(record))
    with pytest.raises(InputError, match=r"^detector\.json: the entry ungrouped_views has numbers out of range"):
        Detector.load(path.parent)


def test_a_later_format_is_refused(folder):
    trained()[0].save(folder)
    changed(folder, format=2)
    with pytest.raises(InputError, match=r"detector\.json has format 2, and this version of metrad reads format 1"):
        Detector.load(folder)


@pytest.mark.parametrize("target", ["os.system", "metrad.models.heads.base.Head", "torch.nn.Linear", "AdaCosine"])
def test_a_class_outside_the_tables_is_never_built(target, folder):
    trained()[0].save(folder)
    changed(folder, scorer={"_target_": target, "command": "touch pwned"})
    with pytest.raises(InputError, match=rf"^scorer\._target_={target} is not allowed"):
        assert Detector.load(folder).scorer


def test_a_class_of_the_users_own_is_built_where_it_is_allowed():
    settings = {"_target_": "tests.helpers.backbones.dropping", "channels": [4]}
    with pytest.raises(InputError, match=r"add 'allow_targets=\[tests\]'"):
        build_part("backbone", settings, [])
    assert build_part("backbone", settings, ["tests"]).out_features == 4
    nested = {"_target_": "metrad.scorers.KNN", "k": {"_target_": "os.getpid"}}
    with pytest.raises(InputError, match=r"os\.getpid"):
        build_part("scorer", nested, ["tests"])


def test_settings_that_do_not_fit_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"scorer: KNN refuses its settings \(.*neighbours"):
        build_part("scorer", {"_target_": "KNN", "neighbours": 3}, [])


def test_the_record_names_parts_by_short_names_and_former_names_are_known(folder):
    detector, *_ = trained(head={**ARCFACE, "_target_": "metrad.heads.ArcFace"})
    detector.save(folder)
    record = json.loads((folder / bundle.RECORD).read_text())
    named = [record[kind]["_target_"] for kind in ("backbone", "head", "scorer")]
    assert named == ["convnet", "ArcFace", "KNN"]
    assert same_part("head", record["head"], {**ARCFACE, "_target_": "metrad.heads.ArcFace"})
    assert not same_part("head", record["head"], {**ARCFACE, "margin": 0.2})
    assert not same_part("scorer", None, SCORERS["KNN"])


def test_an_embedder_whose_weights_do_not_fit_is_refused(folder):
    trained()[0].save(folder)
    changed(folder, backbone={**CONVNET, "channels": [4, 8]})
    with pytest.raises(InputError, match=r"embedder\.safetensors cannot be read"):
        assert Detector.load(folder).backend.embedder


@pytest.mark.parametrize("kind", TABLES)
def test_every_class_of_a_shipped_yaml_can_be_built_from_a_bundle(kind):
    targets = {content["_target_"] for content in contents(kind).values()}
    module, _ = TABLES[kind]
    assert targets
    assert {target.removeprefix(f"{module}.") for target in targets} <= own_parts(kind).keys()


def test_it_is_described_in_one_line(folder):
    detector, *_ = trained()
    words = "Detector(scorer KNN, 20 normal and 10 calibration images, thresholds none)"
    assert repr(detector) == words
    detector.save(folder)
    assert repr(Detector.load(folder)) == words.replace("(scorer", f"({str(folder)!r}, scorer")
    detector.calibration = Calibration(np.linspace(0, 1, 19))
    assert repr(detector).endswith("19 calibration images, thresholds rate 0.05: 1)")


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_refuses_to_be_pickled_and_says_to_load_it_in_each_process(way, folder):
    detector, *_ = trained()
    with pytest.raises(InputError, match=r"save it with detector\.save\(FOLDER\) and load it in each"):
        way(detector)
    detector.save(folder)
    with pytest.raises(InputError, match=rf"^a Detector cannot be pickled .* Detector\.load\('{folder}'\)$"):
        way(Detector.load(folder))


@pytest.mark.parametrize(
    "name", ["detector.json", "embedder.safetensors", "head.safetensors", "calibration.safetensors", "normal.json"]
)
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_link_a_pipe_or_a_folder_in_place_of_a_file_is_refused(kind, name, folder, tmp_path):
    trained()[0].save(folder)
    (folder / name).rename(tmp_path / name)
    if kind == "link":
        (folder / name).symlink_to(tmp_path / name)
    elif kind == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()
    with pytest.raises(InputError, match=name):
        Detector.load(folder)


@pytest.mark.parametrize(("old", "new"), [('"k": 2', '"k": 3'), ('"precision"', '"precisian"'), ("{", "[")])
def test_an_edited_record_is_refused(old, new, folder):
    trained()[0].save(folder)
    path = folder / bundle.RECORD
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=r"detector\.json"):
        Detector.load(folder)
