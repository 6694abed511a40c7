"""Whose a run directory is: a new run's, one that goes on, or one that has finished."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from metrad.errors import InputError
from metrad.runs.config.build import renamed_targets
from metrad.runs.directory import Run
from metrad.runs.identity import differences, identity
from metrad.training.checkpoints import read_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claimed:
    """What a run begins with.

    Attributes:
        finished: the run has finished already, and there is nothing to do.
        checkpoint: the checkpoint to go on from; None to begin anew.
    """

    finished: bool
    checkpoint: str | Path | None = None


def claim(run: Run, cfg: DictConfig, *, sweeping: bool) -> Claimed:
    """Make the directory of ``run`` ready for a training with ``cfg``.

    A single run is refused where its directory holds one already. In a sweep a finished run is left alone, an
    interrupted one goes on from its last checkpoint, and a failed one begins anew.

    Raises:
        InputError: there is a run already; in a sweep, one that has finished with other settings.
    """
    if sweeping and _has_finished(run, cfg):
        return Claimed(finished=True)
    checkpoint = cfg.ckpt_path
    if sweeping:
        goes_on = _goes_on(run, cfg)
        checkpoint = (_own_checkpoint(run) if goes_on else None) or checkpoint
        run.clear(keep_training=checkpoint == run.last_checkpoint, keep_selection=goes_on)
        run.begin(**_identity(cfg))
    else:
        run.claim(**_identity(cfg))
    for line in renamed_targets(cfg):
        log.warning(line)
    return Claimed(finished=False, checkpoint=checkpoint)


def _has_finished(run: Run, cfg: DictConfig) -> bool:
    """Tell whether the run has finished with the settings of ``cfg``, and kept its figures."""
    if run.state != "finished" or run.figures() is None:
        return False
    other = differences(run.asked_config(), cfg)
    if other:
        raise InputError(f"{run.path} was made with other settings: {'; '.join(other)}; choose another sweep=NAME")
    return True


def _goes_on(run: Run, cfg: DictConfig) -> bool:
    """Tell whether what an unfinished run left is of the settings of ``cfg`` and of use.

    A failed run begins anew, since the cause of its failure may be in its checkpoint.
    """
    if run.state not in ("interrupted", "finished") or not run.config.exists():
        return False
    return not differences(run.asked_config(), cfg)


def _own_checkpoint(run: Run) -> Path | None:
    """Return the run's last checkpoint; None if it has none, or one that was cut off when a machine went down."""
    if not run.last_checkpoint.exists():
        return None
    try:
        read_checkpoint(run.last_checkpoint)
    except InputError:
        return None
    return run.last_checkpoint


def _identity(cfg: DictConfig) -> dict[str, str]:
    try:
        return {"identity": identity(cfg)}
    except OmegaConfBaseException:  # the check of the configuration reports it
        return {}
