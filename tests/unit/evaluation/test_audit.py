"""The audit of a test set: each planted confound is named, clean splits are not warned of, and scores are compared."""

import io
import os
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from metrad.data.decoding import decode_file
from metrad.data.properties import PLACES, Table, of_image, unknown
from metrad.evaluation.audit import (
    ALPHA,
    Exchangeability,
    comparison,
    confound,
    entry,
    exchangeability,
    lines,
)

SIDE, TRAINED, TESTED = 48, 40, 30


def scratched_metal(generator: np.random.Generator) -> np.ndarray:
    rows = generator.normal(0, 18, (SIDE, 1)) + generator.normal(0, 5, (SIDE, SIDE)) + generator.normal(150, 6)
    return np.repeat(rows[..., None], 3, axis=-1) * [1, 0.98, 0.94]


def weave(generator: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    period, phase = generator.uniform(5, 8), generator.uniform(0, 6, 2)
    waves = np.sin(2 * np.pi * x / period + phase[0]) * np.sin(2 * np.pi * y / period + phase[1])
    return (128 + 40 * waves + generator.normal(0, 8, (SIDE, SIDE)))[..., None] * [1.1, 1, 0.8]


def label(generator: np.random.Generator) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), generator.normal(210, 5))
    for row in range(8, 40, 8):
        for column in np.flatnonzero(generator.random(10) < 0.6):
            image[row : row + 4, 4 + 4 * column : 7 + 4 * column] = generator.normal([40, 40, 90], 10)
    return image + generator.normal(0, 3, (SIDE, SIDE, 1))


def darker(image: Image.Image) -> Image.Image:
    """Return the image under half the light, in sRGB."""
    return Image.fromarray(np.round(np.asarray(image) * 0.5 ** (1 / 2.2)).astype(np.uint8))


def framed(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image.crop((2, 2, SIDE - 2, SIDE - 2)), 2, fill=(10, 10, 10))


def cropped(image: Image.Image) -> Image.Image:
    return image.crop((3, 3, SIDE - 3, SIDE - 3))


# What is done to the test images, how both and they are saved, what the test files are later by, and what is named.
Change = Callable[[Image.Image], Image.Image]
PLANTED: dict[str, tuple[Change | None, dict[str, int], dict[str, int], int, set[str]]] = {
    "exposure": (darker, {}, {}, 0, {"grey_mean", "background"}),
    "exposure of JPEGs": (darker, {"quality": 90}, {"quality": 90}, 0, {"grey_mean", "background"}),
    "JPEG quality": (None, {"quality": 92}, {"quality": 75}, 0, {"bytes_per_pixel"}),
    "file type": (None, {}, {"quality": 95}, 0, {"file_type"}),
    "file times": (None, {}, {}, 86400, {"file_time"}),
    "border": (framed, {}, {}, 0, {"border"}),
    "crop": (cropped, {}, {}, 0, {"width", "height"}),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a function from images, how they are saved and when to their properties."""
    folder = tmp_path_factory.mktemp("files")

    def call(images, saving=(), time=0):
        rows = []
        for place, image in enumerate(images):
            path = folder / ("image.jpg" if saving else "image.png")
            content = io.BytesIO()
            image.save(content, "JPEG" if saving else "PNG", **dict(saving))
            path.write_bytes(content.getvalue())
            os.utime(path, (1e9 + time + place * 0.01,) * 2)
            rows.append(of_image(decode_file(path)))
        return np.stack(rows)

    return call


def drawn(render, count, seed=0):
    generator = np.random.default_rng(seed)
    return [Image.fromarray(render(generator).clip(0, 255).astype(np.uint8)) for _ in range(count)]


def split(training, tested, groups=None):
    roles = [*["normal"] * (len(training) - 10), *["calibration"] * 10, *["test_normal"] * len(tested)]
    return Table([str(i) for i in range(len(roles))], roles, groups, np.concatenate([training, tested]))


@pytest.mark.parametrize("render", [scratched_metal, weave, label], ids=lambda render: render.__name__)
@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_confound_is_named_and_nothing_else_in_its_place(measured, render, case):
    change, saved, saved_test, later, names = PLANTED[case]
    images = drawn(render, TRAINED + TESTED)
    tested = [change(image) for image in images[TRAINED:]] if change else images[TRAINED:]
    found = confound(split(measured(images[:TRAINED], saved), measured(tested, saved_test, later)))
    assert found is not None
    assert found.name in names
    assert found.p_value <= ALPHA
    assert "\n" not in found.line


def clean(seed, parts=40, views=4):
    """Return a clean split by part: properties of all parts from one distribution, with those of a part much alike."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(parts), views)
    values = generator.normal(size=(parts, len(PLACES)))[groups] + generator.normal(size=(len(groups), len(PLACES))) / 5
    values[:, [PLACES["file_type"], PLACES["camera"]]] = generator.integers(0, 3, (parts, 2))[groups]
    values[:, PLACES["file_time"]] *= 1e6
    values[:, PLACES["grey_mean"]] = 0.5 + values[:, PLACES["grey_mean"]] / 20
    values[:, PLACES["grey_spread"]] = 0.2 + values[:, PLACES["grey_spread"]] / 50
    tested = groups >= parts * 2 // 3
    return split(values[~tested], values[tested], groups)


def test_at_most_one_in_twenty_clean_splits_by_part_is_warned_of():
    warned = sum(confound(clean(seed)) is not None for seed in range(100))
    assert warned <= 5


def test_without_their_parts_images_would_be_taken_for_too_many_witnesses():
    tables = [clean(seed) for seed in range(20)]
    blind = [Table(table.images, table.roles, None, table.values) for table in tables]
    assert sum(confound(table) is not None for table in blind) > 5


def test_without_training_images_there_is_nothing_to_compare():
    table = clean(0)
    chosen = np.array(table.roles) == "test_normal"
    few = Table([], ["test_normal"] * int(chosen.sum()), None, table.values[chosen])
    assert comparison(few) == {}
    assert confound(few) is None
    assert lines(entry(None, None)) == lines({}) == []


def test_anomalous_images_do_not_count():
    values = unknown(60)
    values[:, PLACES["grey_mean"]] = np.random.default_rng(0).normal(size=60) / 20 + 0.5
    values[40:, PLACES["grey_mean"]] += 5
    roles = [*["normal"] * 20, *["test_normal"] * 20, *["test_anomalous"] * 20]
    assert confound(Table([], roles, None, values)) is None


def test_the_aurocs_are_those_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    table = clean(3)
    tested, column = np.array(table.roles) == "test_normal", table.values[:, PLACES["width"]]
    auroc = roc_auc_score(tested, column)
    assert comparison(table)["width"][0] == pytest.approx(max(auroc, 1 - auroc))


def test_scores_of_one_kind_seldom_differ_and_shifted_ones_do():
    generator = np.random.default_rng(0)
    pairs = [exchangeability(generator.normal(size=60), generator.normal(size=50)) for _ in range(200)]
    assert sum(found is not None and found.line is not None for found in pairs) <= 6
    shifted = exchangeability(generator.normal(size=60), generator.normal(1.5, size=50))
    assert shifted is not None
    assert shifted.higher > 0.8
    assert shifted.line is not None
    assert "higher" in shifted.line
    assert "more than promised" in shifted.line


def test_the_scores_of_a_part_count_once():
    generator = np.random.default_rng(1)
    parts = np.repeat(np.arange(12), 10)
    one, other = (generator.normal(size=12)[parts] + generator.normal(size=120) / 10 for _ in range(2))
    grouped, alone = exchangeability(one, other, parts, parts), exchangeability(one, other)
    assert grouped is not None
    assert alone is not None
    assert grouped.p_value > alone.p_value
    assert grouped == exchangeability(one[::-1], other, parts[::-1], parts)


@pytest.mark.parametrize("sizes", [(0, 5), (1, 5), (5, 1)])
def test_too_few_scores_are_not_compared(sizes):
    assert exchangeability(np.arange(sizes[0]) * 1.0, np.arange(sizes[1]) * 1.0) is None


def test_an_entry_of_metrics_says_again_what_was_found():
    found = confound(split(np.zeros((20, len(PLACES))), np.ones((20, len(PLACES)))))
    assert found is not None
    assert lines(entry(found, Exchangeability(0.001, 0.9))) == [found.line, Exchangeability(0.001, 0.9).line]
