"""The study of training epoch by epoch: what it notes, and that it changes nothing."""

import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from metrad.errors import InputError
from metrad.evaluation.embeddings import Embedded
from metrad.evaluation.metrics import shown_in
from metrad.evaluation.spectrum import spread_rank
from metrad.files import read_json
from metrad.runs.directory import Run
from metrad.runs.identity import identity
from metrad.training import epoch_study
from tests.helpers.backbones import DROPPING
from tests.helpers.runs import rows

ON = "study.epochs=true"


@pytest.fixture
def stateful(digits):
    """A head with a scale that moves, batch normalisation, and a scheduler."""
    return [*digits, "head=adacos_dynamic", "scheduler=step", "scheduler.step_size=1", "trainer.max_epochs=2"]


@pytest.fixture
def dropping(digits):
    """A model that drops channels at random."""
    return [*digits, *DROPPING]


@pytest.fixture
def streaming(small, image_folders, tmp_path):
    """Images that other processes decode."""
    root = image_folders(tmp_path / "images")
    data = ["dataset=image_folder", f"dataset.source.root={root}", "dataset.normal=[a]", "dataset.anomalous=[b]"]
    return [*small, *data, "dataset.memory_limit_gib=0", "dataset.disk_limit_gib=0", "batch_size=8"]


@pytest.mark.parametrize(
    "kind", ["stateful", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("dropping", "streaming"))]
)
def test_a_run_is_the_same_with_a_study_as_without(kind, request, train, comparable):
    overrides = request.getfixturevalue(kind)
    without, studied = train(*overrides, name="without"), train(*overrides, ON, name="with")
    files = [{path.relative_to(run.path).as_posix() for path in run.path.rglob("*")} for run in (without, studied)]
    assert files[1] - files[0] == {"study.csv", "study.png"}
    assert files[0] <= files[1]
    for part in ("embedder", "head", "scores", "epochs"):
        assert getattr(studied, part).read_bytes() == getattr(without, part).read_bytes(), part
    assert comparable(studied) == comparable(without)
    states = [torch.load(run.last_checkpoint, weights_only=True) for run in (without, studied)]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        torch.testing.assert_close(states[1][key], states[0][key], rtol=0, atol=0)


def test_it_notes_each_epoch_as_an_evaluation_finds_it(train, stateful, pictures):
    run = train(*stateful, ON)
    found, trained, metrics = rows(run.study), rows(run.epochs), read_json(run.metrics)
    assert list(found[0]) == ["epoch", "auroc", "average_precision", "effective_rank", "accuracy", "loss"]
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    assert (found[0]["accuracy"], found[0]["loss"]) == ("", "")
    for noted, of_training in zip(found[1:], trained, strict=True):
        assert (noted["accuracy"], noted["loss"]) == (of_training["accuracy"], of_training["loss"])
    last = found[-1]
    assert (float(last["auroc"]), float(last["average_precision"])) == (metrics["auroc"], metrics["average_precision"])
    normal = load_file(run.embeddings / "embeddings.safetensors")["normal"]
    assert float(last["effective_rank"]) == pytest.approx(spread_rank(normal))
    assert len({row["auroc"] for row in found}) == 3
    with Image.open(run.pictures["study"]) as picture:
        assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.long
def test_the_time_it_takes_is_a_phase_and_not_part_of_the_total(train, stateful, monkeypatch):
    measured = epoch_study._measured
    monkeypatch.setattr(epoch_study, "_measured", lambda *given: epoch_study.time.sleep(2) or measured(*given))
    seconds = read_json(train(*stateful, ON).metrics)["seconds"]
    assert seconds["study"] > 6
    assert seconds["train"] < seconds["study"]
    assert seconds["total"] - sum(seconds[phase] for phase in ("prepare", "train", "embed")) < seconds["study"]


def test_a_resumed_run_has_the_study_of_all_epochs(train, stateful):
    whole = train(*stateful, ON, name="whole")
    half = train(*stateful, ON, "trainer.max_epochs=1", name="half")
    resumed = train(*stateful, ON, f"ckpt_path={half.last_checkpoint}", name="resumed")
    assert resumed.study.read_bytes() == whole.study.read_bytes()
    assert read_json(resumed.metrics)["seconds"]["study"] > read_json(half.metrics)["seconds"]["study"]


def test_a_study_can_begin_and_end_where_a_run_goes_on(train, stateful):
    half = train(*stateful, "trainer.max_epochs=1", name="half")
    begun = train(*stateful, ON, f"ckpt_path={half.last_checkpoint}", name="begun")
    ended = train(*stateful, "trainer.max_epochs=3", f"ckpt_path={begun.last_checkpoint}", name="ended")
    found = rows(begun.study)
    assert [(row["epoch"], row["loss"] == "") for row in found] == [("1", True), ("2", False)]
    assert [float(row["auroc"]) for row in found] == [read_json(run.metrics)["auroc"] for run in (half, begun)]
    assert not ended.study.exists()


def test_without_training_there_is_the_beginning_alone(train, small):
    run = train("experiment=frozen", *(item for item in small if "max_epochs" not in item), "dataset=digits", ON)
    assert [row["epoch"] for row in rows(run.study)] == ["0"]
    assert float(rows(run.study)[0]["auroc"]) == read_json(run.metrics)["auroc"]


def test_the_head_itself_can_be_the_scorer(train, stateful):
    run = train(*stateful, "scorer=head", ON)
    assert float(rows(run.study)[-1]["auroc"]) == read_json(run.metrics)["auroc"]


def test_embeddings_that_cannot_be_scored_end_no_training(caplog):
    embedded = Embedded({"normal": np.ones((3, 2), np.float32)}, {"normal": []})

    def refuse(*given, **reference):
        raise InputError("too few")

    with caplog.at_level("WARNING"):
        found = epoch_study._measured(types.SimpleNamespace(fit=refuse), embedded)
    assert found == dict.fromkeys(metric.name for metric in shown_in("study"))
    assert "too few" in caplog.text


@pytest.mark.long
def test_it_makes_no_other_run_of_it(train, digits, metrad, tmp_path):
    sweep = ["train", "-m", *digits, "sweep=one"]
    assert metrad(*sweep).code == 0
    again = metrad(*sweep, ON)
    assert (again.code, again.err) == (0, "")
    assert "sweep of 1 runs in multirun/one: 1 finished" in again.out
    (run,) = (Run(path.parent) for path in (tmp_path / "multirun/one").glob("*/status.json"))
    assert not run.study.exists()
    cfg = run.load_config()
    studied = cfg.copy()
    studied.study.epochs = True
    assert identity(studied) == identity(cfg)
