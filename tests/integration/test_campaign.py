"""Inputs of every kind end as they should: a sample of them here, all of them in the long tier."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from metrad.runs.config.schema import PARTS, RANGES, SETTINGS
from tests.helpers.commands import ROOT, Result
from tests.inputs.generated import arguments, generated, own_keys
from tests.inputs.input import REFUSED, WORKS, Input, by_hand
from tests.inputs.judged import judge, passed, table

SEED = 22
QUICK = [one for one in (*by_hand(), *generated(SEED)) if one.outcome == REFUSED and not one.files]
SAMPLE = random.Random(SEED).sample(QUICK, 6)


def test_wrong_inputs_are_refused_in_a_line_that_names_the_key(metrad, tmp_path):
    verdicts = [judge(given, metrad(*given.args)) for given in SAMPLE]
    assert [one for one in verdicts if one.wrong] == []
    assert list(tmp_path.rglob("run.log")) == []


def test_there_are_600_inputs_and_half_of_them_are_by_hand():
    hand, made = by_hand(), generated(0)
    assert len(hand) >= 300
    assert len(made) >= 300
    assert len({(one.args, one.files) for one in hand}) == len(hand)


def test_the_generator_covers_every_key_of_the_schema():
    refused = Counter(one.why.partition(":")[0] for one in generated(0) if one.outcome == REFUSED)
    right = {one.why.partition(":")[0] for one in generated(0) if one.outcome == WORKS}
    keys = {key for key, setting in SETTINGS.items() if not setting.group} | {*PARTS, *RANGES}
    assert keys - set(refused) == set()
    assert {*own_keys(), *PARTS, *arguments()} == keys
    assert set(own_keys()) - right == set()
    assert {key: refused[key] for key in own_keys() if refused[key] < 3} == {}


def test_the_seed_alone_decides_what_is_drawn():
    assert generated(1) == generated(1)
    assert generated(1) != generated(2)


@pytest.mark.parametrize(
    ("outcome", "result", "wrong"),
    [
        (REFUSED, Result(2, "", "error: seed must be 1\n"), ""),
        (REFUSED, Result(0, "AUROC 1", ""), "accepted"),
        (REFUSED, Result(2, "images: 3\n", "a\nerror: seed\n"), "lines"),
        (REFUSED, Result(2, "", "error: head must be 1\n"), "key"),
        (REFUSED, Result(1, "", "Traceback (most recent call last):\n"), "traceback"),
        (REFUSED, Result(-11, "", ""), "traceback"),
        (REFUSED, Result(70, "", "internal error: seed\n"), "internal"),
        (REFUSED, Result(1, "", "error: seed\n"), "code"),
        (REFUSED, Result(-1000, "", ""), "hang"),
        (WORKS, Result(2, "", "error: seed\n"), "turned down"),
        (WORKS, Result(0, "", ""), ""),
    ],
)
def test_each_wrong_end_is_seen_and_counted(outcome, result, wrong):
    verdict = judge(Input(("train", "seed=2"), outcome, "seed", words=("seed",)), result)
    assert verdict.wrong == wrong
    assert passed([verdict] * 100) == (not wrong)
    assert f"| {outcome} | 1 | {int(bool(wrong))} |" in table([verdict])


def test_one_refusal_in_a_hundred_may_be_long():
    short, long = Result(2, "", "error: seed\n"), Result(2, "", "a\nb\nc\n")
    given = Input(("train", "seed=2"), REFUSED, "seed")
    assert passed([judge(given, short)] * 99 + [judge(given, long)])
    assert not passed([judge(given, short)] * 98 + [judge(given, long)] * 2)


@pytest.mark.long
def test_all_inputs_end_as_they_should(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "campaign.py"), "--table", str(tmp_path / "table.md")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    written = Path(tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| accepted nonsense | 0 |" in written
