"""``metrad envelope``: a run's false alarms under changes of its calibration images, as files with them would give."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from metrad.app import envelope as command
from metrad.app.envelope import write_envelope
from metrad.app.evaluate import changed_config, restored_data
from metrad.data.changes import CHANGES, Change, exposed, versions
from metrad.detector.core import Detector
from metrad.errors import InputError
from metrad.evaluation.envelope import false_alarm_share
from metrad.files import read_json
from metrad.reports.report import write_run_report
from metrad.runs import manifest
from metrad.runs.artifacts import load_detector
from metrad.runs.directory import Run
from tests.helpers.commands import SMALL, isolated, trained
from tests.helpers.stored import without_manifest

FROZEN = ["experiment=inspect", *SMALL[:3], "image_size=12"]
GROUP = r"dataset.group='(?P<part>part\d+)_'"
BY_NAME = {change.name: change for change in CHANGES}
STEPS = [(change.name, strength) for change in CHANGES for strength in change.strengths]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Photographs of 45 parts, one or two of each, of several sizes, grey or coloured."""
    folder, generator = tmp_path_factory.mktemp("line") / "good", np.random.default_rng(0)
    folder.mkdir()
    for part in range(45):
        for view in range(1 + part % 2):
            shape = (18 + part % 3, 22, 3 if part % 4 else 1)
            pixels = generator.integers(60, 140, shape, dtype=np.uint8)
            image = Image.fromarray(pixels if part % 4 else pixels[..., 0])
            image.save(folder / f"part{part}_{view}.{'png' if part % 5 else 'jpg'}")
    return folder


@pytest.fixture(scope="module")
def made(good, tmp_path_factory):
    with isolated(tmp_path_factory.mktemp("cwd")):
        data = [f"dataset.source.root={good}", "dataset.normal=[good]", GROUP]
        return trained(tmp_path_factory.mktemp("made") / "run", *FROZEN, *data)


@pytest.fixture
def run(made, tmp_path):
    return Run(shutil.copytree(made.path, tmp_path / "run"))


@pytest.fixture
def few(monkeypatch):
    """Have an envelope of two changes alone, which takes less time."""
    monkeypatch.setattr(command, "CHANGES", tuple(BY_NAME[name] for name in ("brighter", "noise")))


@pytest.fixture
def opened(made):
    """The run's detector and its images."""
    cfg = changed_config(made, [])
    detector = load_detector(made)
    return detector, restored_data(made, cfg, detector, made.saved_split())


@pytest.fixture
def scored(opened):
    """The scores of the calibration images after each step."""
    return command.changed_scores(*opened, 0)


def test_a_file_with_the_change_has_the_same_score(opened, scored, made, good, tmp_path):
    data = opened[1]
    names, detector = read_json(made.split)["images"]["calibration"], Detector.load(made.path)
    for row in (0, 7, 11):
        image = data.decoded(data.split.indices["calibration"][row])
        assert image.pixels.shape[0] >= 18  # its own size and not the kept one
        with Image.open(good.parent / "good" / names[row].rpartition("/")[2]) as file:
            np.testing.assert_array_equal(np.asarray(file.convert("RGB")), image.pixels)
        seed = [0, *np.frombuffer(image.digest, np.uint32).tolist()]
        files = [tmp_path / f"{row}_{step}.png" for step in range(len(STEPS))]
        for path, pixels in zip(files, versions(image.pixels, seed, CHANGES), strict=True):
            Image.fromarray(pixels).save(path)
        np.testing.assert_array_equal(detector.score(files).scores, scored[row])


def test_a_jpeg_file_of_that_quality_has_the_same_score(opened, scored, tmp_path):
    data, detector = opened[1], opened[0]
    image = data.decoded(data.split.indices["calibration"][3])
    Image.fromarray(image.pixels).save(tmp_path / "image.jpg", quality=50)
    found = detector.score(tmp_path / "image.jpg").scores
    subsampled = scored[3, STEPS.index(("JPEG quality", 50.0))]
    assert found[0] == subsampled


def test_a_change_of_strength_0_gives_the_scores_that_thresholds_come_from(opened, monkeypatch):
    monkeypatch.setattr(command, "CHANGES", (Change("brighter", "EV", (0.0,), exposed),))
    found = command.changed_scores(*opened, 0)
    assert found.shape == (len(opened[0].calibration.scores), 1)
    np.testing.assert_array_equal(np.sort(found[:, 0]), opened[0].calibration.scores)


def test_the_command_prints_writes_and_lists_the_envelope(run, metrad, scored, pictures):
    before = read_json(run.manifest)["files"]
    answer = metrad("envelope", run.path)
    assert answer.code == 0, answer.err
    content, (threshold,) = run.enveloped(), run.measured()["thresholds"]
    groups = np.array(read_json(run.split)["groups"]["calibration"])
    found = iter(scored.T)
    assert [change["change"] for change in content["changes"]] == [change.name for change in CHANGES]
    for change in content["changes"]:
        for step in change["steps"]:
            share = false_alarm_share(next(found), threshold["threshold"], groups, any_image=False)
            assert step["false_alarm_rates"] == [share]
            low, high = step["intervals"][0]
            assert low <= share <= high
    assert (content["groups"], content["images"], content["seed"]) == (19, len(groups), 0)
    assert content["thresholds"][0]["threshold"] == threshold["threshold"]
    assert content["thresholds"][0]["unchanged"] == 0
    for words in ("brighter", "1 EV", "75 of 100", "for 5 %", "twice the promised rate", "envelope.png"):
        assert words in answer.out
    assert "Unchanged, the calibration images are no measurement" in answer.out
    listed = read_json(run.manifest)["files"]
    assert listed == {**before, **{name: listed[name] for name in ("envelope.json", "envelope.png")}}
    manifest.require(run.envelope, run.envelope.read_bytes(), listed["envelope.json"])
    with Image.open(run.pictures["envelope"]) as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_two_calls_leave_the_same_bytes_and_another_seed_others(run, few, metrad, pictures):
    names = ("envelope.json", "envelope.png", "manifest.json")

    def left(*options):
        assert metrad("envelope", run.path, *options).code == 0
        assert not list(run.path.glob(".*partial*"))
        return [(run.path / name).read_bytes() for name in names]

    first = left()
    assert left() == first
    other = left("--seed", "1")
    assert other[0] != first[0]
    assert json.loads(other[0])["seed"] == 1


def test_the_report_shows_the_envelope_and_only_after_the_command(run, few):
    assert 'id="envelope"' not in write_run_report(run.path).read_text()
    write_envelope(run.path, [])
    page = write_run_report(run.path).read_text()
    (section,) = re.findall(r'<section id="envelope".*?</section>', page, re.DOTALL)
    assert "<svg" in section
    assert "twice the promised rate" in section
    assert "0.333 EV" in section


def test_a_run_without_a_manifest_gets_an_envelope_too(run, few):
    without_manifest(run)
    write_envelope(run.path, [])
    assert run.enveloped()["images"] > 19
    assert not run.manifest.exists()


def test_images_that_are_gone_or_have_changed_are_one_line(run, few, good, refused, tmp_path):
    moved = shutil.copytree(good, tmp_path / "moved" / "good")
    root = f"dataset.source.root={moved}"
    gone = f"dataset.source.root={tmp_path / 'gone'}"
    refused("envelope", run.path, gone, words=("no such folder any more", "add dataset.source.root=FOLDER"))
    refused("evaluate", run.path, gone, "--evidence", words=("no such folder any more",))
    assert metrad_ok(run, root)
    part = next(
        path for path in sorted(moved.iterdir()) if path.name in str(run.saved_split()["images"]["calibration"])
    )
    Image.new("L", (20, 20)).save(part)
    refused("envelope", run.path, root, words=("images of this run have changed",))
    part.unlink()
    refused("envelope", run.path, root, words=("1 images of this run are missing", part.name))


def metrad_ok(run, *overrides):
    return write_envelope(run.path, list(overrides)).endswith("(envelope.json, envelope.png)")


def test_what_an_envelope_cannot_be_made_of_is_one_line(run, refused, tmp_path):
    refused("envelope", tmp_path, words=("is not a run directory",))
    refused("envelope", words=("metrad envelope needs RUN", "metrad envelope outputs/NAME"))
    refused("envelope", run.path, "--seed", "-1", words=("--seed must be at least 0, got -1",))
    refused("envelope", run.path, "scorer=lof", words=("scorer cannot change here", "dataset.source.root"))
    refused("envelope", run.path, "evaluation.confidence=0.9", words=("evaluation.confidence cannot change here",))
    refused("envelope", run.path, "--device", "nowhere", words=("device=nowhere",))
    assert not run.envelope.exists()


def test_a_run_without_thresholds_is_refused(run):
    metrics = {**read_json(run.metrics), "thresholds": [], "confident_thresholds": []}
    without_manifest(run)
    run.metrics.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"has no threshold.*metrad plan"):
        write_envelope(run.path, [])


def test_a_changed_envelope_is_named(run, few):
    write_envelope(run.path, [])
    content = read_json(run.envelope)
    run.envelope.write_text(json.dumps({**content, "level": 0.9}))
    with pytest.raises(InputError, match="checksum differs"):
        write_run_report(run.path)
    without_manifest(run)
    changes = [{"change": "a", "unit": "b", "doubled_at": [], "steps": []}]
    for damage in ({"thresholds": []}, {"level": 2}, {"changes": changes}, {"images": 0}):
        run.envelope.write_text(json.dumps({**content, **damage}))
        with pytest.raises(InputError, match="no envelope of a run"):
            write_run_report(run.path)


def test_an_envelope_that_lacks_a_threshold_is_named(run, few):
    write_envelope(run.path, [])
    content = read_json(run.envelope)
    content["changes"][0]["doubled_at"] = []
    without_manifest(run)
    run.envelope.write_text(json.dumps(content))
    with pytest.raises(InputError, match="'brighter' must have 1 values"):
        run.enveloped()


def test_a_failed_write_leaves_the_run_as_it_was(run, few, monkeypatch):
    write_envelope(run.path, [])
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}

    def refuse(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("metrad.files.write_json", refuse)
    with pytest.raises(Exception, match=r"envelope\.json cannot be written"):
        write_envelope(run.path, [], seed=3)
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_digits_of_8_pixels_have_an_envelope(finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.path, tmp_path / "run"))
    write_envelope(run.path, [])
    content = run.enveloped()
    assert "groups" not in content
    assert content["images"] == len(run.saved_split()["images"]["calibration"])
    assert len(content["changes"]) == len(CHANGES)


def test_a_retrained_run_loses_its_envelope(run, few):
    write_envelope(run.path, [])
    run.clear(keep_training=True)
    assert not run.envelope.exists()
    assert not run.pictures["envelope"].exists()
