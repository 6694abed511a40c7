"""Pictures hold what they are given."""

import numpy as np

from metrad.plots import cost, study


def test_cost_has_a_panel_for_each_kind_and_a_line_for_each_side():
    curves = {
        "seconds": {"ours": [(10, 1.0), (100, 2.0)], "theirs": [(10, 3.0)]},
        "MB": {"ours": [(10, 5.0), (100, 6.0)], "theirs": [(10, 7.0)]},
    }
    figure = cost(curves, {"ours": "o-", "theirs": "s--"}, "vectors")
    assert [axes.get_title() for axes in figure.axes] == ["seconds", "MB"]
    for axes, sides in zip(figure.axes, curves.values(), strict=True):
        assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("log", "log", "vectors")
        lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}
        assert lines == sides
        assert [line.get_linestyle() for line in axes.get_lines()] == ["-", "--"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs"]


def test_cost_with_a_single_panel():
    assert len(cost({"seconds": {"ours": [(1, 1.0)]}}, {"ours": "o"}, "vectors").axes) == 1


def test_a_study_has_gaps_where_nothing_could_be_measured():
    rows = [
        {"epoch": i, "auroc": value, "effective_rank": value, "loss": None} for i, value in enumerate((0.5, None, 1))
    ]
    for axes in study(rows).axes:
        np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [0.5, np.nan, 1])
