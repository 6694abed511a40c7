"""Sweeps: what stands how before it begins, what is shown meanwhile, and each process's share of the machine."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import faiss
import joblib
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import OmegaConf
from rich.console import Console

from metrad.errors import HeldError, InputError
from metrad.files import write_json
from metrad.runs.directory import Run
from metrad.runs.identity import differences, identity
from metrad.runs.naming import sweep_name
from metrad.sweeps import plan as sweep_plan
from metrad.sweeps import view as sweep_view
from metrad.sweeps import workers
from metrad.sweeps.plan import Ended, Job
from metrad.sweeps.view import View

HOLD = """
import sys, time
from metrad.runs.directory import Run
with Run(sys.argv[1]).held():
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def config():
    return OmegaConf.create(
        {
            "seed": 0,
            "paths": {"data": "${oc.env:METRAD_NOWHERE,data}"},
            "dataset": {"source": {"root": "${paths.data}"}, "workers": 2},
            "trainer": {"precision": "auto", "max_epochs": 3},
            "logger": {"save": 1},
            "hydra": {"anything": "${no.such.key}"},
        }
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paths.data", "/elsewhere"),
        ("trainer.precision", "32-true"),
        ("dataset.workers", 0),
        ("logger.save", 2),
        ("compile", False),
    ],
)
def test_where_and_how_a_run_is_made_is_no_part_of_its_identity(key, value, config):
    other = config.copy()
    OmegaConf.update(other, key, value)
    assert identity(other) == identity(config)
    assert differences(config, other) == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed", 1, "seed is 0 and not 1"),
        ("trainer.max_epochs", 4, "trainer.max_epochs is 3 and not 4"),
        ("dataset.source.root", "data2", "dataset.source.root is data and not data2"),
        ("head", {"margin": 0.5}, "head.margin is not set and not 0.5"),
    ],
)
def test_every_other_setting_is(key, value, told, config):
    other = config.copy()
    OmegaConf.update(other, key, value, force_add=True)
    assert identity(other) != identity(config)
    assert differences(config, other) == [told]


@pytest.mark.parametrize("name", ["heads", "a.b-c_d+e", "1"])
def test_a_sweep_is_called_what_it_is_named_or_by_its_time(name):
    assert sweep_name(name, "now") == name
    assert sweep_name(None, "now") == "now"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "ü" * 3, "a" * 101])
def test_names_that_are_no_folder_are_refused(name):
    with pytest.raises(InputError, match="folder's name"):
        sweep_name(name, "now")


def make(path: Path, state: str | None, **entries: object) -> Run:
    run = Run(path)
    path.mkdir(parents=True)
    if state:
        write_json(run.status, {"state": state, **entries})
    return run


@pytest.fixture
def held(tmp_path):
    """Return a run that another process holds."""
    run = make(tmp_path / "held", "running")
    process = subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield run, process
    process.kill()
    process.communicate()


def test_a_run_is_running_as_long_as_its_process_lives(held):
    run, process = held
    assert (run.state, run.is_held()) == ("running", True)
    with pytest.raises(HeldError, match="another process"), run.held():
        pass
    process.kill()
    process.wait()
    assert (run.state, run.is_held()) == ("interrupted", False)
    with run.held():
        assert run.state == "interrupted"  # to the one who holds it now


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"'])
def test_a_half_written_status_counts_as_none(content, tmp_path):
    run = make(tmp_path / "x", None)
    run.status.write_text(content)
    assert run.state == "new"


def test_clearing_keeps_what_training_goes_on_from(tmp_path):
    run = make(tmp_path / "x", "interrupted")
    run.checkpoints.mkdir()
    parts = [folder / f".{name}.7.partial" for folder, name in ((run.path, "roc.png"), (run.checkpoints, "last.ckpt"))]
    others = (run.metrics, run.pictures["roc"], run.path / "mine.txt", *parts)
    for path in (run.last_checkpoint, run.split, run.log, *others):
        path.touch()
    run.clear(keep_training=True)
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "mine.txt", "run.log", "split.json"]
    assert list(run.checkpoints.iterdir()) == [run.last_checkpoint]
    run.clear(keep_training=False)
    assert [path.name for path in run.path.iterdir()] == ["mine.txt"]


def test_clearing_keeps_what_a_selection_found(tmp_path):
    run = make(tmp_path / "x", "interrupted")
    run.selection.mkdir()
    found, partial = run.selection / "0-3.json", run.selection / ".0-4.json.7.partial.json"
    for path in (found, partial, run.log, run.selection_table, run.pictures["selection"]):
        path.touch()
    run.clear(keep_training=False, keep_selection=True)
    assert sorted(path.name for path in run.path.iterdir()) == ["run.log", "selection"]
    assert list(run.selection.iterdir()) == [found]
    run.clear(keep_training=False)
    assert list(run.path.iterdir()) == []


def test_a_plan_tells_how_runs_stand_and_leaves_out_those_that_need_nothing(tmp_path, config, held, caplog):
    alike = {"identity": identity(config)}
    states = {"a": "finished", "b": "interrupted", "c": "running", "d": "failed", "e": None}
    runs = [make(tmp_path / name, state, **alike) for name, state in states.items()]
    runs += [make(tmp_path / "f", "finished", identity="another"), held[0]]
    for run in runs:
        write_json(run.metrics, {"auroc": 0.9})
    sweep = sweep_plan.Sweep(tmp_path)
    with caplog.at_level("INFO"):
        todo = sweep_plan.plan(sweep, [Job(i, run, config) for i, run in enumerate(runs)])
    assert sweep.runs == runs
    assert [job.run.path.name for job in todo] == ["b", "c", "d", "e", "f"]
    told = [
        "1 finished",
        "1 being trained by another process",
        "2 interrupted, to go on",
        "1 failed, to be tried again",
    ]
    told += ["1 to begin", "1 made with other settings"]
    assert f"sweep of 7 runs in {tmp_path}: {', '.join(told)}" in caplog.text


def test_a_finished_run_without_metrics_is_made_again(tmp_path, config):
    job = Job(0, make(tmp_path / "a", "finished", identity=identity(config)), config)
    assert sweep_plan.plan(sweep_plan.Sweep(tmp_path), [job]) == [job]


def test_a_run_is_given_up_when_a_second_process_dies_of_it(tmp_path, config, monkeypatch):
    deaths = []

    def killed(tasks):
        for task in tasks:
            deaths.append(task)
            raise TerminatedWorkerError
        yield

    monkeypatch.setattr(joblib, "Parallel", lambda **_: killed)
    (ended,) = workers.side_by_side([Job(0, make(tmp_path / "a", "interrupted"), config)], print, 1)
    assert (ended.state, len(deaths)) == ("failed", 2)


def shown(view: View) -> list[str]:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(view.picture())
    return capture.get().splitlines()


def test_the_view_shows_how_far_a_run_is_that_chooses_its_epochs(tmp_path):
    run = make(tmp_path / "a", None)
    view = View([run], [run])
    run.note(state="running", training=2, trainings=5)
    assert shown(view)[1].split() == ["a", "choosing:", "training", "3/4"]
    run.note(training=4)
    assert shown(view)[1].split() == ["a", "getting", "ready"]
    run.note(epoch=1, epochs=2)
    assert shown(view)[1].split() == ["a", "epoch", "1/2"]
    assert sweep_view._share(run.noted()) == (4 + 1 / 2) / 5


def test_the_view_shows_runs_epochs_and_the_time_left(tmp_path, monkeypatch, capsys):
    now = 1000.0
    monkeypatch.setattr("metrad.sweeps.view.time", SimpleNamespace(monotonic=lambda: now))
    runs = [make(tmp_path / name, state) for name, state in zip("abcd", ["finished", None, None, None], strict=True)]
    view = View(runs, runs[1:])
    assert " ".join(shown(view)[0].split()[1:]) == "0 finished 0 running 0 failed 1 skipped"
    runs[1].note(state="running", epoch=1, epochs=4)
    runs[2].note(state="running")
    lines = shown(view)
    assert lines[0].split()[1:] == ["0", "finished", "2", "running", "0", "failed", "1", "skipped"]
    assert lines[1].split() == ["b", "epoch", "1/4"]
    assert lines[2].split() == ["c", "getting", "ready"]
    now = 1060.0
    view.report(Ended(runs[1], "finished", "AUROC 1"))
    view.report(Ended(runs[2], "failed", "diverged"))
    # a minute for two runs, and one to come
    assert shown(view)[0].split()[1:] == [
        "1",
        "finished",
        "0",
        "running",
        "1",
        "failed",
        "1",
        "skipped",
        "0:00:30",
        "left",
    ]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("2/4 b: AUROC 1\n", "3/4 failed: diverged; c\n")


@pytest.fixture
def _machine(monkeypatch):
    threads, searching = torch.get_num_threads(), faiss.omp_get_max_threads()
    monkeypatch.setattr(workers, "_devices", [])
    yield
    for lock in workers._devices:
        lock.release()
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(searching)


@pytest.mark.usefixtures("_machine")
def test_each_process_sees_one_gpu_until_all_are_taken(monkeypatch, tmp_path):
    taken = []
    for _ in range(4):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
        monkeypatch.setattr(workers, "_devices", own := [])
        workers.Share(2, 3, tmp_path / "locks").take()
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
        workers.Share(2, 3, tmp_path / "locks").take()  # the next run of the same process
        assert os.environ["CUDA_VISIBLE_DEVICES"] == taken[-1]
        monkeypatch.setattr(workers, "_kept", [*getattr(workers, "_kept", []), own], raising=False)
    assert taken == ["5", "7", "5", "7"]
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (3, 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setattr(workers, "_devices", [])
    # With all of them taken, a process waits until another gives its own back.
    monkeypatch.setattr(workers.time, "sleep", lambda seconds: workers._kept[1][0].release())
    workers.Share(2, 3, tmp_path / "locks").take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    for own in workers._kept:
        own[0].release()


@pytest.mark.usefixtures("_machine")
def test_without_a_gpu_only_threads_are_shared(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    workers.Share(1, 2, tmp_path / "locks").take()
    assert not (tmp_path / "locks").exists()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("given", "threads", "crowded"), [(None, 2, False), ("1", 1, False), ("4", 4, True)])
def test_runs_side_by_side_have_the_threads_that_a_run_by_itself_is_given(given, threads, crowded, monkeypatch):
    shares = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(workers, "cores", lambda: 4)
    monkeypatch.setattr(workers, "side_by_side", lambda jobs, worker, processes: shares.append(worker.share) or [])
    assert list(workers.make_all([None, None], None, Path("locks"), n_jobs=2, jobs_per_gpu=1)) == []
    assert [(share.threads, share.crowded) for share in shares] == [(threads, crowded)]


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize("crowded", [False, True])
def test_threads_wait_passively_where_there_are_more_than_cores(crowded, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    workers.Share(1, 1, tmp_path / "locks", crowded=crowded).take()
    assert os.environ.get("OMP_WAIT_POLICY") == ("passive" if crowded else None)


def test_gpus_are_counted_where_none_are_chosen(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(workers, "GPU_DEVICES", ("null",))
    assert workers.visible_gpus() == ["0", "1", "2"]
    monkeypatch.setattr(workers, "GPU_DEVICES", ("no-such-device*",))
    assert workers.visible_gpus() == ([] if sys.platform == "linux" else ["0", "1", "2"])
