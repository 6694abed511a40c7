"""A run at a logger: its name and id there, and that the logger gets its settings once and its end."""

import pytest
from pytorch_lightning.loggers.logger import DummyLogger

from metrad.training.tracking import Tracker, arguments

WANDB, MLFLOW = "pytorch_lightning.loggers.WandbLogger", "pytorch_lightning.loggers.MLFlowLogger"


class Noting(DummyLogger):
    """Notes what it is told, and has an experiment that can be finished, as that of W&B."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple] = []

    @property
    def experiment(self):
        """The experiment, which is this object."""
        return self

    def log_hyperparams(self, *settings):
        self.told.append(("settings", *settings))

    def finalize(self, status):
        self.told.append(("end", status))

    def finish(self, exit_code):
        self.told.append(("finished", exit_code))


@pytest.fixture(autouse=True)
def _no_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")


@pytest.mark.parametrize(("target", "name", "number"), [(WANDB, "name", "id"), (MLFLOW, "run_name", "run_id")])
def test_a_run_has_its_name_there_and_its_id_if_it_goes_on(target, name, number):
    store = {"tracking_uri": "sqlite:///here.db"} if target == MLFLOW else {}
    assert arguments(target, {"save_dir": "logs"}, "adacos-0", None) == {name: "adacos-0", **store}
    assert arguments(target, {name: None}, "adacos-0", "x7") == {name: "adacos-0", number: "x7", **store}


@pytest.mark.parametrize("target", [WANDB, MLFLOW])
def test_what_the_user_gives_is_kept(target):
    given = dict.fromkeys(("name", "id", "run_name", "run_id", "tracking_uri"), "mine")
    assert arguments(target, given, "adacos-0", "x7") == {}


@pytest.mark.parametrize("target", ["pytorch_lightning.loggers.CSVLogger", "own.Logger"])
def test_other_loggers_get_no_arguments(target):
    assert arguments(target, {}, "adacos-0", "x7") == {}


def test_without_a_store_mlflow_keeps_its_runs_in_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert arguments(MLFLOW, {}, "a", None)["tracking_uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.parametrize(("continues", "told"), [(False, [("settings", {"seed": 1})]), (True, [])])
def test_settings_are_recorded_by_the_first_process_of_a_run_alone(continues, told):
    logger = Noting()
    Tracker(logger, {"seed": 1}, continues=continues).begin()
    assert logger.told == told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, [("end", "success"), ("finished", 0)]),
        (ValueError("no good"), [("end", "failed"), ("finished", 1)]),
        (KeyboardInterrupt(), [("end", "KILLED"), ("finished", 1)]),
    ],
    ids=["finished", "failed", "stopped"],
)
def test_a_logger_is_told_how_a_run_ended(error, told):
    logger = Noting()
    tracker = Tracker(logger, {}, continues=True)

    def work():
        with tracker:
            tracker.begin()
            if error:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert logger.told == told


def test_a_logger_that_never_began_a_run_is_told_nothing():
    logger = Noting()
    with Tracker(logger, {}):
        pass
    assert logger.told == []
