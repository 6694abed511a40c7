import sys

import pytest

from metrad import progress
from metrad.sweeps.plan import quiet


@pytest.fixture
def _terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("context", [progress.hidden, quiet])
def test_bars_are_hidden_while_a_sweep_is_shown(context):
    assert progress.bars_wanted()
    with context():
        assert not progress.bars_wanted()
        with progress.hidden():
            assert not progress.bars_wanted()
        assert not progress.bars_wanted()
    assert progress.bars_wanted()


@pytest.mark.usefixtures("_terminal")
def test_bars_are_for_terminals_and_for_those_who_did_not_turn_them_off(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setenv("TQDM_DISABLE", "1")
        assert not progress.bars_wanted()
    with monkeypatch.context() as patched:
        patched.setattr(sys.stderr, "isatty", lambda: False)
        assert not progress.bars_wanted()
    assert progress.bars_wanted()
