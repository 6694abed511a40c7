"""Each run is a run of its own at its logger, with its name, configuration, metrics and end; without a network."""

import csv
import json
import struct
from pathlib import Path

import pytest
import yaml

from metrad.app import train as training
from metrad.evaluation.metrics import by_name
from metrad.files import read_json
from tests.helpers.runs import runs_of

LONG = pytest.mark.long
# MLflow's tables use an option that SQLAlchemy is going to remove.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def finals(run):
    metrics = read_json(run.metrics)
    return {name: metrics[name] for name in by_name()}


def of_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [str(client.get_experiment_by_name("metrad").experiment_id)]
    return {run.info.run_name: run for run in client.search_runs(experiments)}, client


def leveldb_records(log):
    """Yield the records of a LevelDB log: blocks of 32 KiB, of chunks with CRC, length and kind before their bytes."""
    start, parts = 7, b""  # a header of W&B's own
    while start + 7 <= len(log):
        left = 32768 - start % 32768
        length, kind = struct.unpack_from("<HB", log, start + 4)
        if left < 7 or not kind:
            start += left
            continue
        parts += log[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):  # a whole record, or its last chunk
            yield parts
            parts = b""


def of_wandb(run):
    from wandb.proto import wandb_internal_pb2

    (file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    name, config, summary, ended = None, {}, {}, None
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            name = record.run.display_name or name
        for part in (record.run.config, record.config) if kind in ("run", "config") else ():
            config |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in part.update}
        if kind == "history":
            summary |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if kind == "exit":
            ended = record.exit.exit_code
    return name, config, summary, ended


@pytest.fixture
def two_runs(metrad, digits, tmp_path):
    def call(*overrides, code=0):
        result = metrad("train", "-m", *digits, "seed=0,1", "sweep=x", *overrides)
        assert result.code == code, result
        return result, runs_of(tmp_path / "multirun/x")

    return call


def test_each_run_of_a_sweep_is_a_run_of_mlflow(two_runs, tmp_path):
    pytest.importorskip("mlflow", reason="an optional extra")
    pytest.importorskip("sqlalchemy", reason="an optional extra")
    _, runs = two_runs("logger=mlflow")
    found, client = of_mlflow(tmp_path)
    assert set(found) == set(runs)
    for name, run in runs.items():
        there = found[name]
        assert there.info.status == "FINISHED"
        assert there.data.params["seed"] == name.split("-")[2]
        assert there.data.params["backbone/_target_"] == "metrad.models.backbones.convnet"
        assert {key: there.data.metrics[key] for key in by_name()} == finals(run)
        assert len(client.get_metric_history(there.info.run_id, "loss")) == 1
        assert not [path for path in run.path.rglob("*") if "mlflow" in path.name or path.name == "meta.yaml"]


def test_each_run_of_a_sweep_is_a_run_of_wandb(two_runs):
    wandb = pytest.importorskip("wandb", reason="an optional extra")
    _, runs = two_runs("logger=wandb", "logger.offline=true")
    assert wandb.run is None
    for name, run in runs.items():
        there, config, summary, ended = of_wandb(run)
        assert (there, ended) == (name, 0)
        assert config["seed"] == int(name.split("-")[2])
        assert config["backbone"]["_target_"] == "metrad.models.backbones.convnet"
        assert {key: summary[key] for key in by_name()} == finals(run)


def test_each_run_has_its_configuration_and_metrics_in_tensorboard(train, digits):
    pytest.importorskip("tensorboard", reason="an optional extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = train(*digits, "logger=tensorboard")
    events = EventAccumulator(str(run.logs)).Reload()
    assert {name: events.Scalars(name)[-1].value for name in by_name()} == pytest.approx(finals(run), rel=1e-6)
    metadata = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    recorded = HParamsPluginData.FromString(metadata).session_start_info.hparams
    assert recorded["seed"].number_value == 0
    assert recorded["head/_target_"].string_value == "metrad.models.heads.AdaCos"


def test_each_run_has_its_configuration_and_metrics_in_the_csv(train, digits):
    run = train(*digits)
    with (run.logs / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {name: float(rows[-1][name]) for name in by_name()} == finals(run)
    assert yaml.safe_load((run.logs / "hparams.yaml").read_text())["head"]["_target_"] == "metrad.models.heads.AdaCos"


def test_neither_secrets_nor_settings_of_the_logger_are_recorded(train, digits, monkeypatch):
    monkeypatch.setenv("LEVEL", "0.875")
    run = train(*digits, "evaluation.level=${oc.env:LEVEL}", "+logger.prefix=hunter2")
    text = "".join(path.read_text() for path in run.logs.rglob("*.yaml"))
    recorded = yaml.safe_load(text)
    assert recorded["logger"] == "pytorch_lightning.loggers.CSVLogger"
    assert recorded["evaluation"]["level"] == "oc.env:LEVEL"
    assert "hunter2" not in text


@LONG
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (OSError, "FAILED")])
def test_a_run_that_does_not_finish_is_told_so_and_goes_on_there(error, status, metrad, digits, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="an optional extra")
    pytest.importorskip("sqlalchemy", reason="an optional extra")

    def stop(*_):
        raise error("no more")

    command = ["train", "-m", *digits, "seed=0", "sweep=x", "logger=mlflow"]
    with monkeypatch.context() as patched:
        patched.setattr(training, "evaluate", stop)
        assert metrad(*command).code
    (run,) = runs_of(tmp_path / "multirun/x").values()
    first = run.noted()["tracked"]
    found, client = of_mlflow(tmp_path)
    assert [there.info.status for there in found.values()] == [status]
    assert metrad(*command).code == 0
    found, _ = of_mlflow(tmp_path)
    goes_on = error is KeyboardInterrupt  # a failed run begins anew
    assert (run.noted()["tracked"] == first) == goes_on
    assert client.get_run(run.noted()["tracked"]).info.status == "FINISHED"
    assert client.get_run(first).info.status == ("FINISHED" if goes_on else status)


def test_a_logger_that_cannot_begin_is_refused_in_one_line(metrad, digits):
    pytest.importorskip("mlflow", reason="an optional extra")
    result = metrad("train", *digits, "logger=mlflow", "logger.tracking_uri=file:nowhere", "hydra.run.dir=run")
    assert result.code == 2
    assert result.err.count("\n") == 1, result.err
    assert "logger" in result.err


@pytest.mark.parametrize("given", ["logger=[csv,tensorboard]", "head=[arcface,adacos]"])
def test_several_choices_of_a_group_are_refused(given, refused, digits):
    refused("train", *digits, given, words=(given.partition("=")[0], "several choices", "give one"))


def test_without_a_logger_nothing_is_recorded(metrad, digits):
    assert metrad("train", *digits, "logger=none", "hydra.run.dir=run").code == 0
    assert not Path("run/logs").exists()
