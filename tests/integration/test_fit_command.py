"""``metrad fit`` and ``metrad.fit``: from a folder of good images to a run, or to a detector."""

import re
import shlex
import signal
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import mobilenet_v2

import metrad
from metrad.app import inspect
from metrad.data.ungrouped import UngroupedViews
from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.commands import isolated, trained
from tests.helpers.parts import photographs
from tests.helpers.runs import rows

SIZE = 32
LONG = pytest.mark.long


@pytest.fixture(scope="session")
def weights(once):
    """Write the weights of a MobileNetV2 at random, and return their file."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        torch.save(mobilenet_v2(weights=None).state_dict(), folder / "weights.pth")

    return once("mobilenet_v2", make) / "weights.pth"


def photograph(folder: Path, count: int, seed: int = 0, grey: int = 120) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        pixels = generator.integers(grey - 20, grey + 20, (12, 12, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Good parts beside another kind, and folders that are never read."""
    root = tmp_path_factory.mktemp("parts")
    for name in ("a1", "a2", "a3", "dent"):
        (root / name).mkdir()
        (root / name / "1.png").touch()
    photograph(root / "good", 40)
    photograph(root / "crack", 5, seed=1, grey=60)
    return root


@pytest.fixture
def fit(metrad, weights):
    """Call ``metrad fit`` with small settings."""

    def call(*arguments):
        return metrad("fit", *arguments, "--weights", weights, "--size", SIZE)

    return call


def test_recipes_are_compared_in_the_time_given_and_the_command_of_the_one_taken_makes_the_same_run(
    fit, metrad, parts, monkeypatch
):
    monkeypatch.setattr(inspect, "RECIPES", ({}, {"whiten": False}))
    result = fit(parts, "--out", "tried", "--try", 5)
    assert (result.code, result.err) == (0, "")
    table = [line for line in result.out.splitlines() if line.startswith("  AUROC")]
    names = [line.partition(": ")[2].partition(", p ")[0] for line in table]
    assert sorted(names) == ["scorer=knn", "the default", "whiten=False", "whiten=False, scorer=knn"]
    figures = read_json(Run("tried").metrics)["selection"]
    assert figures["not_reached"] == []
    assert {row["scorer"] for row in figures["tried"]} == {"scorer", "knn"}
    taken = next(line for line in result.out.splitlines() if line.startswith("taken: "))
    assert metrad(*shlex.split(taken.partition(": metrad ")[2]), "hydra.run.dir=again").code == 0
    assert Run("again").scores.read_bytes() == Run("tried").scores.read_bytes()


def test_what_the_time_does_not_reach_is_named(fit, parts):
    out = fit(parts, "--out", "tried", "--try", 1e-3).out
    assert "not reached: image_size=160; test_time_flip=True; image_size=320" in out
    assert "taken: the default" in out or "scorer=knn" in out


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(fit, parts, minutes):
    result = fit(parts, "--try", minutes)
    assert result.code == 2
    assert result.err.startswith("error: --try must be a number of minutes above 0, such as --try 5")


def test_a_folder_of_good_parts_becomes_a_run_that_the_other_commands_take(fit, metrad, parts, tmp_path):
    result = fit(parts, "--out", "tiles")
    assert (result.code, result.err) == (0, "")
    *_, taken, fitted, promised, realised, way_on = result.out.splitlines()
    assert f"good images: {parts / 'good'}" in taken
    assert taken.endswith("not used: a1 (1 image), a2 (1 image), a3 (1 image), crack (5 images) and 1 more folder")
    assert "compared with 13 images, calibrated on 19 images, tested on 8 images" in fitted
    assert re.search(
        r"promised: 5 % on average above [\d.e-]+; of the 40 good images, 1 % on average takes 186", promised
    )
    assert "5 % with confidence 0.95 takes 111" in promised
    assert "no threshold for" not in result.out  # 1 % takes more images, and 5 % is there
    assert "on the 8 images kept for testing, with intervals of 95 %" in realised
    assert re.search(
        r": [\d.]+ % \([\d.]+ to [\d.]+\) where 5 % is promised; which defects are found is not known", realised
    )
    assert "unusual.png" in way_on
    assert way_on.endswith("metrad predict tiles IMAGES")
    assert Run.finished("tiles").verified
    assert metrad("report", "tiles").code == 0
    assert metrad("evaluate", "tiles", "scorer=lof", "scorer.k=2").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiles"]


def test_the_run_is_the_one_of_the_configuration_that_is_told(fit, parts, tmp_path):
    result = fit(parts, "--seed", "3", "--confidence", "0.9", "--out", "tiles")
    (told,) = re.findall(r"the same by configuration: metrad train (.*)", result.out)
    other = trained(tmp_path / "other", *shlex.split(told))
    run = Run.finished("tiles")
    assert run.noted()["identity"] == other.noted()["identity"]
    assert rows(run.scores) == rows(other.scores)
    assert run.overrides.read_text() == other.overrides.read_text()
    assert run.load_config().evaluation.confidence == 0.9


def test_a_folder_in_the_way_is_refused_before_anything_is_read(refused, parts, tmp_path):
    (tmp_path / "tiles").mkdir()
    refused("fit", parts, "--out", "tiles", words=("--out=tiles is there already",))
    assert list((tmp_path / "tiles").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "nowhere.pth"], ("nowhere.pth: no such file",)),
        (["--confidence", "1.5"], ("evaluation.confidence", "1.5")),
        (["--size", "0"], ("image_size", "0")),
        (["--seed", "-1"], ("seed", "-1")),
        (["--pattern", "*.tif"], ("no images that match *.tif",)),
        (["--group", "(no"], ("dataset.group",)),
        (["--group", "{pattern: ["], ("--group", "cannot be read")),
        (["--group", "{gap: 3}"], ("dataset.group.pattern must be a regular expression",)),
        (["--reference", "nowhere"], ("--reference nowhere is no folder",)),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_told_in_a_line_and_leaves_nothing(options, words, refused, parts, tmp_path):
    refused("fit", parts, *options, "--out", "new/tiles", words=words)
    assert not list(tmp_path.rglob("*tiles*"))


def test_without_internet_it_says_what_to_do(refused, parts, monkeypatch):
    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    line = refused("fit", parts, words=("cannot be downloaded", "place mobilenet_v2", "--weights FILE"))
    assert "no route to host" in line


def test_few_images_work_and_say_the_rate_they_can_promise_and_where_the_run_is(fit, tmp_path):
    result = fit(photograph(tmp_path / "few", 12))
    assert (result.code, result.err) == (0, "")
    assert "promised: 14 % on average at least (metrad predict --rate 0.143)" in result.out
    assert "not measured, for want of a threshold" in result.out
    assert "which takes 19 calibration images and not 6; 36 good images in all, 24 more than there are" in result.out
    (folder,) = Path("outputs").iterdir()
    assert f"run: {folder};" in result.out
    assert re.fullmatch(r"\d{4}-.*-good=few-seed=0", folder.name)


def test_the_sizes_follow_from_the_rates_that_are_asked_for(fit, refused, weights, parts):
    result = fit(parts, "--rate", "0.2", "--rate", "0.1", "--confidence", "0.9", "--out", "run")
    assert (result.code, result.err) == (0, "")
    assert "calibrated on 21 images" not in result.out
    assert "calibrated on 11 images" in result.out  # 0.2 with confidence 0.9 takes 11, and 0.1 with it 22 of 21
    assert "promised: 10 % on average above" in result.out
    assert "20 % with confidence 0.9 above" in result.out
    assert "of the 40 good images, 10 % with confidence 0.9 takes" in result.out
    line = refused(
        "fit", parts, "--weights", weights, "--rate", "0.01", words=("a false-alarm rate of 0.01 takes more",)
    )
    assert "186 good images in all, 146 more than there are (metrad plan --rate 0.01)" in line


def test_a_fit_without_groups_that_there_seem_to_be_promises_only_for_the_same_parts(fit, tmp_path):
    pixels, _ = photographs(60, 3)
    (tmp_path / "good").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture[..., 0]).save(tmp_path / f"good/{number:04}.png")
    result = fit("good", "--out", "run")
    assert "180 images are 60 groups" in result.out
    (promised,) = [line for line in result.out.splitlines() if line.startswith("false alarms promised")]
    to = "promised for images of the same parts; not for new parts, see the warning: --group auto: 5 % on average"
    assert to in promised
    assert metrad.Detector.load("run").ungrouped_views == UngroupedViews(180, 60)


def test_too_few_images_are_refused_with_the_number(refused, tmp_path, weights):
    photograph(tmp_path / "few", 9)
    refused("fit", "few", "--weights", weights, words=("9 different normal images are too few", "at least 10"))


@LONG
def test_groups_are_counted_where_images_show_one_part(fit, tmp_path):
    for day in range(12):
        photograph(tmp_path / "good" / f"part{day}", 3, seed=day)
    result = fit("good", "--group", "parent", "--out", "run")
    assert "compared with 12 images in 4 groups, calibrated on 18 images in 6 groups" in result.out
    assert "tested on 6 images in 2 groups" in result.out


@LONG
def test_a_pattern_of_groups_may_be_a_mapping(fit, tmp_path):
    photograph(tmp_path / "good", 30)
    result = fit("good", "--group", r"{pattern: '(?P<number>\d+)\.png', gap: 1, size: 0.1}", "--out", "run")
    assert result.code == 2  # all 30 are one series
    assert "dataset.group makes 1 groups of the 30 normal images" in result.err
    result = fit("good", "--group", r"/(?P<part>\d+)\.png", "--out", "run")
    assert (result.code, result.err) == (0, "")


def test_reference_folders_count_against_an_image(fit, parts, tmp_path):
    dent = photograph(tmp_path / "elsewhere/dent", 6, seed=2, grey=200)
    result = fit(parts / "good", "--reference", parts / "crack", "--reference", dent, "--out", "run")
    assert (result.code, result.err) == (0, "")
    assert "less half of that to the nearest reference image" in result.out
    run = Run.finished("run")
    assert read_json(run.metrics)["scorer"]["name"] == "Contrast"
    assert read_json(run.metrics)["sizes"]["reference"] == 11


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_fit_that_is_stopped_leaves_nothing(number, code, fit, parts, tmp_path, monkeypatch):
    def stop(cfg, run, hydra):
        run.path.mkdir()
        signal.raise_signal(number)

    monkeypatch.setattr("metrad.app.train.train", stop)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = fit(parts, "--out", "run")
    signal.signal(signal.SIGINT, before[0])
    assert (result.code, result.err) == (code, "stopped by Ctrl-C\n" if number == signal.SIGINT else "")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert list(tmp_path.iterdir()) == []


def test_python_makes_a_detector_and_keeps_no_files(parts, weights, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level("INFO", logger="metrad")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    detector = metrad.fit(parts, weights=weights, size=SIZE)
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages[-5:] == list(detector.summary)
    assert "calibrated on 19 images, tested on 8 images" in detector.summary[1]
    assert "give out=DIR to keep it" in detector.summary[-1]
    assert "it/s" not in "".join(capfd.readouterr())
    assert repr(detector).startswith("Detector(scorer ")
    (threshold,) = detector.thresholds.values()
    few = sorted((parts / "good").iterdir())[:6]
    scores = detector.score(few).scores
    detector.save(tmp_path / "saved")
    again = metrad.Detector.load(tmp_path / "saved")
    assert np.array_equal(again.score(few).scores, scores)
    assert again.threshold(0.05) == detector.threshold(0.05) == threshold.value


@LONG
def test_python_keeps_the_run_where_it_is_told_to(parts, weights):
    detector = metrad.fit(parts, parts / "crack", weights=str(weights), size=SIZE, out="run", seed=1)
    run = Run.finished("run")
    scores = {row["image"]: float(row["score"]) for row in rows(run.scores)}
    found = detector.score([parts / name for name in scores])
    assert found.scores.tolist() == pytest.approx(list(scores.values()), abs=0)


def test_python_makes_the_detector_of_a_folder_from_its_pixels(parts, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    files = sorted((parts / "good").iterdir())
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    detector = metrad.fit(pixels, group=np.arange(40) // 2, weights=weights, size=SIZE)
    assert list(tmp_path.iterdir()) == []
    assert detector.summary[0] == "good images: 40 images given in memory"
    assert re.search(r"calibrated on (\d+) images in \d+ groups", detector.summary[1])
    fitted = [int(Path(name).stem) for name in detector.normal_images]
    assert len(fitted) == 12
    assert [int(Path(name).stem) for name in detector.score([files[i] for i in fitted]).nearest] == fitted


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pattern": "*.png"}, "are for a folder of images"),
        ({"group": "parent"}, "group takes a label for each image"),
        ({"group": [1, 2]}, "a label for each of the 3 images, got 2"),
    ],
)
def test_python_refuses_settings_of_a_folder_for_pixels(settings, words, tmp_path):
    with pytest.raises(metrad.InputError, match=words):
        metrad.fit(np.zeros((3, 8, 8, 3), np.uint8), out=tmp_path / "run", **settings)
    assert list(tmp_path.iterdir()) == []


def test_python_refuses_labels_for_a_folder(parts):
    with pytest.raises(metrad.InputError, match="takes labels for pixels"):
        metrad.fit(parts, group=[1, 2, 3])


def test_a_name_that_metrad_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fits'"):
        _ = metrad.fits
    assert "fit" in dir(metrad)


@LONG
def test_hydra_in_the_same_process_is_left_as_it_was(parts, weights, tmp_path):
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from metrad.runs.config import catalogue

    with isolated(tmp_path), initialize_config_dir(str(catalogue.folder()), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        metrad.fit(parts, weights=weights, size=SIZE)
        assert GlobalHydra.instance().hydra is before
