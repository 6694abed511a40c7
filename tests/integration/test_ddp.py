"""Runs on two ranks, processes on the CPU that talk over gloo, equal those of one process, and end together."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from metrad.files import read_json
from metrad.runs.directory import Run
from tests.helpers.commands import DIGITS, isolated
from tests.helpers.ranks import TWO, train_on_two_ranks
from tests.helpers.runs import rows
from tests.helpers.stored import limited

ROOT = Path(__file__).parents[2]
# 246 images make batches of 63, 63, 63 and 57, none of which divides by two.
UNEVEN = ["batch_size=63", "trainer.max_epochs=2"]
# Sums over ranks round differently. In float32 Adam makes that some 1e-4 of the weights in two epochs, as much as a
# small mistake would; in float64 it stays below 1e-9, which no mistake does.
EXACT = ["trainer.precision=64-true"]
TOLERANCE = 1e-9

PLANTED = """
import os, signal
from metrad.models.heads import AdaCos
from metrad import collectives

def end(how):
    if how == "raise":
        raise RuntimeError("planted\\nin two lines")
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)

class Planted(AdaCos):
    steps = 0

    def __init__(self, in_features: int, num_classes: int, *, how: str, sub_centers: int = 1) -> None:
        super().__init__(in_features, num_classes)
        self.how = how

    def training_logits(self, embeddings, labels):
        self.steps += 1
        if collectives.rank() == 1 and self.steps == 3:
            end(self.how)
        return super().training_logits(embeddings, labels)
"""


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def numbers(path: Path) -> np.ndarray:
    return np.array([[float(value) for value in row.values()] for row in rows(path)])


def assert_equal(one: Run, two: Run, tolerance: float = TOLERANCE) -> None:
    """Assert that two runs left the same files, and in them the same figures and weights."""
    assert files(one.path) == files(two.path)
    assert one.split.read_bytes() == two.split.read_bytes()
    np.testing.assert_allclose(numbers(one.epochs), numbers(two.epochs), rtol=tolerance, atol=tolerance)
    for part in ("embedder", "head"):
        expected, found = load_file(getattr(one, part)), load_file(getattr(two, part))
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=tolerance, err_msg=key)  # kept in float32
    expected, found = rows(one.scores), rows(two.scores)
    assert [row["image"] for row in expected] == [row["image"] for row in found]
    scores = [[float(row["score"]) for row in each] for each in (expected, found)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-6)  # cosines in float32 close to 1
    assert read_json(two.metrics)["auroc"] == pytest.approx(read_json(one.metrics)["auroc"], abs=1e-3)


def ranks_of(run: Run) -> int:
    return read_json(run.environment)["ranks"]


@pytest.fixture
def planted(tmp_path, monkeypatch) -> list[str]:
    """Overrides for a head in a module of its own that ends rank 1 in its third step."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "planted.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(folder)
    return ["head._target_=planted.Planted", "allow_targets=[planted]"]


@pytest.mark.long
def test_two_ranks_equal_one_process_inside_a_sweep_of_two_runs(metrad, tmp_path):
    sweep = ["-m", *DIGITS, *UNEVEN, *EXACT, "head=adacos_dynamic,curricularface"]
    one, two = metrad("train", *sweep, "sweep=one"), metrad("train", *sweep, *TWO, "sweep=two")
    assert (one.code, one.err) == (two.code, two.err) == (0, "")
    folders = {
        name: sorted(path.parent for path in tmp_path.glob(f"multirun/{name}/*/status.json")) for name in ("one", "two")
    }
    runs = [[Run.finished(path) for path in each] for each in folders.values()]
    assert [[ranks_of(run) for run in each] for each in runs] == [[1, 1], [2, 2]]
    for pair in zip(*runs, strict=True):
        assert_equal(*pair)
    assert {path.name for path in tmp_path.iterdir()} == {"multirun"}
    for name, each in folders.items():
        found = {path.name for path in tmp_path.glob(f"multirun/{name}/*")}
        assert found == {*(path.name for path in each), "multirun.yaml", "runs.csv"}


# What is trained on two ranks for the tests that only read it.
EQUAL = {
    "adacos_dynamic": [*UNEVEN, "head=adacos_dynamic"],
    "curricularface": [*UNEVEN, "head=curricularface"],
}
GOING_ON = ["batch_size=63", "head=adacos_dynamic", "study.epochs=true"]
AUGMENTED = [*UNEVEN, "augmentation=all"]
CHOOSING = ["selection=pseudo_anomaly", "selection.classes=[3]", "trainer.max_epochs=1"]
WHITENED = ["whiten=true", "trainer.max_epochs=0"]
HELD = [
    "finetuning.layer_decay=0.8",
    "finetuning.batch_norm=false",
    "finetuning.distillation=0.5",
    "finetuning.ema=0.9",
]


@pytest.fixture(scope="session")
def on_two_ranks(once) -> Callable[[str], Run]:
    """Return a finished run on two ranks by its name."""

    def make(folder: Path) -> None:
        half = Run(folder / "half")
        exact = {
            **EQUAL,
            "augmented": AUGMENTED,
            "again": AUGMENTED,
            "apart": [*UNEVEN, "trainer.sync_batchnorm=false"],
            half.path.name: [*GOING_ON, "trainer.max_epochs=1"],
            "resumed": [*GOING_ON, "trainer.max_epochs=2", f"ckpt_path={half.last_checkpoint}"],
            "chosen": CHOOSING,
        }
        runs = {name: [*DIGITS, *EXACT, *overrides] for name, overrides in exact.items()}
        with isolated(folder):
            train_on_two_ranks(folder, runs | {"whitened": [*DIGITS, *WHITENED], "held": [*DIGITS, *HELD]})

    return lambda name: Run.finished(once("two-ranks", make) / name)


@pytest.mark.long
@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_equal_one_process(name, on_two_ranks, train):
    one, two = train(*DIGITS, *EXACT, *EQUAL[name]), on_two_ranks(name)
    assert (ranks_of(one), ranks_of(two)) == (1, 2)
    assert_equal(one, two)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_ranks(on_two_ranks, train):
    whole = train(*DIGITS, *EXACT, *GOING_ON, "trainer.max_epochs=2")
    resumed = on_two_ranks("resumed")
    assert_equal(whole, resumed, 1e-6)  # Lightning reads a checkpoint into float32, whatever it is to become
    assert "going on after epoch 1 of 2" in resumed.log.read_text()
    studies = [np.genfromtxt(run.study, delimiter=",", names=True) for run in (whole, resumed)]
    assert studies[1]["epoch"].tolist() == [0, 1, 2]
    for figure in ("auroc", "effective_rank"):
        np.testing.assert_allclose(studies[1][figure], studies[0][figure], rtol=1e-3)


@pytest.mark.long
def test_augmentation_on_two_ranks_repeats_and_is_of_each_rank(on_two_ranks, train):
    one, two, again = train(*DIGITS, *EXACT, *AUGMENTED), on_two_ranks("augmented"), on_two_ranks("again")
    assert two.embedder.read_bytes() == again.embedder.read_bytes()
    assert np.abs(numbers(one.epochs) - numbers(two.epochs)).max() > 1e-4


@pytest.mark.long
def test_without_common_batch_statistics_two_ranks_differ(on_two_ranks, train):
    one, two = train(*DIGITS, *EXACT, *UNEVEN), on_two_ranks("apart")
    assert np.abs(numbers(one.epochs) - numbers(two.epochs)).max() > 1e-4
    assert read_json(two.metrics)["auroc"] == pytest.approx(read_json(one.metrics)["auroc"], abs=0.1)


@pytest.mark.long
def test_two_ranks_choose_as_one_process_does(on_two_ranks, train):
    one, two = train(*DIGITS, *EXACT, *CHOOSING), on_two_ranks("chosen")
    found, expected = rows(two.selection_table), rows(one.selection_table)
    assert [{**row, "auroc": ""} for row in found] == [{**row, "auroc": ""} for row in expected]
    aurocs = [[float(row["auroc"]) for row in each] for each in (found, expected)]
    np.testing.assert_allclose(*aurocs, atol=2e-3)  # sums over ranks round differently, and two images may swap places
    assert ranks_of(two) == 2
    assert (two.load_config().trainer.devices, two.asked.exists()) == (2, True)


def embeddings(run: Run) -> dict[str, np.ndarray]:
    return load_file(run.embeddings / "embeddings.safetensors")


@pytest.mark.long
def test_two_ranks_whiten_as_one_process_does(on_two_ranks, train):
    one, two = embeddings(train(*DIGITS, *WHITENED)), embeddings(on_two_ranks("whitened"))
    np.testing.assert_allclose(two["test_normal"], one["test_normal"], rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_two_ranks_hold_back_as_one_process_does(on_two_ranks, train):
    one, two = embeddings(train(*DIGITS, *HELD)), embeddings(on_two_ranks("held"))
    np.testing.assert_allclose(two["normal"], one["normal"], rtol=2e-2, atol=2e-3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "RuntimeError: planted in two lines"),
        ("exit", "it ended with code 7"),
        ("kill", "it was killed, as the system does for want of memory"),
    ],
)
def test_a_crash_of_one_rank_ends_all_with_its_error(how, words, metrad, planted, tmp_path):
    with limited(seconds=300):  # the other rank waits for this one for half an hour
        result = metrad("train", *DIGITS, *TWO, *planted, f"+head.how={how}", "hydra.run.dir=run")
    assert result.code == 2
    assert result.err == f"error: rank 1 of 2: {words}\n"
    status = read_json(tmp_path / "run/status.json")
    assert (status["state"], status["error"]) == ("failed", f"rank 1 of 2: {words}")
    assert ("planted.py" in (tmp_path / "run/run.log").read_text()) == (how == "raise")


@pytest.mark.long
def test_in_a_sweep_a_crash_of_one_rank_spoils_its_own_run_only(metrad, planted, tmp_path):
    crash = [*DIGITS, *TWO, *planted, "+head.how=raise", "trainer.max_steps=1,3", "sweep=s"]
    result = metrad("train", "-m", *crash)
    assert result.code == 1
    runs = [Run(path.parent) for path in tmp_path.glob("multirun/s/*/status.json")]
    assert {run.load_config().trainer.max_steps: run.state for run in runs} == {1: "finished", 3: "failed"}


@contextlib.contextmanager
def started(folder: Path, *command: str | Path):
    """Start Python in a process group of its own, as a shell does, and end whatever is left of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # of a job in the background it is ignored
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, start_new_session=True, **pipes)
    signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_when_a_run_is_stopped_all_its_ranks_end(number, tmp_path):
    endless = [*DIGITS, *TWO, "trainer.max_epochs=100000", "hydra.run.dir=run"]
    run = Run(tmp_path / "run")
    with started(tmp_path, ROOT / "train.py", *endless) as process:
        until = time.monotonic() + 100
        while not run.last_checkpoint.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does, to the ranks too
        else:
            process.kill()
        _, errors = process.communicate(timeout=30)
        assert process.returncode != 0
        assert "Traceback" not in errors
        until = time.monotonic() + 100
        while group_lives(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert not group_lives(process.pid)
    assert run.state == "interrupted"


def torchrun(*overrides: str | Path) -> list[str | Path]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", ROOT / "train.py", *overrides]


@pytest.mark.long
def test_processes_of_torchrun_are_taken_for_the_ranks_of_one_run(tmp_path, train):
    overrides = [*DIGITS, *UNEVEN, *EXACT]
    with started(tmp_path, *torchrun(*overrides, *TWO)) as process:
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (path,) = tmp_path.glob("outputs/*")
    assert [each.name for each in tmp_path.iterdir()] == ["outputs"]
    assert ranks_of(Run.finished(path)) == 2
    assert out.count("epoch 1/2") == out.count("AUROC") == 1
    assert_equal(train(*overrides, name="one"), Run(path))


@pytest.mark.long
def test_a_crash_of_one_rank_of_torchrun_ends_all(tmp_path, planted):
    crash = [*DIGITS, *TWO, *planted, "+head.how=raise", "hydra.run.dir=run"]
    environment = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment)
        with started(tmp_path, *torchrun(*crash)) as process:
            _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "planted" in errors
    assert Run(tmp_path / "run").state in ("failed", "interrupted")
