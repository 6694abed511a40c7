"""The detection of each kind of anomaly above a threshold, and which kind is the worst."""

import numpy as np
import pytest
from scipy import stats

from metrad.evaluation.measures import alarm_rates, threshold_metrics, worst_kind

TRUTH = np.array([False] * 4 + [True] * 8)
KINDS = ["good", "good", "cut", "good", *["cut"] * 5, *["dent"] * 3]
ABOVE = np.array([True, False, False, False, *[True, True, True, True, False], *[True, False, False]])


def test_each_kind_has_its_share_and_clopper_pearsons_interval():
    found = alarm_rates(ABOVE, TRUTH, 0.9, kinds=KINDS)
    assert {name: (kind["images"], kind["rate"]) for name, kind in found["by_kind"].items()} == {
        "cut": (5, 4 / 5),
        "dent": (3, 1 / 3),
    }
    low, high = found["by_kind"]["dent"]["interval"]
    assert (low, high) == pytest.approx((stats.beta.ppf(0.05, 1, 3), stats.beta.ppf(0.95, 2, 2)))
    assert found["worst_kind"] == "dent"


def test_the_whole_is_the_mean_of_the_kinds_by_their_images_and_stays_as_it_was_without_kinds():
    found = alarm_rates(ABOVE, TRUTH, 0.95, kinds=KINDS)
    mean = sum(kind["images"] * kind["rate"] for kind in found["by_kind"].values()) / 8
    assert found["test_detection_rate"] == pytest.approx(mean)
    plain = alarm_rates(ABOVE, TRUTH, 0.95)
    assert plain == {key: value for key, value in found.items() if key not in ("by_kind", "worst_kind")}


def test_the_interval_of_a_kind_counts_its_groups():
    groups = np.array([0, 1, 2, 3, *[4, 4, 4, 4, 4], *[5, 6, 7]])
    alone, grouped = (alarm_rates(ABOVE, TRUTH, 0.95, each, KINDS)["by_kind"] for each in (None, groups))
    assert grouped["cut"]["rate"] == alone["cut"]["rate"]
    assert np.ptp(grouped["cut"]["interval"]) > np.ptp(alone["cut"]["interval"])
    assert grouped["dent"]["interval"] == pytest.approx(alone["dent"]["interval"])


@pytest.mark.parametrize(("anomalous", "kinds"), [(TRUTH, ["cut"] * 12), (np.zeros(12, dtype=bool), KINDS)])
def test_one_kind_and_none_have_no_figures_by_kind(anomalous, kinds):
    assert alarm_rates(ABOVE, anomalous, 0.95, kinds=kinds).keys() == alarm_rates(ABOVE, anomalous, 0.95).keys()


def test_of_kinds_that_are_found_alike_the_one_with_fewer_images_is_the_worst():
    truth, kinds = np.ones(12, dtype=bool), ["cut"] * 8 + ["dent"] * 4
    assert alarm_rates(truth, truth, 0.95, kinds=kinds)["worst_kind"] == "dent"
    assert alarm_rates(~truth, truth, 0.95, kinds=kinds)["worst_kind"] == "cut"
    assert worst_kind({"b": {"rate": 0.5, "interval": [0.1, 0.9]}, "a": {"rate": 0.5, "interval": [0.1, 0.8]}}) == "b"


def test_a_threshold_tells_the_detection_of_each_kind():
    scores = np.arange(12.0)
    found = threshold_metrics(0.05, 9.5, scores=scores, anomalous=TRUTH, level=0.95, kinds=KINDS)
    assert [kind["rate"] for kind in found["by_kind"].values()] == [0, 2 / 3]
