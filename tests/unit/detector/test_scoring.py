"""A detector's verdicts: the same for an image however it is given, in order, with a row for what is broken."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from metrad.data.decoding import Decoding, Kept
from metrad.data.duplicates import digest
from metrad.detector.core import Detector
from metrad.errors import InputError
from metrad.scorers import Centre
from tests.helpers.detectors import NORMAL, SIZE, noise, small_detector

BLOCK_AND_MORE = 37


@pytest.fixture(name="detector")
def saved_and_loaded(tmp_path):
    small_detector().save(tmp_path / "bundle")
    return Detector.load(tmp_path / "bundle")


def same(one, other):
    """Return whether two verdicts hold the same values in all rows."""
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.p_values, other.p_values)
    np.testing.assert_array_equal(one.known, other.known)
    return one.nearest == other.nearest and one.errors == other.errors


def test_one_by_one_and_in_batches_of_any_size_the_scores_are_the_same_to_the_bit(detector):
    images = noise(BLOCK_AND_MORE, 1)
    whole = detector.score(images)
    assert whole.scores.dtype == np.float32
    assert len(np.unique(whole.scores)) == BLOCK_AND_MORE
    singles = [detector.score(image) for image in images]
    assert np.array_equal(np.concatenate([one.scores for one in singles]), whole.scores)
    assert [one.nearest[0] for one in singles] == whole.nearest
    for size in (1, 5, 16, 64):
        assert same(detector.score(images, batch_size=size), whole)
    assert np.array_equal(detector.score(images[::-1]).scores[::-1], whole.scores)


def test_files_and_their_arrays_have_the_same_scores_at_any_resolution(detector, tmp_path):
    images = [noise(1, i, (9 + i, 14 - i, 3))[0] for i in range(5)]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = detector.score(sorted(tmp_path.glob("*.png")))
    assert same(files, detector.score(images))
    assert same(files, detector.score([Image.fromarray(image) for image in images]))
    assert same(files, detector.score(str(tmp_path / "*.png")))
    assert files.images == [str(tmp_path / f"{i}.png") for i in range(5)]


@pytest.mark.parametrize("threads", [1, 2])
def test_two_threads_and_two_detectors_score_as_one(threads, tmp_path):
    small_detector().save(tmp_path / "bundle")
    expected = Detector.load(tmp_path / "bundle").score(noise(60, 1))
    shared = [Detector.load(tmp_path / "bundle")] * 2
    apart = [Detector.load(tmp_path / "bundle") for _ in range(2)]
    before, together = torch.get_num_threads(), threading.Barrier(4)

    def score(detector):
        torch.set_num_threads(threads)
        together.wait()
        return detector.score(noise(60, 1), batch_size=7)

    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(score, [*shared, *apart]))
    finally:
        torch.set_num_threads(before)
    assert all(same(one, expected) for one in found)
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_broken_image_is_a_row_with_its_error_and_the_rest_is_scored(detector, tmp_path):
    Image.fromarray(noise(1, 1)[0]).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:70])
    (tmp_path / "text.png").write_text("no image")
    given = [
        tmp_path / "broken.png",
        tmp_path / "good.png",
        tmp_path / "gone.png",
        tmp_path / "text.png",
        np.ones((2, 2)),
    ]
    verdicts = detector.score(given, batch_size=2)
    assert verdicts.images == [*(str(path) for path in given[:4]), "0"]
    assert np.isnan(verdicts.scores).tolist() == np.isnan(verdicts.p_values).tolist() == [True, False, True, True, True]
    assert verdicts.scores[1] == detector.score(noise(1, 1)).scores[0]
    broken, good, gone, text, array = verdicts.errors
    assert good == ""
    assert "cannot be read as an image (" in broken
    assert gone == "cannot be read as an image (No such file or directory)"
    assert text == "cannot be read as an image (not an image of a format and pixel type that is read)"
    assert "got float64" in array
    assert [bool(name) for name in verdicts.nearest] == [False, True, False, False, False]
    assert not any("dataset." in error for error in verdicts.errors)
    assert verdicts.anomalous(0.5)[[0, 2, 3, 4]].tolist() == [False] * 4


def test_no_images_give_no_rows(detector):
    for nothing in ([], iter(()), np.zeros((0, SIZE, SIZE, 3), np.uint8), [[]]):
        verdicts = detector.score(nothing)
        assert len(verdicts) == 0
        assert verdicts.anomalous().shape == (0,)
    assert list(verdicts.to_pandas().columns) == ["image", "score", "p_value", "nearest", "known", "error"]


def test_an_iterator_is_streamed_in_order_and_read_a_bounded_number_ahead(detector):
    taken = []

    def images():
        for i in range(1000):
            taken.append(i)
            yield noise(1, i)[0]

    stream = detector.stream(images(), batch_size=4)
    first, second = next(stream), next(stream)
    assert len(taken) <= 4 * 4
    assert first.images + second.images == [str(i) for i in range(8)]
    assert np.array_equal(
        np.concatenate([first.scores, second.scores]),
        detector.score(np.stack([noise(1, i)[0] for i in range(8)])).scores,
    )
    stream.close()


def test_a_stream_keeps_freed_memory_from_its_first_batch_until_it_ends_or_is_left(detector):
    settings = torch.utils.deterministic  # lean_memory turns its filling off while it keeps memory
    stream = detector.stream(noise(8), batch_size=2)
    next(stream)
    assert not settings.fill_uninitialized_memory
    stream.close()
    assert settings.fill_uninitialized_memory
    for _ in detector.stream(noise(4), batch_size=2):
        assert not settings.fill_uninitialized_memory
    assert settings.fill_uninitialized_memory


def test_an_error_of_the_users_iterator_comes_through(detector):
    def images():
        yield noise(1)[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        detector.score(images())


def test_images_of_the_fit_are_known_by_content_whatever_their_name(detector, tmp_path):
    fitted = noise(50)
    Image.fromarray(fitted[3]).save(tmp_path / "renamed.bmp")
    verdicts = detector.score([tmp_path / "renamed.bmp", fitted[49], noise(1, 9)[0], tmp_path / "gone"])
    assert verdicts.known.tolist() == [True, True, False, False]


def test_normal_images_are_their_own_nearest(detector):
    verdicts = detector.score(noise(len(NORMAL)))
    assert verdicts.nearest == NORMAL


def test_of_a_source_of_grey_arrays_grey_images_of_any_form_are_the_same(tmp_path):
    detector = small_detector()
    grey = noise(9, 4, (SIZE, SIZE, 1))
    detector.kept = Kept(SIZE, SIZE, channels=1, as_arrays=True)
    detector.fitted_digests = np.frombuffer(digest(grey[0].tobytes()), np.uint8)[None]
    detector.save(tmp_path / "bundle")
    detector = Detector.load(tmp_path / "bundle")
    whole = detector.score(grey)
    assert whole.known.tolist() == [True] + [False] * 8
    for form in (
        [image[..., 0] for image in grey],
        [Image.fromarray(image[..., 0]) for image in grey],
        grey.repeat(3, -1),
    ):
        assert same(detector.score(form), whole)
    colour = noise(1, 5)
    mixed = detector.score([grey[0], colour[0], grey[1]])
    assert np.array_equal(
        mixed.scores, np.concatenate([whole.scores[:1], detector.score(colour).scores, whole.scores[1:2]])
    )


def test_deep_images_are_scaled_by_the_range_of_the_training_images():
    detector, images = small_detector(), noise(3, 6)
    detector.decoding = Decoding(2, 12)
    deep = np.round(images / 255 * 4095).astype(np.uint16)
    assert np.array_equal(detector.score(deep).scores, detector.score(images).scores)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_caller_says_the_depth_of_arrays_where_the_detector_was_fitted_on_8_bits(bits, detector, tmp_path):
    images = noise(3, 6)
    expected = detector.score(images)
    deep = np.round(images / 255 * (2**bits - 1)).astype(np.uint16)
    grey = [image[..., 0] for image in deep]
    for form in (deep, list(deep), deep.astype(">u2")):
        assert np.array_equal(detector.score(form, bits=bits).scores, expected.scores)
    for i, image in enumerate(grey):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    of_grey = detector.score([image[..., 0] for image in images]).scores
    pil = [Image.fromarray(image.astype(np.int32), "I") for image in grey]
    for form in (grey, pil, tmp_path):
        assert np.array_equal(detector.score(form, bits=bits).scores, of_grey)
    assert detector.explain(deep[0], bits=bits).score == expected.scores[0]
    assert next(detector.stream(deep, bits=bits)).scores[2] == expected.scores[2]


def test_without_a_depth_deep_arrays_are_an_error_and_never_a_score(detector):
    deep = noise(2, 6).astype(np.uint16)
    with pytest.raises(InputError, match="bits=12"):
        detector.score(deep)
    with pytest.raises(InputError, match="bits=12"):
        detector.explain(deep[0])
    verdicts = detector.score([deep[0], noise(1, 6)[0], Image.fromarray(deep[1, ..., 0].astype(np.int32), "I")])
    assert [bool(error) for error in verdicts.errors] == np.isnan(verdicts.scores).tolist() == [True, False, True]


@pytest.mark.parametrize("bits", [7, 17, 12.0, True, "12"])
def test_bits_outside_8_to_16_are_refused(bits, detector):
    with pytest.raises(InputError, match="bits must be a whole number from 8 to 16"):
        detector.score(noise(1), bits=bits)


def test_a_detector_of_the_first_decoder_knows_16_bits_alone():
    detector = small_detector()
    detector.decoding = Decoding(1)
    deep = noise(1, 6).astype(np.uint16) * 257
    assert detector.score(deep, bits=16).scores[0] == detector.score(noise(1, 6)).scores[0]
    with pytest.raises(InputError, match="scales images by 16 bits, got bits=12"):
        detector.score(deep, bits=12)


@pytest.mark.parametrize(("top", "warned"), [(4095, True), (4096, False), (65535, False)])
def test_files_of_16_bits_whose_values_leave_their_range_in_doubt_are_warned_of_once(
    top, warned, detector, tmp_path, caplog
):
    grey = noise(6, 6, (SIZE, SIZE)).astype(np.uint16)
    grey[:, 0, 0] = top
    for i, image in enumerate(grey):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    detector.score([noise(1)[0], tmp_path], batch_size=2)
    assert [f"values up to {top}. They are scored with 65535 as white" in text for text in caplog.messages] == (
        [True] if warned else []
    )
    caplog.clear()
    detector.score(tmp_path, bits=16)
    assert caplog.messages == []


def test_a_scorer_without_neighbours_names_none():
    detector = small_detector(scorer=Centre())
    verdicts = detector.score(noise(2, 1))
    assert verdicts.nearest == ["", ""]
    assert np.isfinite(verdicts.scores).all()
    assert detector.explain(noise(1, 1)[0]).neighbours == []


def test_explain_gives_the_nearest_normal_images_with_their_distances(detector):
    image = noise(1, 1)[0]
    explained, verdict = detector.explain(image, count=3), detector.score(image)
    assert (explained.score, explained.p_value) == (verdict.scores[0], verdict.p_values[0])
    distances = [one.distance for one in explained.neighbours]
    assert explained.neighbours[0].name == verdict.nearest[0]
    assert distances == sorted(distances)
    assert np.mean(distances[:2]) == pytest.approx(explained.score, rel=1e-6)
    assert len(detector.explain(image, count=99).neighbours) == len(NORMAL)
    with pytest.raises(InputError, match="takes one image"):
        detector.explain(noise(2))
    with pytest.raises(InputError, match=r"gone\.png cannot be read as an image"):
        detector.explain("gone.png")


def test_after_a_fork_a_detector_that_has_scored_says_to_load_it_anew(detector, monkeypatch):
    detector.score(noise(1))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for ask in (detector.score, detector.explain):
        with pytest.raises(InputError, match=r"load it in each process with Detector\.load"):
            ask(noise(1))


def test_before_it_has_scored_a_detector_goes_through_a_fork(detector, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert len(detector.score(noise(1))) == 1


def test_a_batch_size_below_one_is_refused(detector):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        detector.score(noise(1), batch_size=0)


def test_a_device_that_is_not_there_is_refused(tmp_path):
    small_detector().save(tmp_path / "bundle")
    with pytest.raises(InputError, match="device=nonsense cannot be used"):
        Detector.load(tmp_path / "bundle", device="nonsense")


def test_a_larger_image_than_the_run_read_is_a_row_with_its_error(tmp_path):
    detector = small_detector()
    detector.kept = Kept(SIZE, SIZE, max_megapixels=0.0001)
    Image.fromarray(noise(1, 0, (20, 20, 3))[0]).save(tmp_path / "large.png")
    for verdicts in (detector.score(noise(1, 0, (20, 20, 3))), detector.score(tmp_path / "large.png")):
        assert "megapixels" in verdicts.errors[0]
