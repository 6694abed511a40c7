"""Verdicts on parts: by the largest score of their images, from the largest scores of calibration parts."""

import math

import numpy as np
import pytest

from metrad.data.groups import Pattern
from metrad.errors import InputError
from metrad.evaluation.conformal import Calibration, conformal_threshold
from metrad.reports.verdicts.parts import Parts, PartScores, calibration_of_parts, require_views

IMAGES = ["a/7_top.png", "a/7_side.png", "b/8_top.png"]
VIEWS = Calibration(np.arange(40.0), np.repeat(np.arange(20), 2))


def parts(wanted, names=IMAGES):
    return Parts.by(wanted, names, names)


def test_the_parent_folder_or_the_named_groups_of_a_pattern_name_a_part():
    assert parts("parent").names == ["a", "b"]
    assert parts(r"(?P<part>\d+)_").names == ["7", "8"]
    assert parts(r"(?P<line>\w)/(?P<part>\d+)_").names == ["a/7", "b/8"]
    assert parts(r"(?P<number>\d+)_", ["5_a", "6_a", "9_a"]).names == ["5_a", "9_a"]
    assert parts(r"(?P<x>a)?", ["b1", "b2"]).names == ["b1"]
    assert parts("parent").name_of("a/7_side.png") == "a"
    assert parts("parent").most_views == 2


def test_a_line_counts_the_parts_and_shows_the_largest():
    line = "3 images are 2 parts, 1 of them of a single image; the largest part: a/7_top.png, a/7_side.png"
    assert parts("parent").described() == line
    assert parts("parent", [f"a/{i}.png" for i in range(9)]).described().endswith("a/5.png and 3 more")
    assert parts("parent", ["a/1.png"]).described().startswith("1 image are 1 part, 1 of them")


def test_a_pattern_of_running_numbers_has_its_gap_and_size_as_in_a_fit():
    names = ["num_10.png", "num_30.png", "num_200.png"]
    assert parts(Pattern(r"num_(?P<number>\d+)", gap=60), names).names == ["num_10.png", "num_200.png"]
    assert len(parts(Pattern(r"num_(?P<number>\d+)"), names).names) == 3
    sizes = [(10, 10), (20, 10), (10, 10)]
    alike = Parts.by(Pattern(r"num_(?P<number>\d+)", gap=300, size=0.1), names, names, lambda place: sizes[place])
    assert [alike.of[name] for name in names] == [0, 1, 0]


def test_parts_with_the_same_name_are_told_apart():
    names = ["1_a", "2_b", "9_a"]
    assert parts(r"(?P<number>\d+)_(?P<kind>\w)", names).names == ["a", "b", "a (2)"]


@pytest.mark.parametrize("wanted", [r"(\d+)", "(?P<part>", r"(?P<part>nowhere)"])
def test_a_pattern_that_cannot_be_used_is_refused_by_the_name_of_the_option(wanted):
    with pytest.raises(InputError, match=r"^--group=") as refused:
        parts(wanted)
    assert "dataset.group=" not in str(refused.value)


def test_a_part_is_judged_by_its_worst_image_against_the_worst_of_calibration_parts():
    largest = calibration_of_parts(VIEWS)
    assert largest.tolist() == list(range(1, 40, 2))
    scores = PartScores(parts("parent"), largest, conformal_threshold(largest, 0.1))
    for name, score in zip(IMAGES, (3.0, 50.0, 36.0), strict=True):
        scores.add(name, score)
    first, second = scores.rows()
    assert tuple(first.values()) == ("a", 2, 50.0, 1 / 21, "anomalous", "a/7_side.png", 0)
    assert second["verdict"] == "normal"
    assert second["p_value"] == 3 / 21


def test_a_part_is_judged_by_the_images_that_could_be_scored_and_is_an_error_without_any():
    scores = PartScores(parts("parent"), np.arange(20.0), 18.0)
    for name, score in zip(IMAGES, (math.nan, 2.0, math.nan), strict=True):
        scores.add(name, score)
    first, second = scores.rows()
    assert (first["verdict"], first["images"], first["errors"], first["worst"]) == ("normal", 2, 1, "a/7_side.png")
    assert (second["verdict"], second["score"], second["p_value"], second["worst"]) == ("error", None, None, None)


def test_several_views_need_a_calibration_with_several_views():
    singles = Calibration(np.arange(40.0))
    with pytest.raises(
        InputError, match="parts have up to 2 images, and the detector was calibrated with one image a part"
    ):
        require_views(singles, parts("parent"))
    with pytest.raises(InputError, match="one image a part"):
        require_views(Calibration(np.arange(40.0), np.arange(40)), parts("parent"))
    assert require_views(singles, parts("parent", ["a/1", "b/1"])) == ""
    assert require_views(VIEWS, parts("parent")) == ""
    assert "a part has 3 images, and the calibration parts have at most 2" in require_views(
        VIEWS, parts("parent", ["a/1", "a/2", "a/3"])
    )


def test_good_parts_with_several_views_are_flagged_at_the_promised_rate():
    generator, flagged = np.random.default_rng(0), []
    for _ in range(400):
        views = generator.standard_normal((60, 1)) + 0.5 * generator.standard_normal((60, 3))
        largest = calibration_of_parts(Calibration(views[:40].ravel(), np.repeat(np.arange(40), 3)))
        names = [f"{part}/{view}" for part in range(20) for view in range(3)]
        scores = PartScores(parts("parent", names), largest, conformal_threshold(largest, 0.1))
        for name, score in zip(names, views[40:].ravel(), strict=True):
            scores.add(name, float(score))
        flagged.append(np.mean([row["verdict"] == "anomalous" for row in scores.rows()]))
    assert 0.085 < np.mean(flagged) < 0.108
