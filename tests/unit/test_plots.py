"""Pictures hold what they are given."""

from metrad.plots import cost


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
