"""Sources: image folders in all their shapes, the bundled digits, and what ``open_source`` refuses."""

import os
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from metrad.data.duplicates import content_key, digest
from metrad.data.sources import Digits, ImageFolder, Source
from metrad.data.store import Storage, load
from metrad.data.torchvision_sources import open_source
from metrad.errors import InputError


def put(root: Path, *names: str, start: int = 0) -> Path:
    """Write small images of rising brightness at ``names`` below ``root``."""
    for value, name in enumerate(names, start):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, value, value)).save(path, "PNG")
    return root


def by_class(source: Source) -> dict[str, list[str]]:
    return {
        name: sorted(source.names[i] for i in np.flatnonzero(source.labels == label))
        for label, name in enumerate(source.classes)
    }


def test_class_is_the_first_folder_however_deep_the_image_lies(tmp_path):
    source = ImageFolder(put(tmp_path, "dog/z.png", "cat/b/c/d.png", "cat/a.png", "dog/cat/y.png"))
    assert source.classes == ["cat", "dog"]
    assert by_class(source) == {"cat": ["cat/a.png", "cat/b/c/d.png"], "dog": ["dog/cat/y.png", "dog/z.png"]}
    assert source.in_test_part is None


def test_each_position_reads_the_file_of_its_name_and_label(tmp_path):
    names = [f"{c}/{i}.png" for c in ("x", "y", "z") for i in range(3)]
    source = ImageFolder(put(tmp_path, *names))
    for i, name in enumerate(source.names):
        image = source.read(i)
        assert image.pixels[0, 0].tolist() == [names.index(name)] * 3
        assert image.digest == content_key(image.pixels)
        assert source.classes[source.labels[i]] == name.split("/")[0]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.JPG"]),
        ("*.JPG", ["a.jpg", "b.JPG"]),
        (["*.jpg", "*_mask.png"], ["a.jpg", "a_mask.png", "b.JPG"]),
        (["*.jpg", "a.*"], ["a.jpg", "b.JPG"]),
        ("[!a]*", ["b.JPG", "notes.txt"]),
        ("?.jp*g", ["a.jpg", "b.JPG"]),
        (None, ["a.jpg", "a_mask.png", "b.JPG"]),
    ],
)
def test_pattern_chooses_the_images(tmp_path, pattern, expected):
    put(tmp_path, "c/a.jpg", "c/a_mask.png", "c/b.JPG", "c/.hidden.jpg")
    (tmp_path / "c/notes.txt").write_text("no image")
    assert ImageFolder(tmp_path, pattern=pattern).names == [f"c/{name}" for name in expected]


def test_usual_endings_match_without_a_pattern_in_either_case(tmp_path):
    names = ["a.png", "b.jpg", "c.jpeg", "d.bmp", "e.tif", "f.tiff", "g.webp", "h.ppm", "i.PGM", "j.Pbm", "k.PNG"]
    put(tmp_path, *(f"c/{name}" for name in names))
    (tmp_path / "c/readme.md").write_text("no image")
    assert ImageFolder(tmp_path).names == [f"c/{name}" for name in names]


def test_hidden_files_and_hidden_class_folders_are_no_data(tmp_path):
    put(tmp_path, "c/a.png", "c/._a.png", ".ipynb_checkpoints/b.png")
    assert by_class(ImageFolder(tmp_path)) == {"c": ["c/a.png"]}


def test_hidden_folders_inside_a_class_are_no_data(tmp_path):
    put(tmp_path, "c/a.png", "c/.ipynb_checkpoints/a-checkpoint.png", "c/d/.thumbnails/a.png")
    assert ImageFolder(tmp_path).names == ["c/a.png"]


def test_files_beside_the_class_folders_are_no_class(tmp_path):
    put(tmp_path, "loose.png", "c/a.png")
    assert by_class(ImageFolder(tmp_path)) == {"c": ["c/a.png"]}


def test_images_in_the_root_alone_are_one_class_named_after_the_root(tmp_path):
    root = put(tmp_path / "parts of May", "b.png", "a.png")
    (root / "notes").mkdir()
    (root / "notes/read.txt").write_text("no image")
    source = ImageFolder(root)
    assert by_class(source) == {"parts of May": ["a.png", "b.png"]}
    assert source.in_test_part is None
    assert [int(source.read(i).pixels[0, 0, 0]) for i in range(2)] == [1, 0]


def test_a_flat_root_has_a_name_however_its_path_is_written(tmp_path, monkeypatch):
    root = put(tmp_path / "good", "a.png")
    (root / "deep").mkdir()
    monkeypatch.chdir(root)
    for path in (".", "deep/..", root, f"{root}/", "../good"):
        assert ImageFolder(path).classes == ["good"]


def test_chosen_folders_alone_are_read_each_as_a_class_of_its_path(tmp_path):
    root = put(tmp_path, "train/good/1.png", "test/good/2.png", "test/cut/3.png", "loose.png", "train/good/deep/4.png")
    source = ImageFolder(root, folders=["train/good", "test/cut/"])
    assert by_class(source) == {
        "test/cut": ["test/cut/3.png"],
        "train/good": ["train/good/1.png", "train/good/deep/4.png"],
    }
    assert source.in_test_part is None


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["nowhere"], "nowhere is no folder below"),
        (["a", "a"], "list each folder once"),
        (["a", "a/deep"], "list each folder once"),
        (["../elsewhere"], "must be a path below"),
        (["/tmp"], "must be a path below"),
        (["."], "must be a path below"),
        ([], "lists no folder"),
        (["empty"], "no images that match .* in empty of"),
    ],
)
def test_folders_that_cannot_be_chosen_are_refused(tmp_path, folders, says):
    put(tmp_path / "root", "a/1.png", "a/deep/2.png", "loose.png")
    (tmp_path / "root/empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match=rf"dataset\.source.*{says}"):
        ImageFolder(tmp_path / "root", folders=folders)


def test_class_folder_without_images_is_no_class(tmp_path):
    put(tmp_path, "c/a.png")
    (tmp_path / "empty").mkdir()
    assert ImageFolder(tmp_path).classes == ["c"]


def test_symlinked_class_folder_and_image_are_followed(tmp_path):
    put(tmp_path / "elsewhere", "pictures/a.png", "single.png")
    root = put(tmp_path / "root", "c/b.png", start=5)
    (root / "linked").symlink_to(tmp_path / "elsewhere/pictures", target_is_directory=True)
    (root / "c/z.png").symlink_to(tmp_path / "elsewhere/single.png")
    source = ImageFolder(root)
    assert by_class(source) == {"c": ["c/b.png", "c/z.png"], "linked": ["linked/a.png"]}
    assert [int(source.read(i).pixels[0, 0, 0]) for i in range(3)] == [5, 1, 0]


def test_link_that_leads_nowhere_is_named(tmp_path):
    put(tmp_path, "c/a.png")
    (tmp_path / "c/lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"lost\.png"):
        load(ImageFolder(tmp_path), 8, Storage(2**20, 0, tmp_path), skip_corrupt=False)


def test_folder_that_links_to_its_own_parent_is_read_once(tmp_path):
    put(tmp_path, "c/a.png", "c/d/b.png")
    (tmp_path / "c/d/up").symlink_to(tmp_path / "c", target_is_directory=True)
    assert ImageFolder(tmp_path).names == ["c/a.png", "c/d/b.png"]


def test_train_and_test_folders_are_the_parts(tmp_path):
    source = ImageFolder(put(tmp_path, "train/b/1.png", "train/a/2.png", "test/a/3.png", "test/b/4.png"))
    assert source.classes == ["a", "b"]
    assert dict(zip(source.names, source.in_test_part, strict=True)) == {
        "train/a/2.png": False,
        "train/b/1.png": False,
        "test/a/3.png": True,
        "test/b/4.png": True,
    }


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev"])
def test_validation_images_count_to_the_training_part(tmp_path, validation):
    names = ["train/a/1.png", f"{validation}/a/2.png", f"{validation}/b/3.png", "test/a/4.png"]
    source = ImageFolder(put(tmp_path, *names))
    assert dict(zip(source.names, source.in_test_part, strict=True)) == {name: name[:4] == "test" for name in names}
    assert source.classes == ["a", "b"]


def test_train_and_val_without_test_are_no_parts_but_all_of_their_classes(tmp_path):
    source = ImageFolder(put(tmp_path, "train/good/1.png", "val/good/2.png", "val/crack/3.png"))
    assert by_class(source) == {"crack": ["val/crack/3.png"], "good": ["train/good/1.png", "val/good/2.png"]}
    assert source.in_test_part is None


def test_the_test_part_can_have_another_name(tmp_path):
    source = ImageFolder(put(tmp_path, "train/good/1.png", "val/good/2.png", "dev/good/3.png"), test="val")
    assert dict(zip(source.names, source.in_test_part, strict=True)) == {
        "dev/good/3.png": False,
        "train/good/1.png": False,
        "val/good/2.png": True,
    }


@pytest.mark.parametrize("test", ["train", "nowhere", "val"])
def test_a_name_that_cannot_be_the_test_part_is_refused(tmp_path, test):
    put(tmp_path, "train/a/1.png", "test/a/2.png", "val/a/3.png")
    with pytest.raises(InputError, match=rf"dataset\.source\.test={test} must name the folder of the test part"):
        ImageFolder(tmp_path, test=test)


def test_train_and_val_that_hold_images_themselves_are_classes(tmp_path):
    assert ImageFolder(put(tmp_path, "train/1.png", "val/2.png")).classes == ["train", "val"]


def test_files_called_as_masks_of_images_beside_them_are_read_and_named_once(tmp_path, caplog):
    put(tmp_path, "c/a.png", "c/a_mask.png", "c/b.png", "c/b-gt.png", "c/x_mask.png", "d/a_mask.png")
    for _ in range(2):
        assert len(ImageFolder(tmp_path).names) == 6
    assert [line[:60] for line in caplog.messages] == [
        "2 files are called as masks of images beside them, such as " + "/"
    ]
    assert ImageFolder(tmp_path, pattern="?.png").names == ["c/a.png", "c/b.png"]


@pytest.mark.parametrize("present", ["train", "test"])
def test_a_train_or_test_folder_alone_is_a_class(tmp_path, present):
    source = ImageFolder(put(tmp_path, f"{present}/1.png", "other/2.png"))
    assert source.classes == sorted([present, "other"])
    assert source.in_test_part is None


def test_root_named_test_has_no_parts(tmp_path):
    source = ImageFolder(put(tmp_path / "test", "a/1.png", "b/2.png"))
    assert source.classes == ["a", "b"]
    assert source.in_test_part is None


def test_mvtec_layout_leaves_ground_truth_out(tmp_path):
    names = ["train/good/000.png", "test/good/000.png", "test/crack/000.png", "ground_truth/crack/000_mask.png"]
    (put(tmp_path, *names) / "license.txt").write_text("CC")
    source = ImageFolder(tmp_path)
    assert by_class(source) == {"crack": ["test/crack/000.png"], "good": ["test/good/000.png", "train/good/000.png"]}
    assert {name: bool(part) for name, part in zip(source.names, source.in_test_part, strict=True)} == {
        name: name.startswith("test/") for name in names[:3]
    }


def test_a_class_of_the_test_part_alone_is_known(tmp_path):
    source = ImageFolder(put(tmp_path, "train/good/1.png", "test/crack/2.png"))
    assert source.classes == ["crack", "good"]
    assert source.labels[source.names.index("test/crack/2.png")] == 0


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_root_that_is_no_folder_is_an_error_that_names_it(tmp_path, kind):
    root = tmp_path / "data"
    if kind == "file":
        root.write_text("no folder")
    with pytest.raises(InputError, match=rf"dataset\.source\.root.*{re.escape(str(root))}"):
        ImageFolder(root)


@pytest.mark.parametrize("names", [(), (".loose.png",), ("c/a.heic",), ("c/.hidden.png",)])
def test_no_matching_images_is_an_error_that_names_folder_and_pattern(tmp_path, names):
    put(tmp_path, *names)
    with pytest.raises(InputError, match=rf"\*\.png.*{re.escape(str(tmp_path))}"):
        ImageFolder(tmp_path)


def test_no_matching_images_names_the_pattern_given(tmp_path):
    with pytest.raises(InputError, match=r"\*_scan\.tif"):
        ImageFolder(put(tmp_path, "c/a.png"), pattern="*_scan.tif")


def test_where_no_image_matches_the_endings_that_are_there_are_counted(tmp_path):
    put(tmp_path, "c/a.heic", "c/b.HEIC", "d/notes.txt")
    with pytest.raises(InputError, match=r"there are 2 \.heic, 1 \.txt"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        (None, {".heic": 2, ".txt": 1, "no ending": 1}),
        ("*.jpg", {".heic": 2, ".png": 2, ".txt": 1, "no ending": 1}),
        ("*", {}),
    ],
)
def test_files_that_are_not_read_are_counted_by_their_ending(tmp_path, pattern, left_out):
    put(
        tmp_path,
        "c/a.jpg",
        "c/a_mask.png",
        "c/b.heic",
        "d/C.HEIC",
        "c/d/e.PNG",
        "c/.hidden.heic",
        "d/f.txt",
        "d/Makefile",
    )
    assert ImageFolder(tmp_path, pattern=pattern).left_out == left_out


def test_endings_of_gif_and_jpeg_are_images(tmp_path):
    put(tmp_path, "c/a.gif", "c/b.jfif", "c/c.JPE")
    assert ImageFolder(tmp_path).names == ["c/a.gif", "c/b.jfif", "c/c.JPE"]


@pytest.mark.parametrize("folder", ["", "c", "c/deeper"])
def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch, folder):
    put(tmp_path, "c/a.png", "c/deeper/b.png")
    listing, closed = os.scandir, str(tmp_path / folder).rstrip("/")

    def scandir(path):
        if str(path).rstrip("/") == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in scandir(path)])
    with pytest.raises(InputError, match=rf"dataset\.source\.root: the folder {re.escape(closed)}/? cannot be read"):
        ImageFolder(tmp_path)


def test_a_class_folder_that_is_a_link_to_nowhere_is_refused_by_name(tmp_path):
    put(tmp_path, "c/a.png")
    (tmp_path / "unmounted").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    with pytest.raises(InputError, match=r"unmounted is a link that leads nowhere"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_pixel_is_refused(tmp_path, size):
    with pytest.raises(InputError, match=rf"dataset\.source\.size.*{size}"):
        ImageFolder(put(tmp_path, "c/a.png"), size=size)


def test_names_are_relative_to_the_root_so_that_a_moved_folder_keeps_them(tmp_path):
    names = ["c/a.png", "d/e/b.png"]
    here, there = (ImageFolder(put(tmp_path / place, *names)) for place in ("here", "there"))
    assert here.names == there.names == names


@pytest.mark.parametrize(
    "name", ["Ünïcödé ☂", "a b", "100%", "[x]*?", "-rf", "日本", "a,b", "'q\"", "007", "true", "a\nb"]
)
def test_any_folder_name_can_be_a_class(tmp_path, name):
    source = ImageFolder(put(tmp_path, f"{name}/{name}.png", "plain/a.png"))
    assert sorted(source.classes) == sorted([name, "plain"])
    assert by_class(source)[name] == [f"{name}/{name}.png"]


def test_names_that_are_not_utf8_can_still_be_written_and_printed(tmp_path):
    # unpacked from an archive made on Windows: bytes of another code page
    folder = os.fsencode(tmp_path) + b"/Stra\xdfe"
    os.mkdir(folder)  # noqa: PTH102 - pathlib takes no bytes
    Image.new("L", (4, 4)).save(tmp_path / "plain.png")
    os.rename(os.fsencode(tmp_path / "plain.png"), folder + b"/gr\xfcn.png")  # noqa: PTH104 - same
    source = ImageFolder(tmp_path)
    assert source.read(0).pixels.shape == (4, 4, 3)
    for text in (*source.names, *source.classes):
        assert text.encode("utf-8")


def test_images_come_in_the_order_of_paths(tmp_path):
    names = ["c/a/1.png", "c/a-b/1.png", "c/a.png", "c/a/-.png", "c/a b/1.png", "c/é/1.png"]
    source = ImageFolder(put(tmp_path, *names))
    assert source.names == [str(path) for path in sorted(map(Path, names))]
    assert source.names != sorted(names)  # as text, "a-b/1.png" comes before "a/1.png"


def test_one_image_a_class_keeps_labels_and_classes_in_step(tmp_path):
    names = [f"c{i}/only.png" for i in range(12)]
    source = ImageFolder(put(tmp_path, *names))
    assert source.classes == sorted(f"c{i}" for i in range(12))  # by text: c10 comes before c2
    assert [source.classes[label] for label in source.labels] == [name.split("/")[0] for name in source.names]


def test_identity_stays_while_nothing_changes(tmp_path):
    put(tmp_path, "c/a.png", "c/b.png")
    assert ImageFolder(tmp_path).identity == ImageFolder(tmp_path, pattern="*.png").identity
    assert hash(ImageFolder(tmp_path).identity) == hash(ImageFolder(tmp_path).identity)


def change_content(root: Path) -> None:
    Image.new("RGB", (5, 5), "red").save(root / "c/a.png")


def touch(root: Path) -> None:
    os.utime(root / "c/a.png", ns=(1, 1))


def add(root: Path) -> None:
    put(root, "c/new.png")


def remove(root: Path) -> None:
    (root / "c/a.png").unlink()


def rename(root: Path) -> None:
    (root / "c/a.png").rename(root / "c/z.png")


def move_to_another_class(root: Path) -> None:
    (root / "d").mkdir()
    (root / "c/a.png").rename(root / "d/a.png")


def change_keeping_size_and_time(root: Path) -> None:
    path = root / "c/a.bmp"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    time.sleep(0.02)  # the clock of a file system may tick every few milliseconds only
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize(
    "change", [change_content, touch, add, remove, rename, move_to_another_class, change_keeping_size_and_time]
)
def test_identity_changes_with_the_files(tmp_path, change):
    put(tmp_path, "c/a.png", "c/b.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "c/a.bmp")
    before = ImageFolder(tmp_path).identity
    change(tmp_path)
    assert ImageFolder(tmp_path).identity != before


def test_digits_are_the_bundled_images_over_the_full_range():
    source = Digits()
    bunch = load_digits()
    assert source.pixels.shape == (1797, 8, 8, 1)
    assert source.pixels.dtype == np.uint8
    np.testing.assert_allclose(source.pixels[..., 0], bunch.images / 16 * 255, atol=0.5)
    assert (source.pixels.min(), source.pixels.max()) == (0, 255)
    assert np.array_equal(source.labels, bunch.target)
    assert source.classes == list("0123456789")
    assert len(set(source.names)) == 1797
    assert source.in_test_part is None


def test_digits_identify_images_by_their_pixels():
    source = Digits()
    image = source.read(3)
    assert np.array_equal(image.pixels, source.pixels[3])
    assert image.digest == digest(source.pixels[3].tobytes())


def test_open_source_returns_a_source_as_it_is(tmp_path):
    source = open_source(partial(ImageFolder, root=put(tmp_path, "c/a.png"), pattern="*.png", size=7))
    assert isinstance(source, ImageFolder)
    assert source.size == 7


@pytest.mark.parametrize("junk", [partial(dict, a=1), partial(list), partial(Path, "x"), partial(str, "ImageFolder")])
def test_open_source_refuses_what_is_no_dataset(junk):
    with pytest.raises(InputError, match=rf"dataset\.source\._target_.*{junk.func.__name__}"):
        open_source(junk)
