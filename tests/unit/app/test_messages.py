"""The line that a run ends with."""

from metrad.app.messages import summary

METRICS = {"auroc": 0.9, "intervals": {"auroc_delong": [0.8, 0.95]}, "seconds": {"total": 3.4}}


def test_of_several_kinds_of_anomalies_the_worst_is_named():
    kinds = {"dent": {"images": 2, "auroc": 0.75}, "cut": {"images": 3, "auroc": 0.5}}
    assert summary({**METRICS, "per_class": kinds}).endswith("worst of 2 kinds: cut with AUROC 0.5000, 3 s")


def test_of_one_kind_nothing_is_added():
    assert "kind" not in summary(METRICS)
