"""Pictures hold what they are given."""

import dataclasses

import numpy as np

from metrad.evaluation.plots import ImagePair, cost, envelope, image_pairs, study


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


def test_an_envelope_has_a_panel_a_change_and_a_line_a_threshold_from_the_unchanged_images_on():
    def step(strength, *shares):
        return {"strength": strength, "false_alarm_rates": shares, "intervals": [[0, share] for share in shares]}

    changes = [
        {"change": name, "unit": "pixels", "steps": [step(1.0, 0.1, 0.2), step(2.0, 0.3, 0.4)]} for name in "abcde"
    ]
    thresholds = [
        {"false_alarm_rate": 0.05, "unchanged": 0.04},
        {"false_alarm_rate": 0.05, "confidence": 0.95, "unchanged": 0.01},
    ]
    figure = envelope({"changes": changes, "thresholds": thresholds})
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == list("abcde")
    assert {axes.get_ylim() for axes in panels} == {(0, 50)}
    first, second = (line.get_ydata() for line in panels[0].get_lines() if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(first, [4, 10, 30])
    np.testing.assert_allclose(second, [1, 20, 40])
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["none", "1", "2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "threshold for 5 %",
        "threshold for 5 %, confidence 0.95",
    ]


def test_a_study_has_gaps_where_nothing_could_be_measured():
    rows = [
        {"epoch": i, "auroc": value, "effective_rank": value, "loss": None} for i, value in enumerate((0.5, None, 1))
    ]
    for axes in study(rows).axes:
        np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [0.5, np.nan, 1])


def test_image_pairs_has_an_image_a_group_with_each_test_image_above_its_nearest():
    groups = {
        "two": [image_pair(10, 20, "normal"), image_pair(30, 40, "anomalous")],
        "one, in colour": [image_pair((1, 2, 3), (4, 5, 6), "normal")],
        "none": [],
    }
    for title, rows in groups.items():
        figure = image_pairs({title: rows, "again": rows} if rows else {title: rows, "two": groups["two"]})
        axes = figure.axes[0]
        assert axes.get_title().startswith(f"{title}: ")
        assert [text.get_text() for text in axes.texts] == [row.title for row in rows]
        for image in axes.get_images():
            left, right, bottom, top = image.get_extent()
            pixels = np.asarray(image.get_array())
            height, width = pixels.shape[0] / (bottom - top), pixels.shape[1] / (right - left)
            for i, row in enumerate(rows):
                for j, value in enumerate((row.test, row.nearest)):
                    cell = pixels[
                        round(j * height) : round((j + 1) * height), round(i * width) : round((i + 1) * width)
                    ]
                    np.testing.assert_array_equal(cell[1:-1, 1:-1], np.broadcast_to(value, (6, 4, 3)))
                    frame = np.concatenate([cell[0], cell[-1], cell[:, 0], cell[:, -1]])
                    assert (frame == 255).all()
        assert len(axes.get_images()) == bool(rows)


def test_an_image_pair_has_its_names_as_text_and_no_formula():
    pair = dataclasses.replace(image_pair(1, 2, "0.5"), name="crack/$x_$.png", nearest_name="train/good/" + 30 * "0")
    figure = image_pairs({"one": [pair], "two": [pair]})
    above, below = figure.axes[0].texts
    assert above.get_text() == "crack/$x_$.png\n0.5"
    assert not above.get_parse_math()
    assert below.get_text() == "…" + 21 * "0"


def image_pair(image, nearest, title):
    made = (np.broadcast_to(np.uint8(value), (6, 4, np.size(value))) for value in (image, nearest))
    return ImagePair(*made, title=title, anomalous=title == "anomalous")
