"""``metrad predict``: verdicts of a saved detector on files of every kind, in every form, also after a stop."""

import csv
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from metrad.app import predict as predicting
from metrad.data.decoding import Kept, decode_file
from metrad.data.ungrouped import UngroupedViews
from metrad.detector.core import Detector
from metrad.evaluation.conformal import Calibration
from metrad.files import read_json
from metrad.reports.verdicts.rows import COLUMNS
from tests.helpers.commands import trained
from tests.helpers.detectors import NORMAL, SIZE, noise, small_detector
from tests.helpers.image_files import chunk, png
from tests.helpers.runs import EVIL, wait_for

KNOWN, NEW = 3, 20  # images in the batch that the detector was fitted on, and others


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a small detector whose good images lie in the folder ``store``."""

    def save(name="detector", groups=None, **settings):
        detector = small_detector(**settings)
        for path, pixels in zip(NORMAL, noise(len(NORMAL)), strict=True):
            target = tmp_path / "store" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)
        detector.kept = Kept(SIZE, SIZE, root=str(tmp_path / "store"))
        if groups:
            detector.calibration = Calibration(
                detector.calibration.scores, np.arange(len(detector.calibration.scores)) // groups
            )
        detector.save(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def batch(tmp_path):
    """Return a folder with good images of the detector, new ones of noise, and a flat one, in two folders."""
    folder = tmp_path / "batch"
    for number, pixels in enumerate([*noise(KNOWN), *noise(NEW, seed=5), np.full((SIZE, SIZE, 3), 255, np.uint8)]):
        part = folder / f"part{number % 2}"
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(part / f"{number}.png")
    return folder


def shown(page):
    """Return the verdicts that a page holds."""
    return json.loads(Path(page).read_text().split('id="data">')[1].split("</script>")[0])


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_image_is_a_row_with_the_stated_columns_and_messages_stay_out_of_the_table(metrad, saved, batch):
    answer = metrad("predict", saved(), batch)
    assert answer.code == 0, answer.err
    table = rows(answer.out)
    assert tuple(table[0]) == COLUMNS
    assert [Path(row["image"]).name for row in table] == [f"{i}.png" for i in [*range(0, 24, 2), *range(1, 24, 2)]]
    verdicts = Detector.load(saved("again")).score(str(batch))
    assert {row["image"]: float(row["score"]) for row in table} == dict(
        zip(verdicts.images, verdicts.scores.tolist(), strict=True)
    )
    assert {row["image"]: row["nearest"] for row in table} == dict(zip(verdicts.images, verdicts.nearest, strict=True))
    above = dict(zip(verdicts.images, verdicts.anomalous().tolist(), strict=True))
    assert {row["image"]: row["verdict"] == "anomalous" for row in table} == above
    assert sum(row["fitted_on"] == "true" for row in table) == KNOWN
    flagged = sum(above.values())
    assert flagged > 0
    first, good, known = answer.err.splitlines()
    assert first.startswith("24 images scored in ")
    assert first.endswith(f" images/s), 0 errors, {flagged} of 24 flagged at rate 0.05")
    assert good.startswith("of 21 good images about 1.05 would be flagged, and with probability 0.95 no more than ")
    assert known == "the detector was fitted on 3 of these images: their scores say nothing about new ones"


def test_the_scores_of_a_runs_test_images_are_those_of_the_run(metrad, image_folders, small, tmp_path):
    root = image_folders(tmp_path / "images", count=60)
    choices = ("dataset=image_folder", f"dataset.source.root={root}", "dataset.normal=[a]", "dataset.anomalous=[b]")
    run = trained(
        tmp_path / "run", *small, *choices, "dataset.sizes.calibration=20", "dataset.source.pattern=[?.png,??.png]"
    )
    with run.scores.open(newline="") as file:
        scored = {row["image"]: (row["score"], row["p_value"], row["nearest"]) for row in csv.DictReader(file)}
    answer = metrad("predict", run.path, *sorted(root / name for name in scored))
    (root / "a/mask_1.png").touch()
    everything = metrad("predict", run.path, root)
    assert (len(rows(everything.out)), everything.code) == (240, 0)
    assert everything.err.startswith("left out 1 .png: their names do not match ?.png, ??.png\n")
    found = {
        Path(row["image"]).relative_to(root).as_posix(): (row["score"], row["p_value"], row["nearest"])
        for row in rows(answer.out)
    }
    assert found == scored


def test_a_broken_image_is_a_row_with_its_error_and_does_not_stop_the_rest(metrad, saved, batch):
    (batch / "empty.png").touch()
    (batch / "text.jpg").write_text("no image")
    (batch / "lost.png").symlink_to("nowhere")
    (batch / "circle.png").symlink_to("circle.png")
    os.mkfifo(batch / "pipe.png")
    whole = png(noise(1)[0])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    (batch / "huge.png").write_bytes(whole[:8] + head + whole[8 + len(head) :])
    (batch / "torn.png").write_bytes(whole[:60])
    answer = metrad("predict", saved(), batch, "/dev/zero", "--out", "t.csv", "--sort", "sorted", "--fail-on-anomaly")
    assert answer.code == 2
    table = rows(Path("t.csv").read_text())
    failed = {Path(row["image"]).name: row["error"] for row in table if row["verdict"] == "error"}
    assert set(failed) == {
        "empty.png",
        "text.jpg",
        "lost.png",
        "circle.png",
        "pipe.png",
        "huge.png",
        "torn.png",
        "zero",
    }
    assert all(failed.values())
    assert all(
        row["score"] == row["p_value"] == row["nearest"] == row["fitted_on"] == "" for row in table if row["error"]
    )
    assert "not a regular file" in failed["pipe.png"]
    assert "400.0 megapixels" in failed["huge.png"]
    assert len(table) == 24 + 8
    assert "8 errors" in answer.err
    assert "8 images could not be scored, the first: " in answer.err


def test_the_range_of_deep_images_can_be_said_and_is_warned_of_where_it_is_in_doubt(metrad, saved, tmp_path):
    run, grey = saved(), noise(5, 6, (SIZE, SIZE))
    for bits in (8, 12):
        folder = tmp_path / f"bits{bits}"
        folder.mkdir()
        for i, image in enumerate(grey):
            deep = np.round(image / 255 * 4095).astype(np.uint16)
            Image.fromarray(image if bits == 8 else deep).save(folder / f"{i}.png")
    expected = [row["score"] for row in rows(metrad("predict", run, tmp_path / "bits8").out)]
    said = metrad("predict", run, tmp_path / "bits12", "--bits", 12)
    assert [row["score"] for row in rows(said.out)] == expected
    assert "more than 8 bits" not in said.err
    assert "say so: metrad predict --bits 12" in metrad("predict", run, tmp_path / "bits12").err


def test_names_are_input(metrad, saved, tmp_path):
    names = [
        'a\nb,"c".png',
        f"{EVIL.replace('/', '|')}.png",
        "\x1b[31mred.png",
        "=1+1.png",
        "ünïcode 日本.png",
        "\u202egnp.png",
    ]
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, pixels in zip(names, noise(len(names), seed=9), strict=True):
        Image.fromarray(pixels).save(folder / name)
    shutil.copy(folder / "=1+1.png", os.fsencode(folder) + b"/\xff.png")
    answer = metrad("predict", saved(), folder, "--html", "page.html", "--pictures", "pics", "--out", "t.csv")
    assert answer.code == 0, answer.err
    found = {Path(row["image"]).name for row in rows(Path("t.csv").read_text())}
    assert found == {*names, "\\xff.png"}
    page = Path("page.html").read_text()
    assert "<script>alert" not in page
    assert page.count("<script") == 2
    assert len(list(Path("pics").iterdir())) == 7
    listed = metrad("predict", saved("again"), folder)
    assert len(rows(listed.out)) == 7


def test_on_a_terminal_the_table_is_aligned_and_control_characters_are_escaped(metrad, saved, tmp_path, monkeypatch):
    Image.fromarray(noise(1, seed=9)[0]).save(tmp_path / "\x1b[31mred.png")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    answer = metrad("predict", saved(), tmp_path / "\x1b[31mred.png")
    head, row = answer.out.splitlines()
    assert head.split() == ["verdict", "score", "p_value", "fitted_on", "image"]
    assert row.endswith("\\x1b[31mred.png")


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_names_come_from_standard_input(metrad, saved, batch, monkeypatch, separator):
    listed = [str(batch / "part0/0.png"), str(batch / "part0/gone.png"), str(batch / "part1")]
    content = separator.join([*listed, ""]).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    answer = metrad("predict", saved(), "-")
    assert answer.code == 2
    table = rows(answer.out)
    assert [Path(row["image"]).name for row in table[:3]] == ["0.png", "gone.png", "1.png"]
    assert table[1]["error"] == "there is no such file"
    assert len(table) == 14


@pytest.mark.parametrize(
    ("options", "code"), [((), 0), (("--fail-on-anomaly",), 3), (("--fail-on-anomaly", "--rate", "0.0323"), 0)]
)
def test_the_exit_code_is_three_only_where_it_was_asked_for_and_something_is_flagged(
    metrad, saved, batch, options, code
):
    images = [batch / "part0/0.png", batch / "part1/23.png"] if "--rate" not in options else [batch / "part0/0.png"]
    assert metrad("predict", saved(), *images, *options).code == code


@pytest.mark.parametrize(
    ("there", "options", "words"),
    [
        (12, (), ("--rate 0.05 needs 19 calibration images", "has 12", "--rate 0.1 can be promised")),
        (30, ("--rate", "0.01"), ("--rate 0.01 needs 99", "has 30", "--rate 0.05")),
        (30, ("--confidence", "0.95"), ("--rate 0.05 with --confidence 0.95 needs 59", "--rate 0.1 can be")),
        (0, (), ("has 0", "metrad plan --rate 0.05")),
    ],
)
def test_a_rate_that_cannot_be_promised_is_refused_before_an_image_is_read(
    refused, metrad, saved, batch, *, there, options, words
):
    run = saved(calibration=there)
    line = refused("predict", run, batch, *options, "--out", "t.csv", "--html", "p.html", words=words)
    assert {path.name for path in Path.cwd().iterdir()} <= {"batch", "detector", "store"}
    if "can be promised" in line:
        rate = line.partition(" can be promised")[0].rpartition(" ")[2]
        assert metrad("predict", run, batch, *options, "--rate", rate).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "5"), ("--rate must lie between 0 and 1", "5 % is 0.05")),
        (("--rate", "nan"), ("--rate must lie between 0 and 1",)),
        (("--confidence", "1"), ("--confidence must lie between 0 and 1",)),
        (("--out", "t.txt"), ("--out must end with .csv, .jsonl, .parquet",)),
        (("--out", "nowhere/t.csv"), ("--out: no folder nowhere for t.csv",)),
        (("--html", "t.csv"), ("--html must end with .html",)),
        (("--resume",), ("--resume needs --out FILE",)),
        (("--copy",), ("--copy needs --sort DIR",)),
        (("--good", "nowhere"), ("--good: no folder nowhere",)),
        (("--group", "(x"), ("--group=(x is no regular expression",)),
        (("--device", "abacus"), ("abacus",)),
        (("--bits", "99"), ("bits must be a whole number from 8 to 16, got 99",)),
        (("--sort", "batch"), ("--sort: batch exists",)),
        (("--pictures", "batch"), ("--pictures: batch exists",)),
    ],
)
def test_options_that_cannot_be_used_are_refused_in_one_line(refused, saved, batch, options, words):
    run = saved() if options[0] in ("--group", "--device", "--bits") else "never looked at"
    refused("predict", run, batch, *options, words=words)


def test_what_holds_no_images_or_no_detector_is_refused(refused, saved, batch, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    refused("predict", saved(), tmp_path / "empty", words=("no images in the 1 path given",))
    refused("predict", saved("again"), "nowhere.png", words=("no file or folder nowhere.png",))
    refused("predict", tmp_path / "nowhere", batch, words=("nowhere",))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    refused("predict", saved("third"), "-", words=("no images",))


class _Stopped:
    """Makes the detector stop after some batches, as by Ctrl-C."""

    def __init__(self, monkeypatch, batches):
        stream = Detector.stream

        def stopping(detector, images, **options):
            for number, verdicts in enumerate(stream(detector, images, **options)):
                if number == batches:
                    raise KeyboardInterrupt
                yield verdicts

        monkeypatch.setattr(predicting, "_BATCH", 4)
        monkeypatch.setattr(Detector, "stream", stopping)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_stopped_call_goes_on_with_the_images_that_are_left(metrad, saved, batch, monkeypatch, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    (batch / "part0/broken.png").touch()
    run = saved()
    outputs = ("--out", f"t.{ending}", "--html", "p.html", "--sort", "sorted", "--pictures", "pics")
    with monkeypatch.context() as stopping:
        _Stopped(stopping, batches=4)
        answer = metrad("predict", run, batch, *outputs)
    assert answer.code == 130
    assert f"add --resume to go on with t.{ending}" in answer.err
    assert "--resume" in metrad("predict", run, batch, *outputs).err
    growing = Path(f"t.{ending}" + (".jsonl" if ending == "parquet" else ""))
    with growing.open("ab") as file:
        file.write(growing.read_bytes()[-20:-5])  # torn
    shutil.copy(batch / "part0/2.png", batch / "part0/broken.png")
    again = metrad("predict", run, batch, *outputs, "--resume")
    assert again.code == 0, again.err
    assert again.err.startswith("10 images scored in ")
    assert "(15 kept from before)" in again.err
    assert not Path(f"t.{ending}.jsonl").exists()
    whole = {row["image"]: row for row in rows(metrad("predict", run, batch).out)}
    kept = {row.image: row for row in predicting.tables.read_rows(Path(f"t.{ending}"))}
    assert set(kept) == set(whole)
    assert all(kept[name].score == float(row["score"]) for name, row in whole.items())
    assert len(shown("p.html")["images"]) == 25
    assert len(list(Path("pics").rglob("*.jpg"))) == len(list(Path("sorted").rglob("*.png"))) == 25
    assert metrad("predict", run, batch, *outputs, "--resume").err.startswith("0 images scored")


def test_only_the_same_detector_and_rate_go_on(refused, metrad, saved, batch):
    run = saved()
    assert metrad("predict", run, batch, "--out", "t.csv").code == 0
    refused("predict", run, batch, "--out", "t.csv", words=("t.csv exists", "--resume"))
    refused("predict", run, batch, "--out", "t.csv", "--resume", "--rate", "0.1", words=("rate 0.05", "0.1"))
    other = saved("other", calibration=31)
    refused("predict", other, batch, "--out", "t.csv", "--resume", words=("made with detector",))


def test_rows_of_other_images_stay_in_a_table_that_is_gone_on_with(metrad, saved, batch):
    run = saved()
    assert metrad("predict", run, batch / "part0", "--out", "t.csv").code == 0
    assert "12 images scored" in metrad("predict", run, batch / "part1", "--out", "t.csv", "--resume").err
    assert len(rows(Path("t.csv").read_text())) == 24


def test_a_part_is_judged_by_its_images_where_the_calibration_has_parts(metrad, refused, saved, batch):
    grouped = saved("grouped", groups=12, calibration=360)
    answer = metrad("predict", grouped, batch, "--group", "parent", "--fail-on-anomaly")
    table = rows(answer.out)
    assert answer.code == 3
    assert list(table[0]) == ["group", "images", "score", "p_value", "verdict", "worst", "errors"]
    assert [(row["group"], row["images"]) for row in table] == [("part0", "12"), ("part1", "12")]
    assert Path(table[1]["worst"]).name == "23.png"
    assert table[1]["verdict"] == "anomalous"
    assert "of 2 parts flagged at rate 0.05; of 2 good parts about 0.1 would be flagged, and with " in answer.err
    assert metrad("predict", grouped, batch, "--group", "parent", "--out", "t.csv").code == 0
    assert {row["group"] for row in rows(Path("t.csv").read_text())} == {"part0", "part1"}
    assert rows(Path("t-groups.csv").read_text()) == table
    single = saved("single")
    refused(
        "predict", single, batch, "--group", "parent", words=("parts have up to 12 images", "largest of several scores")
    )
    assert metrad("predict", single, batch, "--group", r"(?P<part>\d+)\.png").code == 0


def test_running_numbers_name_parts_as_in_a_fit_and_the_page_shows_them(metrad, refused, saved, batch):
    grouped = saved("grouped", groups=12, calibration=360)
    group = r"{pattern: '(?P<number>\d+)\.png', gap: 1, size: 0.1}"
    answer = metrad("predict", grouped, batch / "part0", batch / "part1/23.png", "--group", group, "--html", "p.html")
    table = rows(answer.out)
    assert [(row["group"], row["images"]) for row in table][-1] == ("part0/22.png", "2")
    assert len(table) == 12
    data, text = shown("p.html"), Path("p.html").read_text()
    assert [name for name, _ in data["parts"]] == [row["group"] for row in table]
    assert [data["verdicts"][verdict] for _, verdict in data["parts"]] == [row["verdict"] for row in table]
    assert [data["parts"][row[8]][0] for row in data["images"]][-2:] == ["part0/22.png"] * 2
    top = text.partition("<details>")[0]
    assert "of 12 parts flagged at rate 0.05; of 12 good parts about 0.6 would be flagged" in top
    refused("predict", grouped, batch, "--group", "{gap: 3}", words=("--group: pattern must be",))
    refused("predict", grouped, batch, "--group", "auto", words=("--group auto is for metrad fit alone",))


def test_a_detector_fitted_without_groups_that_there_seem_to_be_promises_nothing_for_new_parts(metrad, saved, batch):
    run = saved()
    detector = Detector.load(run)
    assert detector.ungrouped_views is None
    detector.ungrouped_views = UngroupedViews(300, 62)
    detector.save("ungrouped")
    answer = metrad("predict", "ungrouped", batch, "--html", "p.html")
    assert "fitted without groups, and 300 images seem to show 62 parts" in answer.err
    assert "good images" not in answer.err
    assert "300 images seem to show 62 parts" in Path("p.html").read_text().partition("<details>")[0]


def test_the_page_and_the_pictures_show_the_nearest_good_image_where_it_is(metrad, saved, batch, tmp_path):
    run = saved()
    assert metrad("predict", run, batch, "--html", "p.html").code == 0
    data = shown("p.html")
    assert all(key for _, key in data["good"])
    assert all(Path(data["folder"], f"{key}-{side}.jpg").exists() for _, key in data["good"] for side in data["sides"])
    assert all(
        Path(data["folder"], f"{row[7]}-{side}.jpg").exists() for row in data["images"] for side in data["sides"]
    )
    (tmp_path / "store").rename(tmp_path / "moved")
    assert metrad("predict", run, batch, "--html", "q.html").code == 0
    assert not any(key for _, key in shown("q.html")["good"])
    assert metrad("predict", run, batch, "--html", "r.html", "--good", "moved").code == 0
    assert all(key for _, key in shown("r.html")["good"])


def test_the_inputs_are_left_as_they_were(metrad, saved, batch):
    before = {path: decode_file(path).digest for path in sorted(batch.rglob("*.png"))}
    run = saved()
    assert metrad("predict", run, batch, "--sort", "s", "--copy", "--pictures", "p", "--html", "h.html").code == 0
    assert {path: decode_file(path).digest for path in sorted(batch.rglob("*.png"))} == before
    assert read_json(run / "detector.json")["format"] == 1


@pytest.mark.long
def test_a_killed_call_leaves_a_table_that_is_gone_on_with(saved, batch, tmp_path):
    folder, count = tmp_path / "many", 4000
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").hardlink_to(batch / f"part{number % 2}/{number % 22}.png")
    command = [sys.executable, "-m", "metrad", "predict", saved(), folder, "--out", "t.csv"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_for(lambda: Path("t.csv").exists() and Path("t.csv").read_bytes().count(b"\n") > 100, process)
    process.kill()
    process.communicate()
    before = len(Path("t.csv").read_text().splitlines()) - 1
    assert before < count
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith(f"{count - before:,} images scored in ")
    table = rows(Path("t.csv").read_text())
    assert len({row["image"] for row in table}) == len(table) == count
