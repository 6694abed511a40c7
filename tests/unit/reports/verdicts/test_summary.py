"""The lines that a call of ``metrad predict`` ends with: what is flagged, and what is to be expected of good images."""

import numpy as np
import pytest

from metrad.data.ungrouped import UngroupedViews
from metrad.reports.verdicts.summary import Promise, Tally

SCORES = np.arange(99.0)
VIEWS = UngroupedViews(300, 62)


def promise(confidence=None, *, independent=SCORES, ungrouped=None):
    return Promise(0.05, confidence, 94.0 if confidence is None else 97.0, independent, ungrouped)


@pytest.mark.parametrize(
    ("promised", "words"),
    [
        (promise(), "of 160 good images about 8 would be flagged, and with probability 0.95 no more than "),
        (promise(independent=None), "of 160 good images about 8 would be flagged"),
        (promise(0.95, independent=None), "of 160 good images at most about 8 would be flagged"),
        (promise(0.95), "of 160 good images no more than "),
    ],
)
def test_what_is_to_be_expected_of_good_images_is_one_sentence_with_one_bound(promised, words):
    line = promised.foreseen(160, "images")
    assert line.startswith(words)
    assert "at most about" not in line or "no more than" not in line


def test_a_detector_that_ignores_groups_repeats_the_warning_and_gives_no_number_for_new_parts():
    tally = Tally(images=160, flagged=12, seconds=1.0)
    first, second = tally.lines(promise(ungrouped=VIEWS))
    assert first.endswith("0 errors, 12 of 160 flagged at rate 0.05")
    assert "fitted without groups, and 300 images seem to show 62 parts" in second
    assert "new parts give more false alarms" in second
    assert "--group auto" in second
    assert "would be flagged" not in second
    tally.add_parts([{"verdict": "anomalous"}, {"verdict": "normal"}])
    of_parts = tally.lines(promise(ungrouped=VIEWS), promise())
    assert of_parts[1] == "1 of 2 parts flagged at rate 0.05"
    assert of_parts[2] == second


def test_the_top_of_a_page_says_what_is_flagged_and_what_is_to_be_expected():
    tally = Tally(images=160, flagged=12, seconds=1.0)
    flagged, expected = tally.heads(promise())
    assert flagged == "12 of 160 flagged at rate 0.05"
    assert expected == promise().foreseen(160, "images")
    tally.add_parts([{"verdict": "anomalous"}, {"verdict": "normal"}])
    (parts,) = tally.heads(promise(), promise())
    assert parts.startswith("1 of 2 parts flagged at rate 0.05; of 2 good parts about 0.1 would be flagged")
