"""An input of the command line, with the outcome that it should have."""

from dataclasses import dataclass
from pathlib import Path

import yaml

WORKS, REFUSED, SOME_FAILED = "works", "refused", "some_failed"
BY_HAND = Path(__file__).with_name("by_hand.yaml")


@dataclass(frozen=True)
class Input:
    """One command and what should come of it.

    Attributes:
        args: the arguments of ``metrad``.
        outcome: ``works`` for exit code 0; ``refused`` for code 2 and one line; ``some_failed`` for a sweep, some of
            whose runs fail, with code 1.
        why: what is special about the input.
        files: the prepared folder that it names; empty for none.
        words: words that a refusal must hold, such as the key.
        kind: what is wrong, such as "a wrong type"; one for all inputs by hand.
    """

    args: tuple[str, ...]
    outcome: str
    why: str
    files: str = ""
    words: tuple[str, ...] = ()
    kind: str = "by hand"


def by_hand() -> list[Input]:
    """Return the inputs written by somebody who had read README, docs and conf, and had not seen the schema."""
    entries = yaml.safe_load(BY_HAND.read_text(encoding="utf-8"))
    return [Input(tuple(entry["args"]), entry["outcome"], entry["why"], entry.get("files", "")) for entry in entries]
