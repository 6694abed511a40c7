"""A sweep in a folder of somebody else's removes and replaces nothing; what a run writes follows the umask."""

import os
import stat

import pytest

from metrad.app.evaluate import evaluate_run
from metrad.errors import InputError
from metrad.files import write_json
from metrad.runs.claim import claim
from metrad.runs.directory import Run
from metrad.sweeps.plan import require_own
from tests.helpers.commands import composed, demo, isolated

NAMES = (
    "model/weights.bin",
    "embeddings/a",
    "checkpoints/b",
    "logs/c",
    "selection/d",
    "evaluations/e",
    ".hydra/f.yaml",
)
FILES = ("metrics.json", "scores.csv", "split.json", "environment.json", "run.log", "roc.png", "manifest.json")
STATUSES = (None, "{}", '{"state": "done"}', '{"state": "running"}', "[1]", "torn")
UMASKS = [0o002, *(pytest.param(umask, marks=pytest.mark.long) for umask in (0o022, 0o077))]


@pytest.fixture(scope="session")
def cfg():
    return composed("experiment=demo")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", [*NAMES, *FILES])
def test_a_sweep_removes_no_file_that_metrad_did_not_write(name, status, cfg, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    if status:
        (tmp_path / "status.json").write_text(status)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"nothing there says that metrad wrote them; choose another folder"):
        claim(Run(tmp_path), cfg, sweeping=True)
    assert contents(tmp_path) == before


def test_a_status_of_another_program_is_not_replaced(cfg, tmp_path):
    (tmp_path / "status.json").write_text('{"state": "running"}')
    with pytest.raises(InputError, match=r"holds status\.json"):
        claim(Run(tmp_path), cfg, sweeping=True)


def test_files_beside_a_run_stay_when_it_begins_anew(cfg, tmp_path):
    run = Run(tmp_path)
    run.begin(identity="0" * 32)
    write_json(run.status, {**run.noted(), "state": "failed"})
    run.model.mkdir()
    mine = {"mine.txt", ".mine.partial", ".mine.1.partial.txt"}
    for name in (*mine, ".metrics.json.1.partial.json"):
        (tmp_path / name).write_text("mine")
    claim(run, cfg, sweeping=True)
    assert {path.name for path in tmp_path.iterdir()} == {*mine, "status.json"}


@pytest.mark.parametrize("name", ["model", "checkpoints", "logs", "scores.csv", "selection"])
def test_a_link_below_a_failed_run_is_removed_and_what_it_leads_to_stays(name, cfg, tmp_path):
    run, mine = Run(tmp_path / "run"), tmp_path / "mine"
    mine.mkdir()
    for kept in ("weights.bin", ".last.ckpt.1.partial.ckpt"):
        (mine / kept).write_text("mine")
    before = contents(mine)
    run.begin(identity="0" * 32)
    write_json(run.status, {**run.noted(), "state": "failed"})
    (run.path / name).symlink_to(mine)
    assert not claim(run, cfg, sweeping=True).finished
    assert [path.name for path in run.path.iterdir()] == ["status.json"]
    assert contents(mine) == before


def test_a_run_whose_status_was_torn_by_a_crash_begins_anew(cfg, tmp_path):
    run = Run(tmp_path)
    whole = composed("experiment=demo", hydra=True)
    run.save_config(cfg, whole)
    run.status.write_bytes(b"")
    assert not claim(run, cfg, sweeping=True).finished
    assert run.noted()["state"] == "running"


@pytest.mark.parametrize("name", ["multirun.yaml", "runs.csv"])
def test_a_sweep_replaces_no_table_or_configuration_of_another_program(name, tmp_path):
    (tmp_path / name).write_text("mine: 1\n")
    with pytest.raises(InputError, match=f"holds {name}"):
        require_own(tmp_path)
    (tmp_path / "multirun.yaml").write_text("hydra: {job: {name: metrad}}\n")
    require_own(tmp_path)


def test_a_lock_that_is_a_link_or_a_fifo_is_not_opened(tmp_path):
    run = Run(tmp_path / "run")
    run.begin()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run.lock.symlink_to(victim)
    assert run.state == "interrupted"
    run.lock.unlink()
    os.mkfifo(run.lock)
    assert run.state == "interrupted"
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("umask", UMASKS, ids=oct)
def test_every_file_of_a_run_follows_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        demo(tmp_path)
        with isolated(tmp_path):
            evaluate_run(tmp_path / "run", ["scorer=lof"])
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.name != ".lock"}
    wrong = [str(path) for path, mode in modes.items() if mode != (0o777 if path.is_dir() else 0o666) & ~umask]
    assert wrong == []


@pytest.mark.parametrize("status", [{"state": "running", "started": "x"}, {"state": "failed", "identity": "mine"}])
def test_a_status_of_another_program_does_not_make_a_folder_metrads(tmp_path, status):
    run = Run(tmp_path)
    (run.checkpoints).mkdir()
    (run.checkpoints / "mine").write_text("1")
    write_json(run.status, status)
    with pytest.raises(InputError, match="nothing there says that metrad wrote them"):
        run.require_own()
    assert (run.checkpoints / "mine").exists()
