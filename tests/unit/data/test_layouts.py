"""The layout of MVTec AD, of AD 2 and of LOCO AD, and the usual mistakes with it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metrad.data.layouts import MVTec
from metrad.data.sources import ImageFolder
from metrad.data.store import Storage, load
from metrad.errors import InputError
from tests.helpers.layouts import mvtec, numbered, put_images


def parts(source: MVTec) -> dict[str, bool]:
    """Return whether each folder of ``source`` is of the test part."""
    assert source.in_test_part is not None
    found = {(str(Path(name).parent), bool(part)) for name, part in zip(source.names, source.in_test_part, strict=True)}
    assert len(dict(found)) == len(found)
    return dict(found)


def masks(source: MVTec) -> dict[str, str]:
    return {name: mask for name, mask in zip(source.names, source.columns["mask"], strict=True) if mask}


@pytest.fixture
def root(tmp_path) -> Path:
    return mvtec(tmp_path / "mvtec", {"screw": ["scratch_head", "thread_side"], "bottle": ["contamination"]})


def test_a_category_of_mvtec_has_good_and_its_kinds_as_classes_and_the_parts_of_its_folders(root):
    source = MVTec(root, "screw")
    assert source.classes == ["good", "scratch_head", "thread_side"]
    assert parts(source) == {
        "screw/train/good": False,
        "screw/test/good": True,
        "screw/test/scratch_head": True,
        "screw/test/thread_side": True,
    }
    assert np.bincount(source.labels).tolist() == [30, 4, 4]
    assert source.trainable_classes == {0}
    assert [source.classes[label] for label in source.labels] == [Path(name).parts[-2] for name in source.names]


def test_ground_truth_is_never_an_image_and_is_found_for_each_defect(root):
    source = MVTec(root, "screw")
    assert not any("ground_truth" in name for name in source.names)
    found = masks(source)
    assert found["screw/test/thread_side/002.png"] == "screw/ground_truth/thread_side/002_mask.png"
    assert len(found) == 8
    assert all((root / mask).is_file() for mask in found.values())


def test_each_position_reads_the_file_of_its_name(root):
    source = MVTec(root, "bottle")
    for position, name in enumerate(source.names):
        with Image.open(root / name) as image:
            assert np.array_equal(source.read(position).pixels, np.asarray(image))
    assert source.size_of(0) == (16, 16)


def test_the_root_can_be_one_category(root):
    whole, one = MVTec(root, "screw"), MVTec(root / "screw")
    assert [f"screw/{name}" for name in one.names] == whole.names
    assert set(masks(one).values()) == {mask.removeprefix("screw/") for mask in masks(whole).values()}


def test_loco_has_validation_images_in_the_training_part_and_folders_of_masks(tmp_path):
    names = [*numbered("breakfast_box/train/good", 3), *numbered("breakfast_box/validation/good", 2)]
    names += [*numbered("breakfast_box/test/good", 2), *numbered("breakfast_box/test/logical_anomalies", 2)]
    names += [f"breakfast_box/ground_truth/logical_anomalies/{i:03d}/{j:03d}.png" for i in range(2) for j in range(2)]
    (put_images(tmp_path, names) / "breakfast_box/defects_config.json").write_text("[]")
    source = MVTec(tmp_path, "breakfast_box")
    assert source.classes == ["good", "logical_anomalies"]
    assert parts(source) == {
        "breakfast_box/train/good": False,
        "breakfast_box/validation/good": False,
        "breakfast_box/test/good": True,
        "breakfast_box/test/logical_anomalies": True,
    }
    assert len(source.names) == 9
    first = masks(source)["breakfast_box/test/logical_anomalies/001.png"]
    assert first == "breakfast_box/ground_truth/logical_anomalies/001"
    assert (tmp_path / first).is_dir()


def test_ad_2_has_its_public_test_part_and_leaves_the_private_ones_out(tmp_path):
    names = [f"can/train/good/{i:03d}_regular.png" for i in range(3)]
    names += [f"can/validation/good/{i:03d}_regular.png" for i in range(2)]
    names += [f"can/test_public/{kind}/{i:03d}_regular.png" for kind in ("good", "bad") for i in range(2)]
    names += [f"can/test_public/ground_truth/bad/{i:03d}_regular_mask.png" for i in range(2)]
    names += [f"can/test_private/{i:03d}_regular.png" for i in range(2)]
    names += [f"can/test_private_mixed/{i:03d}_mixed.png" for i in range(2)]
    source = MVTec(put_images(tmp_path, names), "can")
    assert source.classes == ["bad", "good"]
    assert len(source.names) == 9
    assert parts(source) == {
        "can/train/good": False,
        "can/validation/good": False,
        "can/test_public/good": True,
        "can/test_public/bad": True,
    }
    assert masks(source)["can/test_public/bad/001_regular.png"] == (
        "can/test_public/ground_truth/bad/001_regular_mask.png"
    )


def test_other_datasets_in_this_layout_are_read_with_their_names_of_good_and_of_masks(tmp_path):
    names = [*numbered("01/train/ok", 3), *numbered("01/test/ok", 2), *numbered("01/test/ko", 2)]
    source = MVTec(put_images(tmp_path, [*names, *numbered("01/ground_truth/ko", 2)]), "01")
    assert source.classes == ["ko", "ok"]
    assert masks(source)["01/test/ko/001.png"] == "01/ground_truth/ko/001.png"


def test_a_category_without_test_images_yet_has_no_part_of_its_own(tmp_path):
    source = MVTec(put_images(tmp_path, numbered("screw/train/good", 3)), "screw")
    assert source.classes == ["good"]
    assert source.in_test_part is None


def test_categories_have_identities_of_their_own_and_masks_do_not_change_them(root, tmp_path):
    screw, bottle = MVTec(root, "screw"), MVTec(root, "bottle")
    assert screw.identity != bottle.identity
    (root / "screw/ground_truth/scratch_head/000_mask.png").unlink()
    assert MVTec(root, "screw").identity == screw.identity
    (root / "screw/train/good/000.png").unlink()
    assert MVTec(root, "screw").identity != screw.identity
    images = load(bottle, 8, Storage(0, 2**30, tmp_path / "cache"), skip_corrupt=False)
    assert images.images[np.arange(3)].shape == (3, 8, 8, 3)


@pytest.mark.parametrize(
    ("category", "says"),
    [
        (None, r"dataset\.category must be set, as in dataset\.category=bottle; there are bottle, screw"),
        ("scew", r"dataset\.category=scew is no category here; did you mean dataset\.category=screw\? there are bott"),
        ("SCREW", r"did you mean dataset\.category=screw\?"),
        ("nut", r"dataset\.category=nut is no category here; there are bottle, screw"),
        ("sewer", r"dataset\.category=sewer is no category here; there are bottle, screw"),
        ("screw/train", "is no category here"),
        ("..", "is no category here"),
        ("", "is no category here"),
    ],
)
def test_a_category_that_is_not_there_is_refused_with_those_that_are(root, category, says):
    with pytest.raises(InputError, match=says):
        MVTec(root, category)


def test_a_missing_folder_says_where_to_get_the_dataset_and_what_is_expected(tmp_path):
    with pytest.raises(InputError) as error:
        MVTec(tmp_path / "nowhere", "screw")
    assert str(error.value) == (
        f"dataset.source.root: no folder {tmp_path}/nowhere; metrad does not download MVTec AD, MVTec AD 2 or "
        f"MVTec LOCO AD; get it from MVTec, and unpack it so that there is {tmp_path}/nowhere/screw/train/good, or set "
        "dataset.source.root to its folder"
    )


def test_a_root_one_level_too_low_or_too_high_is_named_with_the_right_one(root):
    with pytest.raises(InputError, match=rf"is itself a category.*dataset\.source\.root={re.escape(str(root))}$"):
        MVTec(root / "screw", "screw")
    with pytest.raises(InputError, match=rf"its folder mvtec has: dataset\.source\.root={re.escape(str(root))}$"):
        MVTec(root.parent, "screw")
    with pytest.raises(InputError, match="has no category; a category is a folder with train/good"):
        MVTec(root / "screw/train/good", "screw")


@pytest.mark.parametrize("test", ["test", "test_public"])
def test_a_category_without_a_training_folder_is_told_so(root, test):
    put_images(root, numbered(f"nut/{test}/good", 2))
    for folder, category in ((root, "nut"), (root / "nut", None)):
        with pytest.raises(InputError, match=rf"{root}/nut has no train/good beside its folder {test}; put .*"):
            MVTec(folder, category)


def test_masks_inside_the_test_part_are_told_to_be_no_kind(root, caplog):
    caplog.set_level("INFO")
    put_images(root, numbered("screw/test/ground_truth/thread_side", 2))
    assert "ground_truth" not in MVTec(root, "screw").classes
    line = f"{root}/screw/test/ground_truth holds masks and was not read as a kind of defect"
    assert [said for said in caplog.messages if "ground_truth" in said] == [line]


def test_a_folder_of_classes_is_told_from_categories(tmp_path):
    put_images(tmp_path, [*numbered("OK", 2), *numbered("crack", 2)])
    with pytest.raises(InputError, match=r"choose dataset=image_folder dataset\.source\.root="):
        MVTec(tmp_path, "screw")


def test_a_training_folder_without_images_is_refused_with_the_files_there(tmp_path):
    put_images(tmp_path, numbered("screw/test/good", 2))
    (tmp_path / "screw/train/good").mkdir(parents=True)
    (tmp_path / "screw/train/good/000.heic").touch()
    with pytest.raises(InputError, match=r"no images in the class folders of .*train, .*; there are 1 \.heic"):
        MVTec(tmp_path, "screw")


@pytest.mark.parametrize("mask", ["000_mask.png", "000-GT.png", "000_ground_truth.bmp", "000_groundtruth.png"])
def test_masks_beside_images_are_refused_in_this_layout(root, mask):
    put_images(root, [f"screw/test/thread_side/{mask}"])
    with pytest.raises(InputError, match=rf"{mask} is called as the mask of an image beside it; move it"):
        MVTec(root, "screw")


def test_an_image_folder_that_holds_categories_is_refused_with_the_dataset_to_choose(root):
    with pytest.raises(InputError) as error:
        ImageFolder(root)
    assert str(error.value).endswith(f"dataset=mvtec dataset.source.root={root} dataset.category=bottle")


def test_an_image_folder_that_is_a_category_is_read_and_mvtec_suggested_once(root, caplog):
    caplog.set_level("INFO")
    for _ in range(2):
        assert ImageFolder(root / "screw").classes == ["good", "scratch_head", "thread_side"]
    said = [line for line in caplog.messages if f"dataset=mvtec dataset.source.root={root / 'screw'}" in line]
    assert len(said) == 1
