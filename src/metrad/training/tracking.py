"""The record of a run at a logger: its name, its configuration, its metrics and how it ended."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from metrad import collectives
from metrad.errors import InputError, MetradError, first_line, told_to_stop

log = logging.getLogger(__name__)

# By class: the arguments for the name of a run, and for the id of a run that continues.
_ARGUMENTS = {"WandbLogger": ("name", "id"), "MLFlowLogger": ("run_name", "run_id")}
_STORE = "mlflow.db"  # MLflow's own default, in the working directory


def arguments(target: str, given: Mapping[str, Any], name: str, number: str | None) -> dict[str, Any]:
    """Return arguments for the logger class ``target`` that make each run of metrad a run of its own there.

    Args:
        target: dotted name of the class.
        given: settings of the user, which take precedence.
        name: name of the run.
        number: id that the service gave the run, if the run continues; else None.
    """
    kind = target.rpartition(".")[2]
    ours = dict(zip(_ARGUMENTS.get(kind, ()), (name, number), strict=False))
    if kind == "MLFlowLogger":  # Lightning would take the run directory for MLflow's store
        ours["tracking_uri"] = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(_STORE).absolute()}"
    return {key: value for key, value in ours.items() if value is not None and given.get(key) is None}


class Tracker:
    """One run at a logger. As a context manager, it tells the logger how the run ended.

    Args:
        logger: a logger of Lightning's; None for no logger.
        settings: the configuration to record.
        continues: whether the run was begun there by an earlier process.
    """

    def __init__(self, logger: Logger | None, settings: dict[str, Any], *, continues: bool = False) -> None:
        self.logger = logger
        self.settings = settings
        self.continues = continues
        self._begun = False

    def begin(self) -> str | None:
        """Begin the run there, record its configuration and return its id there; None if it has none.

        Raises:
            InputError: the logger cannot begin a run.
        """
        if self.logger is None:
            return None
        try:
            _ = self.logger.experiment  # type: ignore[attr-defined]
            self._begun = True
            if not self.continues:  # MLflow refuses settings that differ from those of the first process
                self.logger.log_hyperparams(self.settings)
        except (MetradError, OSError):
            raise
        except Exception as error:  # each service has errors of its own
            raise InputError(
                f"the logger {type(self.logger).__name__} cannot begin a run ({first_line(error)}); "
                "mend its settings, or choose another, as by logger=csv"
            ) from error
        known = type(self.logger).__name__ in _ARGUMENTS and collectives.rank() == 0
        return str(self.logger.version) if known else None

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the final metrics at training step ``step``, if there are any.

        If the logger cannot take them, that is only logged.
        """
        if self.logger is None or not metrics:
            return
        try:
            if isinstance(self.logger, TensorBoardLogger):  # it shows settings only beside metrics
                self.logger.log_hyperparams(self.settings, dict(metrics), step)
            else:
                self.logger.log_metrics(dict(metrics), step)
            self.logger.save()
        except OSError:
            raise
        except Exception as error:  # the run itself is complete
            log.warning("the logger %s did not take the metrics: %s", type(self.logger).__name__, first_line(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.logger is None or not self._begun:
            return
        try:
            self.logger.finalize("success" if error is None else "KILLED" if told_to_stop(error) else "failed")
            # W&B keeps a run open until it is told to finish; the next run of a sweep would be added to it.
            finish = getattr(self.logger.experiment, "finish", None)  # type: ignore[attr-defined]
            if callable(finish):
                finish(exit_code=0 if error is None else 1)
        except Exception as failure:
            if error is None:
                raise
            log.warning("the logger %s could not end the run: %s", type(self.logger).__name__, first_line(failure))
