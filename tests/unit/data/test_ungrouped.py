"""The record of images without groups that seem to show one part several times: read strictly."""

from dataclasses import asdict

import pytest

from metrad.data.ungrouped import UngroupedViews
from metrad.errors import InputError


def test_a_record_is_read_as_it_was_written_and_may_be_missing():
    found = UngroupedViews(300, 62)
    assert UngroupedViews.of(asdict(found), "here") == found
    assert UngroupedViews.of(None, "here") is None
    assert found.words == "300 images seem to show 62 parts"


@pytest.mark.parametrize(
    "entry",
    [
        {},
        [],
        "300",
        True,
        {"images": 300},
        {"images": 300, "groups": 62, "more": 1},
        {"images": "300", "groups": 62},
        {"images": 300.0, "groups": 62},
        {"images": 300, "groups": True},
        {"images": 300, "groups": 300},
        {"images": 300, "groups": 0},
        {"images": -1, "groups": -2},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_with_its_place(entry):
    with pytest.raises(InputError, match=r"^detector"):
        UngroupedViews.of(entry, "detector.json: the entry ungrouped_views")
