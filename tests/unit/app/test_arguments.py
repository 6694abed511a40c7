"""Arguments of a training command: options in any order, words in quotes, ``~``, and sweeps that would not end."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from metrad import quoting
from metrad.app.arguments import for_hydra, readable
from metrad.errors import InputError


def value(item):
    return OverridesParser.create().parse_override(item).value()


@pytest.mark.parametrize(
    ("item", "content"),
    [
        ("dataset.normal=[良品]", ["良品"]),
        ("dataset.normal=[größe, klein]", ["größe", "klein"]),
        ("dataset.normal=[größe,'a,b [1]']", ["größe", "a,b [1]"]),
        ("dataset.normal=[#3,a=b]", ["#3", "a=b"]),
        ("dataset.normal=größe", "größe"),
        ("dataset.source.root=/データ/parts", "/データ/parts"),
        ("dataset.source.root=/data/parts (1)", "/data/parts (1)"),
        ("dataset.source.root=it's", "it's"),
        (
            "ckpt_path=outputs/x-lr=0.1-weights=b~1/checkpoints/last.ckpt",
            "outputs/x-lr=0.1-weights=b~1/checkpoints/last.ckpt",
        ),
        ("selection.candidates=[{optimizer.lr: 1, name: größe}]", [{"optimizer.lr": 1, "name": "größe"}]),
        ("a=ends with\\", "ends with\\"),
        ("a=Ж\\", "Ж\\"),
    ],
)
def test_words_that_hydra_reads_only_in_quotes_need_none(item, content):
    read = value(readable(item))
    assert getattr(read, "text", None) == content or [getattr(i, "text", i) for i in read] == content or read == content


def test_values_of_a_sweep_are_quoted_one_by_one():
    override = OverridesParser.create().parse_override(readable("dataset.normal=größe,klein,[良,b]"))
    assert list(override.sweep_string_iterator()) == ['"größe"', "klein", '["良",b]']


@pytest.mark.parametrize(
    "item", ["seed='1", "dataset.normal=[7", "seed=3", "head=a,b", "x=[a,'b']", "seed", "=3", "~head"]
)
def test_what_hydra_reads_and_what_nobody_can_read_stays_as_it_is(item):
    assert readable(item) == item


def test_home_is_expanded_in_a_value(monkeypatch):
    monkeypatch.setenv("HOME", "/home/größe")
    assert for_hydra(["dataset.source.root=~/parts", "--config-dir=~/own", "a=b~c", "~scheduler"]) == [
        "--config-dir=/home/größe/own",
        'dataset.source.root="/home/größe/parts"',
        'a="b~c"',
        "~scheduler",
    ]


@pytest.mark.parametrize(
    "argv",
    [["-m", "seed=0,1", "head=a"], ["seed=0,1", "-m", "head=a"], ["seed=0,1", "head=a", "--multirun"]],
)
def test_options_may_stand_anywhere(argv):
    assert for_hydra(argv) == ["--multirun", "seed=0,1", "head=a"]


def test_options_with_a_value_take_it_wherever_they_stand():
    for option in (["--cfg", "job"], ["--info=config"]):
        given = ["seed=1", *option, "-cd", "own"]
        assert for_hydra(given) == [*sorted(["=".join(option), "--config-dir=own"]), "seed=1"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--seed", "3"], "--seed is no option: settings have no dashes; write seed=VALUE"),
        (["--head=arcface"], "--head=arcface is no option: settings have no dashes; write head=arcface"),
        (["--optimizer.lr=1"], "write optimizer.lr=1"),
        (
            ["--multi", "seed=1"],
            "--multi is no option of a training command (settings have no dashes, as in seed=3); did you mean",
        ),
        (["seed=1", "-x"], "-x is no option of a training command (settings have no dashes, as in seed=3); allowed: "),
        (["--config-dir"], "--config-dir/-cd: expected one argument"),
        (["--lr=0.1"], "--lr=0.1 is no option: settings have no dashes; write optimizer.lr=0.1"),
        (["–m", "seed=0,1"], "cannot be read as a setting: options begin with plain hyphens, as in --multirun"),
        (["evaluate"], "evaluate cannot be read as a setting: write KEY=VALUE, such as seed=3"),
        (["seed:3"], "seed:3 cannot be read as a setting: write seed=3"),
        (["dataset..normal=[7]"], "a key is made of names with dots between"),
        (["batch_size=${image_size"], "a ${ is not closed by }"),
        (["dataset.normal=[7"], "a bracket or quote is not closed"),
        (["~head"], "'~head' removes a part that every run needs; choose another by head=NAME"),
        (["~head=adacos"], "'~head=adacos' removes a part that every run needs; choose another by head=NAME"),
        (["~seed"], "'~seed' removes a setting that every run has; set it instead, as in seed=0"),
        (["~dataset.normal"], "set it instead, as in dataset.normal=VALUE"),
        (["~evaluation"], "removes settings that every run has; set them, as in evaluation.NAME=VALUE"),
        (["~dataset.source"], "set them, as in dataset.source.NAME=VALUE"),
        (["-m", "seed=range(1000000000000)"], "seed=range(1000000000000)' makes a sweep of 1,000,000,000,000 runs"),
        (
            ["-m", "seed=range(1000)", "scorer.k=range(1,1000)"],
            "makes a sweep of 999,000 runs, and one command makes",
        ),
        (["-m", "a=range(0,1,1e-12)"], "makes a sweep of 1,000,000,000,000 runs"),
    ],
)
def test_arguments_that_cannot_be_followed_are_refused_in_one_line(argv, says):
    with pytest.raises(InputError) as error:
        for_hydra(argv)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$"), min_size=1))
def test_a_setting_that_is_advised_can_be_pasted(text):
    (word,) = shlex.split(quoting.setting("dataset.source.root", text))
    read = value(word)
    assert getattr(read, "text", read) == text
    (word,) = shlex.split(quoting.setting("dataset.normal", [text, "b"]))
    read = value(word)
    assert [getattr(item, "text", item) for item in read] == [text, "b"]


@pytest.mark.parametrize(
    ("text", "pasted"),
    [
        ("{pattern: '(?P<n>\\d+)', gap: 60}", "\"{pattern: '(?P<n>\\d+)', gap: 60}\""),
        ("it's $HOME", "'it'\"'\"'s $HOME'"),
        ("a b", "'a b'"),
        ("plain", "plain"),
    ],
)
def test_an_argument_is_quoted_so_that_people_can_read_it(text, pasted):
    assert quoting.argument(text) == pasted


@given(text=st.text(alphabet="a'\"\\ $`!{}\n*d", min_size=1))
def test_a_shell_reads_a_quoted_argument_as_it_was(text):
    assert shlex.split(quoting.argument(text)) == [text]


def test_plain_settings_are_advised_without_quotes():
    assert quoting.setting("ckpt_path", Path("a/b-1.2/last.ckpt")) == "ckpt_path=a/b-1.2/last.ckpt"
    assert quoting.setting("dataset.test_share", 0.5) == "dataset.test_share=0.5"
    assert quoting.setting("image_size", None) == "image_size=null"
    assert quoting.setting("ckpt_path", "a=b/last.ckpt") == """'ckpt_path="a=b/last.ckpt"'"""


def test_a_sweep_may_be_named_by_its_group():
    assert for_hydra(["-m", "sweep=2026_11", "seed=1"]) == ["--multirun", "sweep.name='2026_11'", "seed=1"]
    assert for_hydra(["+sweep.name=true", "sweep=null"]) == ["+sweep.name='true'", "sweep.name=null"]
    with pytest.raises(InputError, match=r"sweep=a/b must be a folder's name"):
        for_hydra(["sweep=a/b"])
