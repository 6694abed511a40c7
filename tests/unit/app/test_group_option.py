"""The option ``--group``: the same words, patterns and mappings in ``metrad fit`` and ``metrad predict``."""

import pytest

from metrad.app import group_option
from metrad.data.groups import Pattern
from metrad.errors import InputError


@pytest.mark.parametrize("text", ["parent", r"(?P<part>\d+)_view", "auto"])
def test_words_and_patterns_stay_as_they_are(text):
    assert group_option.pattern(text) == group_option.read(text) == text


def test_a_mapping_is_a_pattern_with_its_settings():
    assert group_option.pattern(group_option.FORM) == Pattern(r"num_(?P<number>\d+)", gap=60)
    assert group_option.pattern("{pattern: '(?P<a>x)', size: 0.2}") == Pattern("(?P<a>x)", size=0.2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{pattern: [", "--group {pattern: [ cannot be read"),
        ("{pattern: 'x', gap: 1} y", "cannot be read"),
        ("{gap: 3}", "--group: pattern must be a regular expression"),
        ("{pattern: 7}", "--group: pattern must be a regular expression"),
        ("{pattern: '(?P<a>x)', gaps: 3}", "--group: gaps is no setting"),
        ("{pattern: '(?P<a>x)', gap: 0.5}", "--group: gap must be a whole number"),
        ("{pattern: '(?P<a>x)', gap: true}", "--group: gap must be a whole number"),
        ("{pattern: '(?P<a>x)', gap: 0}", "--group.gap must be at least 1"),
        ("{pattern: '(?P<a>x)', size: big}", "--group: size must be a number"),
        ("{pattern: '(?P<a>x)', size: 2}", "--group.size must lie in 0 to 1"),
        ("{pattern: 'x'}", "--group=x has no named group"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line_that_names_the_option(text, words):
    with pytest.raises(InputError) as refused:
        group_option.pattern(text)
    assert words in str(refused.value)
    assert "dataset.group" not in str(refused.value)
