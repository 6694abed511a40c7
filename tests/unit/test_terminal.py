"""Text for a terminal: nothing in it can control the terminal, and no secret value stands in it."""

import logging
import sys

import pytest

from metrad.app.messages import hide_in_traceback, one_line
from metrad.errors import InputError
from metrad.terminal import Formatter, hide, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten\b", r"over\x0dwritten\x08"),
        ("\x9b2J", r"\x9b2J"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("\udcff.png", r"\udcff.png"),
        ("größe 良品\tx\ny", "größe 良品\tx\ny"),
    ],
)
def test_what_controls_a_terminal_is_escaped_and_other_text_stays(text, shown):
    assert printable(text) == shown
    record = logging.LogRecord("metrad", logging.INFO, "", 0, "%s", (text,), None)
    assert Formatter("%(message)s").format(record) == shown
    assert one_line(InputError(f"no class {text}"), []).isprintable()


def test_every_character_is_escaped_or_printable():
    for code in (*range(0x3000), *range(0xD7F0, 0xE010), sys.maxunicode):
        shown = printable(chr(code))
        assert shown in ("\t", "\n") or all(ord(each) >= 0x20 and not 0x7F <= ord(each) <= 0x9F for each in shown)


def test_secret_values_are_replaced_but_not_inside_words():
    assert hide("key=abc, abcd, 'abc'", {"abc": "***"}) == "key=***, abcd, '***'"
    assert hide("a b\\1", {"a": "x", "a b\\1": "y"}) == "y"


def test_an_error_shows_no_secret_of_the_command(monkeypatch):
    monkeypatch.setenv("TOKEN_OF_MINE", "s3cr3t")
    given = ["+logger.api_key=abc", "logger.project=${oc.env:TOKEN_OF_MINE}"]
    error = ValueError("abc and s3cr3t are wrong")
    assert one_line(error, given).startswith("*** and ${oc.env:TOKEN_OF_MINE} are wrong (given: +logger.api_key=***")


def test_a_traceback_shows_no_secret_and_no_escape(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    hide_in_traceback({"s3cr3t": "***"})
    hide_in_traceback({"abc": "+++"})
    try:
        raise KeyError("s3cr3t abc \x1b[31m")
    except KeyError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "*** +++ " in said
    assert not {"s3cr3t", "abc"} & set(said.split())
    assert "\x1b" not in said
