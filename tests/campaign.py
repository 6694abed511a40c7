"""Runs hundreds of inputs of the command line, and counts what comes of them beside what should.

    python tests/campaign.py [--only N] [--by-hand] [--seed N] [--jobs N] [--limit SECONDS] [--table FILE]

More than half of the inputs were written by hand by somebody who had not seen the schema; the others are made from the
schema as the seed draws them (tests/inputs). Each runs in a fork of one process that has loaded all libraries, and one
refused input of each kind as a user starts the command, too. The exit code is 1 if one has a traceback, hangs, is an
internal error, is accepted though it is nonsense, is turned down though it is right, or is refused without its key; or
if more than 1 % are refused in more than two lines.
"""

import argparse
import random
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.inputs import forked
from tests.inputs.folders import Folders
from tests.inputs.generated import generated
from tests.inputs.input import REFUSED, Input, by_hand
from tests.inputs.judged import Verdict, judge, passed, said, table


def main() -> int:
    """Run the inputs that the command line asks for, and print what is wrong and the table."""
    asked = _asked()
    inputs = [*by_hand(), *([] if asked.by_hand else generated(asked.seed))]
    draw = random.Random(asked.seed)
    if asked.only:
        inputs = draw.sample(inputs, min(asked.only, len(inputs)))
    with tempfile.TemporaryDirectory() as root:
        folders = Folders(Path(root))
        forked.preload()
        forked.apart(lambda: folders.make(one.files for one in inputs))
        verdicts = [judge(inputs[i], result) for i, result in forked.results(inputs, folders, asked.jobs, asked.limit)]
        verdicts += _as_a_user(verdicts, folders, draw)
    for one in verdicts:
        if one.wrong:
            print(f"{one.wrong}: metrad {shlex.join(one.given.args)[:300]}\n  {said(one.result)[-300:]}")
    counts = table(verdicts)
    print(counts)
    if asked.table:
        asked.table.write_text(f"{counts}\n", encoding="utf-8")
    return 0 if passed(verdicts) else 1


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs inputs of the command line and counts what comes of them.")
    parser.add_argument("--only", type=int, help="number of inputs to draw; all if not given")
    parser.add_argument("--by-hand", action="store_true", help="only the inputs that were written by hand")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="number of commands at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a command counts as hanging")
    parser.add_argument("--table", type=Path, help="file to write the table to")
    return parser.parse_args()


def _as_a_user(verdicts: Sequence[Verdict], folders: Folders, draw: random.Random) -> list[Verdict]:
    """Return verdicts on commands started anew, one refused input of each kind: they must end as in a fork."""
    refused = [one for one in verdicts if one.given.outcome == REFUSED and not one.wrong]
    found = []
    for kind in sorted({one.given.kind for one in refused}):
        one = draw.choice([one for one in refused if one.given.kind == kind])
        result = forked.whole(one.given, folders)
        again = Input(one.given.args, REFUSED, one.given.why, kind="as a user starts it")
        found.append(Verdict(again, result, "" if result == one.result else "whole"))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
