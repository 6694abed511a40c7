"""The bugs of tests/mutations.py can be planted in the code as it is now."""

import ast
from pathlib import Path

import pytest

from tests import mutations

BUGS = mutations.planted()


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_can_be_planted(name):
    file, old, new = BUGS[name]
    text = (mutations.ROOT / "src/metrad" / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    assert new != old
    assert ast.dump(ast.parse(text.replace(old, new))) != ast.dump(ast.parse(text))


def test_names_are_unique_and_the_suite_exists():
    assert len(BUGS) == sum(len(bugs) for bugs in mutations.PLANTED.values()) >= 20
    assert all((Path(mutations.ROOT) / path).is_file() for path in mutations.SUITE)
