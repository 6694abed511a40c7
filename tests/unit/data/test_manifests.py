"""Manifests of images and the tables of VisA."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metrad.data.manifests import Manifest, VisA
from metrad.data.sources import ImageFolder
from metrad.data.store import Storage, load
from metrad.errors import InputError
from tests.helpers.layouts import mvtec, put_images, visa


def manifest(folder: Path, *rows: str, head: str = "path,class", name: str = "parts.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([head, *rows, ""]))
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    return put_images(tmp_path / "images", ["good/1.png", "good/2.png", "bad/1.png"])


def test_a_manifest_gives_each_image_the_class_of_its_row(images):
    source = Manifest(manifest(images, "good/2.png,fine", "bad/1.png,cracked", "good/1.png,fine"))
    assert source.classes == ["cracked", "fine"]
    assert source.names == ["bad/1.png", "good/1.png", "good/2.png"]
    assert [source.classes[label] for label in source.labels] == ["cracked", "fine", "fine"]
    assert source.in_test_part is None
    assert source.columns == {}
    for position, name in enumerate(source.names):
        with Image.open(images / name) as image:
            assert np.array_equal(source.read(position).pixels, np.asarray(image))
    assert source.size_of(0) == (16, 16)


def test_the_order_of_the_rows_changes_nothing(images):
    rows = ["good/2.png,b,x", "bad/1.png,c,y", "good/1.png,b,z"]
    one, other = (Manifest(manifest(images, *order, head="path,class,day")) for order in (rows, rows[::-1]))
    assert (one.names, one.columns, one.identity) == (other.names, other.columns, other.identity)
    assert np.array_equal(one.labels, other.labels)
    assert one.columns == {"day": ["y", "z", "x"]}


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev"])
def test_part_says_train_or_test_and_validation_counts_to_training(images, validation):
    rows = ["bad/1.png,b,test", "good/1.png,g,train", f"good/2.png,g,{validation}"]
    source = Manifest(manifest(images, *rows, head="path,class,part"))
    assert source.in_test_part.tolist() == [True, False, False]
    assert source.columns == {}


def test_parts_without_a_test_part_are_none(images):
    source = Manifest(manifest(images, "good/1.png,g,train", "good/2.png,g,val", head="path,class,part"))
    assert source.in_test_part is None


def test_further_columns_are_kept_by_name_in_csv_and_in_json_lines(images):
    rows = [("bad/1.png", "b", "7", "x"), ("good/1.png", "g", "7", ""), ("good/2.png", "g", "8", "y")]
    head = ("path", "class", "group", "note")
    csv = Manifest(manifest(images, *map(",".join, rows), head=",".join(head)))
    lines = (json.dumps(dict(zip(head, row, strict=True))) for row in rows)
    listed = images / "parts.jsonl"
    listed.write_text("\n".join(lines))
    json_lines = Manifest(listed)
    assert csv.columns == json_lines.columns == {"group": ["7", "7", "8"], "note": ["x", "", "y"]}
    assert csv.identity == json_lines.identity


def test_paths_are_relative_to_the_manifest_or_to_the_root_or_absolute_and_may_lead_outside(tmp_path, images):
    lists = tmp_path / "lists"
    lists.mkdir()
    outside = Manifest(manifest(lists, "../images/good/1.png,g", f"{images}/bad/1.png,b"))
    assert outside.names == ["../images/good/1.png", f"{images}/bad/1.png"]
    below = Manifest(manifest(lists, "good/1.png,g", "bad/1.png,b"), root=images)
    assert below.names == ["bad/1.png", "good/1.png"]
    assert sorted(source.read(i).digest for source in (outside,) for i in range(2)) == sorted(
        below.read(i).digest for i in range(2)
    )


def test_columns_can_have_other_names(images):
    path = manifest(images, "good/1.png,g,train,1", "bad/1.png,b,test,2", head="image,label,split,class")
    source = Manifest(path, columns={"path": "image", "class": "label", "part": "split"})
    assert source.classes == ["b", "g"]
    assert source.in_test_part.tolist() == [True, False]
    assert source.columns == {"class": ["2", "1"]}


def test_an_image_that_changes_or_another_row_changes_the_identity(images):
    path = manifest(images, "good/1.png,g", "bad/1.png,b")
    before = Manifest(path).identity
    assert Manifest(path).identity == before
    put_images(images, ["good/1.png"], seed=1)
    assert Manifest(path).identity != before
    assert Manifest(manifest(images, "good/1.png,g", "bad/1.png,b", "good/2.png,g")).identity != Manifest(path)


@pytest.mark.parametrize(
    ("rows", "head", "says"),
    [
        (["a.png,g"], "image,label", r"has no column path, and has image, label"),
        (["good/1.png"], "path", r"has no column class"),
        (["good/1.png,g", ",g"], "path,class", r"line 3: path is empty"),
        (["good/1.png,g", "good/2.png,"], "path,class", r"line 3: class is empty"),
        (["good/1.png,g", "good/2.png, "], "path,class", r"line 3: class is empty"),
        (["good/1.png,g", "good/2.png, g"], "path,class", r"line 3: class begins or ends with a space"),
        (["good/1.png ,g"], "path,class", r"line 2: path begins or ends with a space"),
        (
            ["good/1.png,g,train", "good/2.png,g,"],
            "path,class,part",
            r"line 3: part must be train, val or test, got ''",
        ),
        (["good/1.png,g,Train"], "path,class,part", r"line 2: part must be train, val or test, got 'Train'"),
        (["good/1.png,g,test"], "path,class,part", r"all images are of the test part; part must be train for some"),
        (["good/1.png,g", "bad/1.png,b", "good/1.png,g"], "path,class", r"line 4: .*good/1.png is in line 2 already"),
        (["good/1.png,g", "good/../good/1.png,b"], "path,class", r"line \d: .*good/1.png is in line \d already"),
        (
            ["good/1.png,g", "good/9.png,g", "x.png,g"],
            "path,class",
            r"line 3: good/9.png is no file, nor are those of 1 mo",
        ),
        (["good\\1.png,g"], "path,class", r"line 2: .* is no file; write / between folders"),
        (["good/9.png,g"], "path,class", r"no file; paths are relative to dataset\.source\.root="),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_in_one_line_with_file_and_line(images, rows, head, says):
    with pytest.raises(InputError, match=rf"parts\.csv.*{says}") as error:
        Manifest(manifest(images, *rows, head=head))
    assert "\n" not in str(error.value)


def test_settings_that_lead_nowhere_are_refused_by_name(images):
    path = manifest(images, "good/1.png,g")
    with pytest.raises(InputError, match=r"dataset\.source\.path: no file .*nowhere\.csv"):
        Manifest(images / "deep/nowhere.csv")
    with pytest.raises(InputError, match=r"dataset\.source\.root: no folder .*nowhere"):
        Manifest(path, root=images / "nowhere")
    with pytest.raises(InputError, match=r"dataset\.source\.columns: group is none of path, class and part"):
        Manifest(path, columns={"group": "day"})
    with pytest.raises(InputError, match=r"dataset\.source\.columns: .* has no column label; there are path, class"):
        Manifest(path, columns={"class": "label"})
    with pytest.raises(InputError, match=r"dataset\.source\.size"):
        Manifest(path, size=0)


@pytest.mark.parametrize("kind", ["pipe", "folder", "text"])
def test_a_listed_path_that_is_no_image_is_refused_by_the_decoder_without_waiting(images, kind):
    odd = images / "odd.png"
    {"pipe": os.mkfifo, "folder": Path.mkdir, "text": lambda path: path.write_text("no image")}[kind](odd)
    source = Manifest(manifest(images, "odd.png,g", "bad/1.png,b"))
    with pytest.raises(InputError, match=r"odd\.png"):
        load(source, 8, Storage(2**20, 0, images), skip_corrupt=False)
    assert list(load(source, 8, Storage(2**20, 0, images), skip_corrupt=True).corrupt) == [1]


def test_a_category_of_visa_is_read_by_its_table(tmp_path):
    source = VisA(visa(tmp_path, ["candle", "pcb1"]), "candle")
    assert source.classes == ["anomaly", "normal"]
    assert np.bincount(source.labels).tolist() == [5, 30]
    assert int(source.in_test_part.sum()) == 11
    assert source.trainable_classes == {1}
    assert all(name.startswith("candle/Data/Images/") for name in source.names)
    masks = dict(zip(source.names, source.columns["mask"], strict=True))
    assert masks["candle/Data/Images/Anomaly/003.JPG"] == "candle/Data/Masks/Anomaly/003.png"
    assert masks["candle/Data/Images/Normal/003.JPG"] == ""
    assert source.identity != VisA(tmp_path, "pcb1").identity


def test_mistakes_with_visa_are_named_with_the_way_out(tmp_path):
    root = visa(tmp_path / "visa", ["candle", "pcb1"])
    for category, says in (
        (None, "must be set"),
        ("candel", r"did you mean dataset\.category=candle\? there are candle, p"),
    ):
        with pytest.raises(InputError, match=says):
            VisA(root, category)
    with pytest.raises(InputError, match=r"dataset\.source\.split=2cls: no table .*; there are 1cls"):
        VisA(root, "candle", split="2cls")
    for wrong in (root.parent, root / "candle"):
        with pytest.raises(InputError, match=rf"has no folder split_csv; dataset\.source\.root={root} has"):
            VisA(wrong, "candle")
    with pytest.raises(InputError, match=r"metrad does not download VisA.*nowhere/split_csv/1cls\.csv"):
        VisA(tmp_path / "nowhere", "candle")
    with pytest.raises(
        InputError, match=r"as MVTec AD: dataset=mvtec dataset\.source\.root=.* dataset\.category=screw"
    ):
        VisA(mvtec(tmp_path / "mvtec", {"screw": ["crack"]}), "screw")
    with pytest.raises(InputError, match=r"as VisA.*: dataset=visa dataset\.source\.root=.* dataset\.category=candle"):
        ImageFolder(root)
    (root / "split_csv/1cls.csv").write_text("object,split,label,image\ncandle,train,normal,a.png\n")
    with pytest.raises(InputError, match=r"has no column mask, as VisA's tables have"):
        VisA(root, "candle")
