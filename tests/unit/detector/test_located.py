"""A detector is found in a run, in its model folder and in a bundle; else the error says what to do."""

import json

import numpy as np
import pytest

from metrad.detector.core import Detector
from metrad.detector.located import bundle_folder
from metrad.errors import InputError
from tests.helpers.detectors import noise, small_detector


def as_run(folder, state="finished"):
    small_detector().save(folder / "model")
    (folder / "status.json").write_text(json.dumps({"state": state}))
    return folder


def test_it_is_found_in_a_run_in_its_model_folder_and_in_a_bundle(tmp_path):
    run = as_run(tmp_path / "run")
    assert bundle_folder(run) == bundle_folder(str(run / "model")) == run / "model"
    expected = small_detector().score(noise(3, 1)).scores
    assert np.array_equal(Detector.load(str(run)).score(noise(3, 1)).scores, expected)


def test_a_folder_that_was_moved_loads_and_scores_the_same(tmp_path):
    small_detector().save(tmp_path / "here")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").rename(tmp_path / "elsewhere/there")
    expected = small_detector().score(noise(3, 1)).scores
    assert np.array_equal(Detector.load(tmp_path / "elsewhere/there").score(noise(3, 1)).scores, expected)


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_the_detector_of_an_unfinished_run_is_refused(state, tmp_path):
    run = as_run(tmp_path / "run", state)
    with pytest.raises(InputError, match=f"holds a run that is {state}, not finished"):
        Detector.load(run)


def test_what_holds_no_detector_is_refused_with_what_to_give(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    as_run(tmp_path / "sweep/0")
    for name, words in (
        ("gone", "there is no such folder; give the folder of a finished run"),
        ("file", "it is a file"),
        ("empty", r"it has no detector\.json"),
        ("sweep", r"holds 1 runs and no detector; give one of them, such as .*sweep/0"),
    ):
        with pytest.raises(InputError, match=words):
            Detector.load(tmp_path / name)


def test_a_saved_copy_of_a_loaded_detector_is_the_same(tmp_path):
    small_detector().save(tmp_path / "one", {"split": "abc"})
    one = Detector.load(tmp_path / "one")
    one.save(tmp_path / "below/two")
    two = Detector.load(str(tmp_path / "below/two"))
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "below/two")]
    assert files[0] == files[1]
    assert (two.kept, two.decoding, two.loaded_from.about["split"]) == (one.kept, one.decoding, "abc")
    assert np.array_equal(two.fitted_digests, one.fitted_digests)
    assert np.array_equal(two.score(noise(5, 1)).scores, one.score(noise(5, 1)).scores)
    with pytest.raises(InputError, match="two is there already and not an empty folder"):
        one.save(tmp_path / "below/two")


def test_a_detector_without_records_of_its_images_says_so(tmp_path):
    detector = small_detector()
    detector.kept = detector.fitted_digests = None
    detector.save(tmp_path / "old")
    old = Detector.load(tmp_path / "old")
    assert old.fitted_digests is None
    assert old.root is None
    with pytest.raises(InputError, match="does not record how its images were resized"):
        old.score(noise(1))


@pytest.mark.parametrize(
    "entry",
    [
        *(
            {"height": 8},
            {"height": 8, "width": 8, "depth": 2},
            {"height": 0, "width": 8},
            {"height": 8, "width": 10**9},
        ),
        *({"height": 8, "width": 8, "channels": 2}, {"height": 8, "width": 8, "root": 3}, [8, 8], "8"),
        {"height": True, "width": 8},
    ],
)
def test_a_damaged_record_of_its_images_is_refused(entry, tmp_path):
    small_detector().save(tmp_path / "bundle", {"kept": entry})
    detector = small_detector()
    detector.kept = None
    detector.save(tmp_path / "damaged", {"kept": entry})
    with pytest.raises(InputError, match="the entry kept"):
        Detector.load(tmp_path / "damaged")
