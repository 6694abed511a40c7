"""The run directory: claimed once, written whole, and honest about how it ended."""

import errno
import json
import logging
import os

import pytest
from filelock import FileLock
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import SIGTERMException

from metrad.errors import InputError, TrainingError, WriteError
from metrad.files import read_json, replacing, write_json, write_rows
from metrad.runs.directory import Run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "a run=ü")


def test_an_override_that_holds_an_interpolation_is_saved_as_it_was_given(run):
    given = ["seed=${batch_size}", "dataset.normal=[${nope}]"]
    run.save_config(OmegaConf.create({"seed": 0}), OmegaConf.create({"hydra": {"overrides": {"task": given}}}))
    assert OmegaConf.to_container(OmegaConf.load(run.overrides)) == given


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def end(run, error, work=lambda: None, *, keep_refused=False):
    run.claim()
    with run.recorded(keep_refused=keep_refused):
        work()
        raise error


def finish(run):
    run.claim()
    run.config.parent.mkdir()
    run.config.write_text("seed: 0\n")
    with run.recorded(keep_refused=False):
        pass
    return run


def test_a_directory_is_claimed_once(run):
    run.claim()
    before = run.status.read_bytes()
    with pytest.raises(InputError, match="holds a run already"):
        Run(run.path).claim()
    assert run.status.read_bytes() == before
    assert read_json(run.status)["state"] == "running"
    assert read_json(run.status)["pid"] == os.getpid()


def test_a_finished_run_stays_claimed(run):
    finish(run)
    with pytest.raises(InputError, match="holds a run already"):
        run.claim()
    assert read_json(run.status)["state"] == "finished"


def test_a_directory_with_files_of_a_run_is_not_claimed(run):
    run.path.mkdir()
    run.metrics.write_text("{}")
    with pytest.raises(InputError, match=r"holds metrics\.json already"):
        run.claim()
    assert not run.status.exists()


def test_the_identity_of_a_run_outlasts_its_end(run):
    run.claim(identity="abc")
    with run.recorded(keep_refused=False):
        pass
    assert (run.state, run.noted()["identity"]) == ("finished", "abc")


def test_a_claim_makes_parents(tmp_path):
    Run(tmp_path / "a/b/c").claim()
    assert (tmp_path / "a/b/c/status.json").is_file()


def write_half(target, error, *, folder=False):
    with replacing(target) as partial:
        assert partial.parent == target.parent
        assert partial.suffix == target.suffix  # writers choose the format by it
        if folder:
            partial.mkdir()
        (partial / "half" if folder else partial).write_text("half")
        raise error


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_replacing_leaves_nothing_after_an_error(folder, tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "scores.png", ZeroDivisionError(), folder=folder)
    assert names(tmp_path) == []


def test_replacing_keeps_the_old_file_after_an_error(tmp_path):
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target, KeyboardInterrupt())
    assert target.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


def test_replacing_puts_files_and_folders_in_place(tmp_path):
    (tmp_path / "metrics.json").write_text("old")
    with replacing(tmp_path / "metrics.json") as partial:
        partial.write_text("new")
        assert (tmp_path / "metrics.json").read_text() == "old"
    with replacing(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "weights").write_text("w")
    assert (tmp_path / "metrics.json").read_text() == "new"
    assert names(tmp_path) == ["metrics.json", "model", "model/weights"]


def test_write_json_is_all_or_nothing(tmp_path):
    write_json(tmp_path / "a.json", {"größe": [1, 2.5, None]})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == {"größe": [1, 2.5, None]}
    assert "größe" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert names(tmp_path) == ["a.json"]


def test_write_rows_quotes_what_must_be(tmp_path):
    write_rows(tmp_path / "a.csv", [{"image": 'a,"b"\nc', "score": 0.1}, {"image": "ü", "score": 1e-300}])
    assert (tmp_path / "a.csv").read_bytes() == 'image,score\n"a,""b""\nc",0.1\nü,1e-300\n'.encode()


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_read_json_names_the_file(content, tmp_path):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_finished_opens_a_finished_run(run):
    finish(run)
    assert Run.finished(run.path).path == run.path
    assert set(read_json(run.status)) == {"state", "started", "ended", "manifest"}


def test_finished_refuses_a_killed_run(run):
    run.claim()
    run.config.parent.mkdir()
    run.config.write_text("")
    with pytest.raises(InputError, match=r"interrupted, not finished; train it again"):
        Run.finished(run.path)
    run.checkpoints.mkdir()
    run.last_checkpoint.touch()
    with pytest.raises(InputError, match=r"interrupted, not finished; go on with 'ckpt_path=\".*last\.ckpt\"'"):
        Run.finished(run.path)


def test_finished_refuses_a_running_run(run):
    run.claim()
    run.config.parent.mkdir()
    run.config.write_text("")
    with run.held(), pytest.raises(InputError, match=r"running, not finished; wait for its end"):
        Run.finished(Run(run.path).path)


def test_a_file_that_changed_after_the_end_of_a_run_is_refused(run):
    finish(run)
    assert run.load_config() == {"seed": 0}
    run.config.write_text("seed: 1\n")
    with pytest.raises(InputError, match=r"config\.yaml is not the file that was saved: its checksum differs"):
        run.load_config()


def test_a_file_that_was_added_after_the_end_of_a_run_is_refused(run):
    finish(run)
    run.asked.write_text("seed: 1\n")
    with pytest.raises(InputError, match=r"asked\.yaml is not in manifest\.json"):
        run.asked_config()


def test_a_run_without_the_manifest_that_it_ended_with_is_refused(run):
    finish(run)
    run.manifest.unlink()
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        Run.finished(run.path)
    status = read_json(run.status)
    write_json(run.status, {key: value for key, value in status.items() if key != "manifest"})
    assert not Run.finished(run.path).verified  # as version 0.1 left it


@pytest.mark.parametrize("missing", ["status", "config", "both"])
def test_finished_refuses_what_is_no_run(missing, run):
    finish(run)
    if missing in ("status", "both"):
        run.status.unlink()
    if missing in ("config", "both"):
        run.config.unlink()
    with pytest.raises(InputError, match="not a run directory"):
        Run.finished(run.path)


@pytest.mark.parametrize("content", ["[]", '"finished"', "null", "{}", "1"])
def test_finished_refuses_a_status_that_says_nothing(content, run):
    finish(run)
    run.status.write_text(content)
    with pytest.raises(InputError):
        Run.finished(run.path)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TrainingError("the loss became nan\nat step 1"), "failed"),
        (ValueError("anything"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_status_tells_how_a_run_ended(error, state, run):
    with pytest.raises(type(error)):
        end(run, error)
    status = read_json(run.status)
    assert status["state"] == state
    assert status["error"] == (" ".join(str(error).split()) or type(error).__name__)
    assert status["started"] <= status["ended"]
    with pytest.raises(InputError):
        Run.finished(run.path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "stopped by Ctrl-C"),
        (SystemExit(1), "stopped by Ctrl-C"),
        (SIGTERMException(), "stopped by SIGTERM"),
        (SystemExit("out of time"), "out of time"),
    ],
    ids=["Ctrl-C", "Ctrl-C in training", "SIGTERM in training", "in words"],
)
def test_the_status_tells_what_stopped_a_run(error, reason, run):
    with pytest.raises(type(error)):
        end(run, error)
    status = read_json(run.status)
    assert (status["state"], status["error"]) == ("interrupted", reason)
    assert run.log.read_text().rstrip().endswith(reason)
    assert "Traceback" not in run.log.read_text()


def test_a_folder_whose_lock_another_process_holds_stays(run):
    run.path.mkdir(parents=True)
    with FileLock(run.lock):
        Run(run.path).remove_if_empty()
        assert run.lock.exists()
    Run(run.path).remove_if_empty()
    assert not run.path.exists()


def test_a_refused_run_vanishes(run):
    def work():
        run.config.parent.mkdir()
        run.config.write_text("seed: 0\n")
        run.split.write_text("{}")
        (run.path / "logs").mkdir()
        logging.getLogger("metrad").warning("left out 3 copies")

    with pytest.raises(InputError):
        end(run, InputError("no class"), work)
    assert not run.path.exists()


def test_a_run_that_the_disk_refused_stays_and_says_so(run):
    with pytest.raises(WriteError, match=r"cannot be written: .*free space there"):
        end(run, OSError(errno.ENOSPC, "No space left on device"), lambda: run.split.write_text("{}"))
    assert run.split.exists()
    assert read_json(run.status)["state"] == "failed"
    assert "cannot be written" in read_json(run.status)["error"]


def test_a_refused_run_of_a_sweep_leaves_a_record(run):
    with pytest.raises(InputError):
        end(run, InputError("no class 'seven'"), keep_refused=True)
    assert read_json(run.status)["state"] == "failed"
    assert read_json(run.status)["error"] == "no class 'seven'"


def test_a_run_refused_after_training_began_keeps_its_checkpoints(run):
    def work():
        run.checkpoints.mkdir()
        run.last_checkpoint.write_text("weights")

    with pytest.raises(InputError):
        end(run, InputError("the model has diverged"), work)
    assert read_json(run.status)["state"] == "failed"
    assert run.last_checkpoint.exists()


def test_the_log_holds_what_was_said_and_why_it_ended(run, monkeypatch):
    logger = logging.getLogger("metrad")
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)  # as on the command line
    logger.manager._clear_cache()
    before = list(logger.handlers)
    with pytest.raises(ValueError, match="no good"):
        end(run, ValueError("no good"), lambda: logger.info("epoch 1: größer"))
    text = run.log.read_text(encoding="utf-8")
    assert "epoch 1: größer" in text
    assert "ValueError: no good" in text
    assert logger.handlers == before


def test_remove_if_empty_removes_nothing_else(run):
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    run.remove_if_empty()
    assert names(run.path) == ["notes.txt"]
    (run.path / "notes.txt").unlink()
    run.remove_if_empty()
    assert not run.path.exists()
    run.remove_if_empty()
    assert not run.path.exists()


def test_a_saved_configuration_is_read_back(run):
    from omegaconf import OmegaConf

    run.claim()
    hydra = OmegaConf.create({"hydra": {"overrides": {"task": ["seed=1"]}}})
    run.save_config(OmegaConf.create({"backbone": "${seed}", "seed": 1}), hydra)
    assert OmegaConf.to_container(run.load_config()) == {"backbone": "${seed}", "seed": 1}
    assert names(run.config.parent) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert json.loads(run.status.read_text())["state"] == "running"
