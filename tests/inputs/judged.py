"""What is wrong with how a command ended, and the table of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from metrad.app.messages import BAD_INPUT, FAILED_RUNS, INTERNAL
from tests.helpers.commands import Result
from tests.inputs.forked import HUNG
from tests.inputs.input import REFUSED, SOME_FAILED, WORKS, Input

LINES = 2  # that a refusal may have
SHARE = 0.01  # of the inputs, whose refusals may have more
CODES = {WORKS: 0, REFUSED: BAD_INPUT, SOME_FAILED: FAILED_RUNS}
# What can be wrong → how the table calls it, in the order in which it is looked for.
WRONG = {
    "hang": "hang: not ended in time",
    "traceback": "traceback, or killed by a signal",
    "internal": "internal error: a fault of metrad's own",
    "accepted": "accepted nonsense",
    "turned down": "turned down though it is right",
    "code": "another exit code than it should be",
    "lines": f"refused in more than {LINES} lines",
    "key": "refused in a line that does not name the key",
    "whole": "the command, started as a user does, ends otherwise than in a fork",
}


@dataclass(frozen=True)
class Verdict:
    """An input, how it ended, and what is wrong with that; empty if nothing is."""

    given: Input
    result: Result
    wrong: str


def judge(given: Input, result: Result) -> Verdict:
    """Compare how an input ended with the outcome that it should have."""
    return Verdict(given, result, next((name for name in WRONG if _is(name, given, result)), ""))


def said(result: Result) -> str:
    """Return what a command printed, on both streams."""
    return (result.out + result.err).strip()


def _is(name: str, given: Input, result: Result) -> bool:
    code = result.code
    refused = given.outcome == REFUSED and code == BAD_INPUT
    found = {
        "hang": code == HUNG,
        "traceback": code < 0 or "Traceback (most recent call last)" in said(result),
        "internal": code == INTERNAL or "internal error:" in said(result),
        "accepted": given.outcome != WORKS and code == 0,
        "turned down": given.outcome == WORKS and code != 0,
        "code": code != CODES[given.outcome],
        "lines": refused and len(said(result).splitlines()) > LINES,
        "key": refused and not all(word in said(result) for word in given.words),
    }
    return found.get(name, False)


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Return whether nothing is wrong, but for long refusals of at most 1 % of the inputs."""
    counts = Counter(one.wrong for one in verdicts if one.wrong)
    return counts.pop("lines", 0) <= SHARE * len(verdicts) and not counts


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the Markdown table of counts: inputs by kind and outcome, then what went wrong."""
    kinds = Counter((one.given.kind, one.given.outcome) for one in verdicts)
    lines = ["| inputs | outcome | count | wrong |", "| --- | --- | ---: | ---: |"]
    for (kind, outcome), count in sorted(kinds.items()):
        wrong = sum(bool(one.wrong) for one in verdicts if (one.given.kind, one.given.outcome) == (kind, outcome))
        lines.append(f"| {kind} | {outcome} | {count} | {wrong} |")
    counts = Counter(one.wrong for one in verdicts)
    lines += ["", f"| of {len(verdicts)} inputs | count |", "| --- | ---: |"]
    return "\n".join([*lines, *(f"| {words} | {counts[name]} |" for name, words in WRONG.items())])
