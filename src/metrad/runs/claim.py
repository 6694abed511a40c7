"""The preparation of a run directory for training: begin anew, continue, or leave a finished run unchanged."""

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
    """The state of a claimed run directory.

    Attributes:
        finished: whether the run has already finished, so that there is nothing to train.
        checkpoint: checkpoint to continue from; None to begin anew.
    """

    finished: bool
    checkpoint: str | Path | None = None


def claim(run: Run, cfg: DictConfig, *, sweeping: bool) -> Claimed:
    """Prepare the directory of ``run`` for training with ``cfg``.

    A single run is refused if its directory already holds a run. In a sweep, a finished run stays unchanged, an
    interrupted run continues from its last checkpoint, and a failed run begins anew.

    Raises:
        InputError: the directory already holds a run; in a sweep, a finished run with other settings, or files that
            metrad did not write.
    """
    if sweeping:
        run.require_own()
    if sweeping and _has_finished(run, cfg):
        return Claimed(finished=True)
    checkpoint = cfg.ckpt_path
    if sweeping:
        goes_on, tracked = _goes_on(run, cfg), run.noted().get("tracked")
        checkpoint = (_own_checkpoint(run) if goes_on else None) or checkpoint
        run.clear(keep_training=checkpoint == run.last_checkpoint, keep_selection=goes_on)
        run.begin(**_identity(cfg), **({"tracked": tracked} if goes_on and tracked else {}))
    else:
        run.claim(**_identity(cfg))
    for line in renamed_targets(cfg):
        log.warning(line)
    return Claimed(finished=False, checkpoint=checkpoint)


def _has_finished(run: Run, cfg: DictConfig) -> bool:
    """Return whether the run has finished with the settings of ``cfg`` and has its metrics."""
    if run.state != "finished" or run.figures() is None:
        return False
    other = differences(run.asked_config(), cfg)
    if other:
        raise InputError(
            f"{run.path} was made with other settings: {'; '.join(other)}; choose another sweep=NAME, or leave out "
            "hydra.sweep.subdir if it was given"
        )
    return True


def _goes_on(run: Run, cfg: DictConfig) -> bool:
    """Return whether an unfinished run can continue: it did not fail and has the settings of ``cfg``.

    A failed run begins anew, since the cause of its failure may be in its checkpoint.
    """
    if run.state not in ("interrupted", "finished") or not run.config.exists():
        return False
    return not differences(run.asked_config(), cfg)


def _own_checkpoint(run: Run) -> Path | None:
    """Return the run's last checkpoint; None if it is missing, or was cut off by a crash of the machine."""
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
    except OmegaConfBaseException:  # the check of the configuration reports this error
        return {}
