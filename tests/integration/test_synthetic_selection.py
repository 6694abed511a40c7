"""A recipe chosen with synthetic defects: by good images alone, seeded, and untouched by what may not feed it."""

import numpy as np
import pytest
from PIL import Image

from metrad.app import cli
from metrad.data.sources import Digits
from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.commands import DIGITS, isolated
from tests.helpers.runs import rows

GOOD = [*DIGITS, "dataset.reference=[]", "dataset.anomalous=[]", "trainer.max_epochs=0"]
CHOOSING = [
    "selection=synthetic",
    "selection.folds=2",
    "selection.defects=[scar,cutpaste]",
    "selection.candidates=[{}, {test_time_flip: true}, {whiten: true}]",
]


@pytest.fixture(scope="module")
def chosen(once) -> Run:
    """Return a finished run of good images alone, which chose among three candidates."""

    def make(folder):
        with isolated(folder):
            cli.train([*GOOD, *CHOOSING, f"hydra.run.dir={folder / 'run'}"])

    return Run(once("synthetic", make) / "run")


def test_each_candidate_has_a_row_for_each_fold_and_the_best_mean_is_taken(chosen):
    found, figures = rows(chosen.selection_table), read_json(chosen.metrics)["selection"]
    scorers = dict.fromkeys(row["scorer"] for row in found)
    expected = [(c, h, s) for c in "012" for h in ("fold 1 of 2", "fold 2 of 2") for s in scorers]
    assert [(row["candidate"], row["held_out"], row["scorer"]) for row in found] == expected
    means = {
        (c, s): np.mean([float(row["auroc"]) for row in found if (row["candidate"], row["scorer"]) == (c, s)])
        for c in "012"
        for s in scorers
    }
    assert figures["synthetic_auroc"] == pytest.approx(max(means.values()))
    candidate = max(means, key=means.get)[0]
    assert figures["settings"] == [{}, {"test_time_flip": True}, {"whiten": True}][int(candidate)]
    assert chosen.load_config().test_time_flip == ("test_time_flip" in figures["settings"])
    assert max(means.values()) > 0.5


def test_the_defects_are_shown(chosen):
    for name in ("synthetic", "selection"):
        with Image.open(chosen.pictures[name]) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_neither_test_nor_calibration_images_feed_the_choice(chosen, train, monkeypatch):
    split = read_json(chosen.split)["images"]
    poisoned = [int(name) for role in ("calibration", "test_normal") for name in split[role]]
    made = Digits.__init__

    def poison(self):
        made(self)
        noise = np.random.default_rng(0).integers(0, 256, (len(poisoned), *self.pixels.shape[1:]), dtype=np.uint8)
        self.pixels[poisoned] = noise

    monkeypatch.setattr(Digits, "__init__", poison)
    run = train(*GOOD, *CHOOSING)
    assert read_json(run.split)["images"] == split
    assert run.selection_table.read_bytes() == chosen.selection_table.read_bytes()
    assert run.scores.read_bytes() != chosen.scores.read_bytes()


def test_a_list_is_a_choice_like_any_other(train):
    candidates = "selection.candidates=[{finetuning.ema: 0.9}, {backbone.channels: [4, 8]}]"
    run = train(*GOOD, "selection=synthetic", "selection.folds=2", "selection.defects=[scar]", candidates)
    assert read_json(run.metrics)["selection"]["recipes"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["selection.defects=[crack]"], ("selection.defects", "cutpaste, scar, blended_patch or blended_texture")),
        (["selection.defects=[scar,scar]"], ("selection.defects", "different kinds")),
        (["selection.folds=1"], ("selection.folds",)),
        (["selection.folds=100", "dataset.sizes.normal=20"], ("selection.folds=100", "there are 20; lower it")),
    ],
)
def test_what_cannot_be_held_out_is_refused_in_one_line(settings, words, turned_down):
    turned_down(*GOOD, "selection=synthetic", *settings, words=words)
