"""Choosing epochs, settings and scorer on reference classes: the run that it makes, and what may not feed it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from metrad.app import cli, select
from metrad.data.sources import Digits
from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.commands import DIGITS, isolated
from tests.helpers.runs import rows

ROOT = Path(__file__).parents[2]
CHOOSING = ["selection=pseudo_anomaly", "selection.classes=[0,3]", "trainer.max_epochs=2"]
TWO_RATES = "selection.candidates=[{optimizer.lr: 1e-3}, {optimizer.lr: 1e-2}]"


@pytest.fixture(scope="session")
def chosen(once) -> Run:
    """Return a finished run that chose among two learning rates, for tests that only read it."""

    def make(folder: Path) -> None:
        with isolated(folder):
            cli.train([*DIGITS, *CHOOSING, TWO_RATES, f"hydra.run.dir={folder / 'run'}"])

    return Run(once("chosen", make) / "run")


@pytest.fixture
def folds(monkeypatch) -> list[tuple[str, str]]:
    """What is trained to choose, one after the other."""
    trained, fold = [], select._fold

    def noting(parts, run):
        found = fold(parts, run)
        trained.append((f"optimizer.lr={parts.config.optimizer.lr}", parts.held_out))
        return found

    monkeypatch.setattr(select, "_fold", noting)
    return trained


def by_hand(run: Run, digits: list[str]) -> list[str]:
    """Return the overrides of the plain run that ``run`` chose to be."""
    cfg, figures = run.load_config(), read_json(run.metrics)["selection"]
    settings = [f"{key}={value}" for key, value in figures["settings"].items()]
    return [*digits, *settings, f"trainer.max_epochs={figures['epochs']}", *scorer_of(cfg)]


def scorer_of(cfg) -> list[str]:
    scorer = OmegaConf.to_container(cfg.scorer)
    name = {"KNN": "knn", "LocalKNN": "local_knn"}[scorer.pop("_target_").rpartition(".")[2]]
    return [f"scorer={name}", *(f"scorer.{key}={'null' if value is None else value}" for key, value in scorer.items())]


def assert_same(one: Run, two: Run) -> None:
    for part in ("embedder", "head", "scores", "split"):
        assert getattr(one, part).read_bytes() == getattr(two, part).read_bytes(), part


def test_the_table_has_each_candidate_class_epoch_and_scorer(chosen):
    found = rows(chosen.selection_table)
    assert list(found[0]) == ["candidate", "settings", "held_out", "epoch", "scorer", "auroc"]
    keys = [(row["candidate"], row["held_out"], row["epoch"], row["scorer"]) for row in found]
    scorers = ["scorer", "knn_5", "local_knn"]
    assert keys == [(c, h, e, s) for c in "01" for h in "03" for e in "012" for s in scorers]
    assert {row["settings"] for row in found} == {"optimizer.lr=0.001", "optimizer.lr=0.01"}
    assert all(0 <= float(row["auroc"]) <= 1 for row in found)
    with Image.open(chosen.pictures["selection"]) as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_metrics_tell_the_choice_and_its_time(chosen):
    metrics, found = read_json(chosen.metrics), rows(chosen.selection_table)
    figures = metrics["selection"]
    assert figures["held_out"] == ["0", "3"]
    assert figures["recipes"] == 18
    mean = np.mean(
        [
            float(row["auroc"])
            for row in found
            if (int(row["epoch"]), row["scorer"]) == (figures["epochs"], figures["scorer"])
            and row["settings"] == select.describe(figures["settings"])
        ]
    )
    assert figures["pseudo_anomaly_auroc"] == pytest.approx(mean)
    seconds = metrics["seconds"]
    assert 0 < seconds["select"] < seconds["total"]
    assert seconds["prepare"] > 0
    assert seconds["select"] == pytest.approx(
        sum(read_json(path)["seconds"] for path in chosen.selection.iterdir()), abs=1e-3
    )


def test_the_configuration_holds_the_choice_and_the_one_beside_it_what_was_asked(chosen):
    cfg, asked, figures = chosen.load_config(), chosen.asked_config(), read_json(chosen.metrics)["selection"]
    assert cfg.trainer.max_epochs == figures["epochs"]
    assert cfg.optimizer.lr == figures["settings"]["optimizer.lr"]
    assert (asked.trainer.max_epochs, asked.optimizer.lr) == (2, 1e-3)
    assert cfg.selection == asked.selection


def test_it_is_the_run_that_its_choice_given_by_hand_makes(chosen, train, digits):
    plain = train(*by_hand(chosen, digits))
    assert_same(chosen, plain)
    assert read_json(plain.metrics)["auroc"] == read_json(chosen.metrics)["auroc"]
    folders = [{path.relative_to(run.path).as_posix() for path in run.path.rglob("*")} for run in (plain, chosen)]
    new = {path for path in folders[1] - folders[0] if not path.startswith("selection/")}
    assert new == {"selection", "selection.csv", "selection.png", ".hydra/asked.yaml"}


def test_neither_test_nor_calibration_images_feed_the_choice(chosen, train, digits, monkeypatch):
    split = read_json(chosen.split)["images"]
    poisoned = [int(name) for role in ("calibration", "test_normal", "test_anomalous") for name in split[role]]
    made = Digits.__init__

    def poison(self):
        made(self)
        noise = np.random.default_rng(0).integers(0, 256, (len(poisoned), *self.pixels.shape[1:]), dtype=np.uint8)
        self.pixels[poisoned] = noise

    monkeypatch.setattr(Digits, "__init__", poison)
    run = train(*digits, *CHOOSING, TWO_RATES)
    assert read_json(run.split)["images"] == split
    assert run.selection_table.read_bytes() == chosen.selection_table.read_bytes()
    assert run.scores.read_bytes() != chosen.scores.read_bytes()


def test_it_can_tell_the_choice_and_train_as_configured(chosen, train, digits):
    told = train(*digits, *CHOOSING, TWO_RATES, "selection.apply=false", name="told")
    plain = train(*digits, "trainer.max_epochs=2", name="plain")
    assert_same(told, plain)
    assert told.selection_table.read_bytes() == chosen.selection_table.read_bytes()
    assert read_json(told.metrics)["selection"] == read_json(chosen.metrics)["selection"]
    assert told.load_config() == told.asked_config()


def test_without_training_the_scorer_is_chosen(train, digits):
    run = train(*digits, *CHOOSING, "trainer.max_epochs=0", "study.epochs=true", name="run")
    found = rows(run.selection_table)
    assert {(row["epoch"], row["scorer"]) for row in found} == {("0", s) for s in ("scorer", "knn_5", "local_knn")}
    assert_same(run, train(*by_hand(run, digits), name="plain"))


def test_a_head_is_among_the_scorers_where_it_is_trained(train, digits):
    run = train(*digits, *CHOOSING, "selection.classes=[3]", "+scorer@selection.scorers.head=head", "scorer=lof")
    found = rows(run.selection_table)
    assert [row["epoch"] for row in found if row["scorer"] == "head"] == ["1", "2"]
    assert {row["scorer"] for row in found} == {"scorer", "knn", "knn_5", "local_knn", "head"}


def test_a_scorer_that_needs_reference_images_is_among_the_scorers(train, digits):
    run = train(*digits, *CHOOSING, "trainer.max_epochs=1", "+scorer@selection.scorers.contrast=contrast")
    found = [row for row in rows(run.selection_table) if row["scorer"] == "contrast"]
    assert {(row["held_out"], row["epoch"]) for row in found} == {(name, e) for name in "03" for e in "01"}
    assert all(0 < float(row["auroc"]) <= 1 for row in found)


def test_with_a_scheduler_the_last_epoch_or_none_is_chosen(train, digits):
    run = train(*digits, *CHOOSING, "scheduler=cosine", "dataset.rotations=true", "dataset.normal=[7,5]")
    figures = read_json(run.metrics)["selection"]
    assert figures["epochs"] in (0, 2)
    assert figures["recipes"] == 2 * 3


def test_a_candidate_that_diverges_loses_and_stops_nothing(train, digits):
    candidates = "selection.candidates=[{optimizer.lr: 1e30}, {}]"
    run = train(*digits, *CHOOSING, candidates, "selection.classes=[3]", "head=softmax")
    found = [row for row in rows(run.selection_table) if row["candidate"] == "0"]
    assert {row["epoch"] for row in found if not row["auroc"]} >= {"2"}
    assert "later epochs of this training get no AUROC" in run.log.read_text()
    assert read_json(run.metrics)["selection"]["epochs"] in (0, 1, 2)


def interrupt(monkeypatch, owner, name: str, at: int) -> None:
    """Have the call ``at`` of a function end like one that Ctrl-C stops."""
    real, calls = getattr(owner, name), []

    def stopped(*given, **named):
        calls.append(given)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(owner, name, stopped)


SWEEP = ["train", "-m", *DIGITS, *CHOOSING, TWO_RATES, "sweep=x"]


def the_run(folder: Path) -> Run:
    (path,) = folder.glob("multirun/x/*/status.json")
    return Run(path.parent)


@pytest.mark.long
def test_a_choice_that_was_interrupted_goes_on_with_the_class_it_was_at(chosen, metrad, tmp_path, folds, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt(patched, select, "_fold", at=3)
        assert metrad(*SWEEP).code != 0
    run = the_run(tmp_path)
    kept = {path: path.read_bytes() for path in run.selection.iterdir()}
    assert (run.state, len(kept), len(folds)) == ("interrupted", 2, 2)
    broken = run.selection / "0-3.json"
    broken.write_bytes(kept.pop(broken)[:40])  # as by a machine that went down
    (run.selection / ".0-4.json.7.partial.json").touch()
    again = metrad(*SWEEP)
    assert (again.code, again.err) == (0, "")
    both = "optimizer.lr=0.001", "optimizer.lr=0.01"
    assert folds[2:] == [(both[0], "3"), (both[1], "0"), (both[1], "3")]
    assert {path: path.read_bytes() for path in kept} == kept
    assert sorted(path.name for path in run.selection.iterdir()) == ["0-0.json", "0-3.json", "1-0.json", "1-3.json"]
    assert run.selection_table.read_bytes() == chosen.selection_table.read_bytes()
    assert_same(run, chosen)
    seconds = read_json(run.metrics)["seconds"]
    assert seconds["select"] < seconds["total"]


@pytest.mark.long
def test_a_run_interrupted_after_its_choice_chooses_nothing_again(chosen, metrad, tmp_path, folds, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt(patched, sys.modules["metrad.app.fit"], "fit_and_embed", at=1)
        assert metrad(*SWEEP).code != 0
    run = the_run(tmp_path)
    assert (run.state, len(folds), run.asked.exists()) == ("interrupted", 4, True)
    again = metrad(*SWEEP)
    assert (again.code, again.err) == (0, "")
    assert len(folds) == 4
    assert run.selection_table.read_bytes() == chosen.selection_table.read_bytes()
    assert_same(run, chosen)
    assert run.asked_config().trainer.max_epochs == 2


@pytest.mark.long
def test_a_run_killed_while_it_chooses_goes_on(chosen, metrad, tmp_path, folds):
    command = [sys.executable, ROOT / "train.py", *SWEEP[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": environment}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) as process:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("multirun/x/*/selection/?-?.json")) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    before = len(list(the_run(tmp_path).selection.glob("?-?.json")))
    again = metrad(*SWEEP)
    assert (again.code, again.err) == (0, "")
    assert len(folds) == 4 - before
    assert_same(the_run(tmp_path), chosen)


@pytest.mark.long
def test_a_sweep_skips_runs_that_chose(metrad, digits, tmp_path, folds):
    sweep = ["train", "-m", *digits, *CHOOSING, "selection.classes=[3]", "trainer.max_epochs=1", "sweep=x"]
    first = metrad(*sweep, "seed=0,1")
    assert (first.code, first.err, len(folds)) == (0, "", 2)
    again = metrad(*sweep, "seed=0,1")
    assert (again.code, again.err, len(folds)) == (0, "", 2)
    assert "sweep of 2 runs in multirun/x: 2 finished" in again.out
    other = metrad(*sweep, "seed=0", "selection.candidates=[{optimizer.lr: 1e-2}]")
    assert (other.code, len(folds)) == (0, 3)
    assert len(list(tmp_path.glob("multirun/x/*/status.json"))) == 3


@pytest.mark.long
def test_a_choice_is_compared_with_none_evaluated_and_reported(metrad, digits, tmp_path):
    few = "dataset.reference=[0,1,2]"
    sweep = ["train", "-m", *digits, few, "selection=none,pseudo_anomaly", "seed=0,1", "sweep=x"]
    made = metrad(*sweep, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "study.epochs=true")
    assert (made.code, made.err) == (0, "")
    compared = metrad("compare", "multirun/x", "--by", "selection")
    assert (compared.code, compared.err) == (0, ""), compared.err
    assert "pseudo_anomaly" in compared.out
    runs = [Run(path.parent) for path in sorted(tmp_path.glob("multirun/x/*/selection.csv"))]
    assert len(runs) == 2
    evaluated = metrad("evaluate", runs[0].path, "scorer=lof")
    assert (evaluated.code, evaluated.err) == (0, "")
    columns = list(rows(runs[0].study)[0])
    own = read_json(runs[0].metrics)["selection"]["scorer"]
    others = {"scorer": "knn", "knn_5": "knn_5", "local_knn": "local_knn"}
    assert {name for name in columns if name.startswith("auroc ")} == {
        f"auroc {name}" for scorer, name in others.items() if scorer != own
    }
    reported = metrad("report", runs[0].path)
    assert (reported.code, reported.err) == (0, "")
    assert "AUROC after each epoch" in (runs[0].path / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["selection.candidates=[{optimizer.rl: 1}]"],
            ["selection.candidates", "unknown configuration key optimizer.rl"],
        ),
        (["selection.candidates=[{optimizer.lrr: 1}]"], ["optimizer.lrr; did you mean lr?"]),
        (["selection.candidates=foo"], ["selection.candidates must be a list, such as [A,B]"]),
        (["selection.candidates=[{},{}]"], ["selection.candidates lists {} twice"]),
        (["selection.apply=maybe"], ["selection.apply must be true or false, got maybe"]),
        (["+scorer@selection.scorers.scorer=lof"], ["selection.scorers.scorer cannot be set", "another name"]),
        (
            ["selection.scorers.knn_5.k=-3"],
            ["selection.scorers.knn_5", "k must be a whole number of at least 1, got -3"],
        ),
        (
            ["selection=none", "selection.apply=false"],
            ["selection.apply cannot be set: selection is null", "pseudo_anomaly"],
        ),
        (["selection.candidates=[{optimizer.lr: fast}]"], ["optimizer.lr", "fast"]),
        (["selection.candidates=[{dataset.test_share: 0.5}]"], ["dataset.test_share cannot be chosen"]),
        (["selection.candidates=[{scorer.k: 5}]"], ["scorer.k cannot be chosen"]),
        (["selection.candidates=[{trainer.max_epochs: -1}]"], ["trainer.max_epochs", "between 0 and 100000", "-1"]),
        (["selection.candidates=[]"], ["selection.candidates must be a list of at least one"]),
        (["selection.candidates=[1]"], ["selection.candidates"]),
        (["selection.candidates=null"], ["selection.candidates"]),
        (["selection.classes=[9]"], ["selection.classes: 9 is no reference class"]),
        (["selection.classes=[7]"], ["selection.classes: 7 is no reference class"]),
        (["selection.classes=[boot]"], ["selection.classes: no class 'boot'"]),
        (["selection.classes=[3,3]"], ["selection.classes lists 3 twice"]),
        (["selection.classes=0"], ["selection.classes must be", "got 0"]),
        (["selection.classes=-1"], ["selection.classes must be", "got -1"]),
        (["selection.classes=9"], ["selection.classes=9", "8 reference classes"]),
        (["dataset.reference=[]"], ["selection: there are no reference images", "dataset.reference", "selection=none"]),
        (["selection.normal_share=1"], ["selection.normal_share must be above 0 and below 1"]),
        (["selection.normal_share=many"], ["selection.normal_share"]),
        (["selection.scorers.knn_5.k=70", "dataset.sizes.normal=80"], ["selection.scorers.knn_5", "70", "80", "64"]),
        (["dataset.sizes.normal=1"], ["selection: ", "no normal images"]),
        (
            ["scorer=contrast", "scorer.k=20", "dataset.sizes.reference=20"],
            ["selection: scorer: ", "scorer.k=20", "as few"],
        ),
        (["dataset.reference=[0,3]"], ["selection, with stand-in 0: ", "AdaCos"]),
        (["trainer.max_epochs=0", "scorer=head"], ["scorer=head asks the trained head"]),
        (["dataset.reference=[3]", "head=arcface", "scorer=head"], ["selection: scorer=head", "only reference class"]),
        (["selection.candidates=[{whiten: true}]", "+scorer@selection.scorers.head=head"], ["scorer=head", "whitened"]),
        (["trainer.max_epochs=null"], ["trainer.max_epochs", "between 0 and 100000"]),
        (["trainer.max_epochs=-1"], ["trainer.max_epochs", "between 0 and 100000"]),
        (["+selection.scorers.mine={k: 3}"], ["selection.scorers.mine", "+scorer@selection.scorers.mine=knn"]),
        (["selection.scorers.knn.kk=3"], ["selection.scorers.knn.kk"]),
        (["selection.classs=3"], ["selection.classs", "classes"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else "",
)
def test_what_cannot_be_done_is_told_in_a_line(overrides, words, turned_down, digits):
    turned_down(*digits, "selection=pseudo_anomaly", *overrides, words=tuple(words))
