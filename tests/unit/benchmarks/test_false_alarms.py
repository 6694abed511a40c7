"""The benchmark of false alarms on new parts, on made-up embeddings of parts."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "false_alarms.py"


@pytest.fixture(scope="module")
def false_alarms():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(SCRIPT.parent)
        return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture
def shares(false_alarms):
    return false_alarms.Shares(calibration=80, test=60)


@pytest.fixture(scope="module")
def parts(false_alarms):
    """Embeddings of 200 parts, of which each has one to nine photographs that are much alike."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), generator.integers(1, 10, 200))
    vectors = generator.normal(size=(200, 16))[groups] + generator.normal(size=(len(groups), 16)) * 0.2
    return false_alarms.Parts(vectors.astype(np.float32), groups)


def test_both_splits_have_the_same_new_parts_and_as_many_calibration_images(parts, shares, false_alarms):
    by_part, by_photograph = false_alarms.splits(parts, shares, seed=3)
    assert (by_part.new == by_photograph.new).all()
    assert len(by_part.calibration) == len(by_photograph.calibration)
    for split in (by_part, by_photograph):
        roles = [split.index, split.calibration, split.new, split.known]
        together = np.concatenate(roles)
        assert len(together) == len(set(together.tolist())) == len(parts.groups)
        shown = [set(parts.groups[role].tolist()) for role in roles]
        assert not shown[2] & (shown[0] | shown[1])
        assert (not shown[0] & shown[1]) == (split.kind == "by part")


def test_parts_keep_the_rate_and_photographs_do_not(parts, shares, false_alarms):
    rows = [
        row
        for seed in range(20)
        for split in false_alarms.splits(parts, shares, seed)
        for row in false_alarms.measured(parts, split, 0.05, 0.95)
    ]
    means = pd.DataFrame(rows).groupby(["split", "threshold"])["on new parts"].mean()
    assert means["by part", "on average"] <= 0.06
    assert means["by part", "confidence 0.95"] <= 0.03
    assert means["by photograph", "on average"] > 0.2
    known = pd.DataFrame(rows).groupby(["split", "threshold"])["on known parts"].mean()
    assert known["by photograph", "on average"] <= 0.07
    lines = false_alarms.summarised(pd.DataFrame(rows))
    assert lines[0][:4] == ["5 %", "by part", "on average", "80"]
    assert len(lines) == 4
