"""Processes that a run starts: all end when one does, and the cause is told."""

from pathlib import Path

import pytest

from metrad.errors import InputError, TrainingError
from metrad.training.devices import launch
from tests.helpers import ends
from tests.helpers.stored import limited


@pytest.mark.parametrize("how", ends.ENDS)
def test_when_one_rank_ends_all_end_and_the_cause_is_told(how, monkeypatch, caplog):
    monkeypatch.setattr(launch, "GRACE", 0.5)
    refused = InputError if how == "refuse" else TrainingError
    with limited(seconds=300), pytest.raises(refused) as ended:  # the first rank waits for twice as long
        launch.start(ends.end, (how,), 2)
    assert str(ended.value) == ends.ENDS[how]
    assert ("in end" in str(ended.value.__cause__)) == (how in ("raise", "refuse"))


def test_each_rank_does_its_part(tmp_path):
    launch.start(ends.name_ranks, (str(tmp_path),), 3)
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["0", "1", "2"]
