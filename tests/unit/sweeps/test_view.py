"""The live view of a sweep, read from the screen of a terminal."""

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning.callbacks import RichProgressBar

from metrad import progress
from metrad.app.build import build_trainer
from metrad.app.pace import Pace
from metrad.app.train import expected_warnings
from metrad.runs.directory import Run
from metrad.sweeps import batch, view
from metrad.sweeps.plan import Ended, Job, Sweep
from metrad.sweeps.view import View
from tests.helpers.commands import composed
from tests.helpers.screen import terminal

PACE = Pace("32-true", "", {}, compiled=False, compile_reason="")
LONG = "AUROC 0.9956 (0.978 to 0.999), average precision 0.9958, FPR at 95 % TPR 0.0250, " + "x" * 60 + " 6 s"


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(view, "REFRESH", 0.05)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [Run(tmp_path / f"adacos-digits-{seed}") for seed in range(4)]
    for run in made:
        run.path.mkdir()
    return made


def make(runs, each, monkeypatch):
    """Make the runs of a sweep, each by calling ``each`` while its status says that it runs."""
    monkeypatch.setattr(batch, "plan", lambda sweep, jobs: jobs)

    def make_all(jobs):
        for job in jobs:
            with job.run.held():
                job.run.begin(epoch=1, epochs=3)
                each(job.run)
            state = "failed" if job.number == 2 else "finished"
            job.run.note(state=state)
            yield Ended(job.run, state, LONG if state == "finished" else "the loss became nan")

    batch.make(Sweep(), [Job(i, run, None) for i, run in enumerate(runs)], make_all, fail_fast=False)


def print_in_every_way(run):
    print(f"printed by {run.path.name}")
    print("to stderr", file=sys.stderr)
    subprocess.run([sys.executable, "-S", "-c", "print('of a process')"], check=True)
    logging.getLogger("lightning").error("logged")
    for _ in progress.bar(range(3), "bar"):
        pass


@pytest.mark.parametrize("columns", [40, 100, 300])
def test_the_line_of_each_run_stands_alone_and_in_full(runs, columns, monkeypatch):
    with terminal(columns) as screen:
        make(runs, lambda run: screen.waits_for(lambda lines: run.path.name in "".join(lines[-2:])), monkeypatch)
        print("the end")
        lines = screen.waits_for(lambda lines: lines[-1:] == ["the end"])
    text = "".join(line.ljust(columns) if len(line) < columns - 1 else line for line in lines)
    assert [text.count(f"{i + 1}/4 {run.path.name}: {LONG}") for i, run in enumerate(runs)] == [1, 1, 0, 1]
    assert text.count("3/4 failed: the loss became nan; adacos-digits-2") == 1
    assert len([line for line in lines if line.startswith(tuple("1234"))]) == 4
    assert not [line for line in lines if "━" in line or "epoch 1/3" in line]


def test_the_view_shows_counts_epochs_and_the_time_that_is_left(runs, monkeypatch):
    seen = []

    def look(run):
        found = screen.waits_for(lambda lines: lines and "epoch 1/3" in lines[-1] and run.path.name in lines[-1])
        seen.append(found[-2:])

    with terminal() as screen:
        make(runs, look, monkeypatch)
    assert "0 finished  1 running  0 failed  0 skipped" in seen[0][0]
    assert "left" not in seen[0][0]
    assert "2 finished  1 running  1 failed  0 skipped" in seen[3][0]
    assert "left" in seen[3][0]
    assert seen[3][1].split() == ["adacos-digits-3", "epoch", "1/3"]


def test_what_runs_print_stands_above_the_view_and_no_bar_among_it(runs, monkeypatch):
    with terminal() as screen:
        handler = logging.StreamHandler(sys.stdout)  # made before the sweep, as Hydra's
        monkeypatch.setattr(logging.getLogger("lightning"), "handlers", [handler])
        make(runs, print_in_every_way, monkeypatch)
        print("the end")
        lines = screen.waits_for(lambda lines: lines[-1:] == ["the end"])
    for line, count in [
        ("to stderr", 4),
        ("of a process", 4),
        ("logged", 4),
        *((f"printed by {run.path.name}", 1) for run in runs),
    ]:
        assert lines.count(line) == count, lines
    assert not [line for line in lines if "bar" in line or "it/s" in line]


def test_a_line_is_passed_on_while_its_run_goes_on(runs, monkeypatch):
    def talk(run):
        print("so far so good")
        screen.waits_for(lambda lines: "so far so good" in lines)

    with terminal() as screen:
        make(runs[:1], talk, monkeypatch)


def test_errors_that_are_sent_to_a_file_go_there(runs, tmp_path, monkeypatch):
    with terminal() as screen, (tmp_path / "errors").open("w") as file:
        os.dup2(file.fileno(), 2)
        with View(runs, runs) as shown:
            shown.report(Ended(runs[0], "failed", "no good"))
    assert "1/4 failed: no good" in (tmp_path / "errors").read_text()
    assert not [line for line in screen.lines() if "no good" in line]


@pytest.mark.parametrize("kind", ["dumb", None])
def test_a_terminal_without_a_cursor_gets_plain_lines(kind, runs, monkeypatch):
    monkeypatch.setenv("TERM", kind) if kind else monkeypatch.delenv("TERM")
    with terminal() as screen:
        make(runs, lambda run: None, monkeypatch)
        print("the end")
        lines = screen.waits_for(lambda lines: lines[-1:] == ["the end"])
    assert len([line for line in lines if line.startswith(tuple("1234"))]) == 4
    assert not [line for line in lines if "━" in line]


def test_everything_prints_to_the_terminal_again_after_an_error(runs):
    with terminal() as screen:
        with contextlib.suppress(KeyboardInterrupt), View(runs, runs):
            print("cut", end="")
            raise KeyboardInterrupt
        print("\nafter it")
        lines = screen.waits_for(lambda lines: lines[-1:] == ["after it"])
    assert "cut" in lines


@pytest.mark.parametrize("asked", ["auto", "true"])
def test_training_shows_no_bar_inside_a_sweep(asked, tmp_path):
    cfg = composed("experiment=demo", f"trainer.enable_progress_bar={asked}", "logger=none")
    with terminal(), expected_warnings():  # as where a trainer is built: Lightning warns where there is an srun
        shown = [build_trainer(cfg, Run(tmp_path), PACE).progress_bar_callback]
        with progress.hidden():
            shown.append(build_trainer(cfg, Run(tmp_path), PACE).progress_bar_callback)
    assert isinstance(shown[0], RichProgressBar)
    assert shown[1] is None


def test_where_nothing_is_shown_each_run_is_a_line(runs, capsys, monkeypatch):
    make(runs, lambda run: None, monkeypatch)
    said = capsys.readouterr()
    assert said.out.count("\n") == 3
    assert said.err == f"3/4 failed: the loss became nan; {Path(runs[2].path).name}\n"
