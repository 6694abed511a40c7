"""The benchmark of predicted false alarms under another exposure, on made-up embeddings of tiles."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "envelope.py"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(SCRIPT.parent)
        return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def tiles(benchmark, moved):
    """200 tiles under 3 exposures each: light moves an embedding, and a changed one is where a photograph would be."""
    generator = np.random.default_rng(0)
    parts, exposures = np.repeat(np.arange(200), 3), np.tile([1, 2, 3], 200)
    plain = 9 * np.eye(8)[0] + generator.normal(size=(200, 8))[parts] + generator.normal(size=(600, 8)) * 0.1
    ways = np.arange(3)[None, :, None] * moved * np.eye(8)[1]
    vectors = (plain[:, None] + ways).astype(np.float32)
    return benchmark.Tiles(parts, exposures, vectors, np.array([0.0, 1.0, 2.0]))


def test_predicted_and_realised_agree_where_the_change_is_what_the_camera_does(benchmark):
    shares, made = benchmark.Shares(80, 60), tiles(benchmark, 1.5)
    found = [benchmark.measured(made, shares, np.array([1]), 3, 0.05, seed) for seed in range(10)]
    usual, predicted, realised = (np.mean([getattr(one, name) for one in found]) for name in vars(found[0]))
    assert 0.02 < usual < 0.09
    assert predicted > 0.2
    assert predicted == pytest.approx(realised, abs=0.08)


def test_where_light_changes_nothing_the_rate_is_that_of_the_threshold(benchmark):
    found = benchmark.measured(tiles(benchmark, 0.0), benchmark.Shares(80, 60), np.array([2]), 1, 0.05, 0)
    assert found.predicted <= 0.05


def test_a_row_has_the_steps_of_light_between_the_exposures(benchmark):
    row = benchmark.line(tiles(benchmark, 0.3), benchmark.Shares(80, 60), np.array([1, 2]), 3, 0.05, 2)
    assert row[:2] == [3, "+1.50"]


def test_light_is_measured_on_tiles_with_both_exposures(benchmark):
    pixels = [np.full((4, 4, 3), value, np.uint8) for value in (64, 90, 30, 120)]
    light = benchmark.light_of(pixels, np.array([1, 1, 2, 3]), np.array([1, 2, 1, 2]))
    expected = np.log2(((90 / 255 + 0.055) / (64 / 255 + 0.055)) ** 2.4)
    np.testing.assert_allclose(light, [0, expected])
