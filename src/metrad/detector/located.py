"""Where the saved detector of a path lies: in the folder itself, or in the folder ``model`` of a run."""

import os
from pathlib import Path

from metrad.detector.bundle import RECORD
from metrad.errors import InputError
from metrad.files import read_json
from metrad.quoting import argument

MODEL, STATUS = "model", "status.json"  # of a run
_BEFORE = "checksums.json"  # of the folder ``model`` of a run from before version 0.2
_KINDS = "the folder of a finished run, its folder model, or a folder that Detector.save wrote"


def bundle_folder(path: str | Path) -> Path:
    """Return the folder of the detector that ``path`` names: a run, a run's folder ``model``, or a saved detector.

    Raises:
        InputError: there is none, or the run has not finished.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{path} holds no detector: {what}; give {_KINDS}")
    if os.path.lexists(folder / RECORD):
        return folder
    if (folder / STATUS).is_file():
        _require_finished(folder)
    if os.path.lexists(folder / MODEL / RECORD):
        return folder / MODEL
    for one in (folder, folder / MODEL):
        if os.path.lexists(one / _BEFORE):
            raise InputError(_convert(folder.parent if one == folder else folder))
    runs = sorted(each.parent for each in folder.glob(f"*/{STATUS}"))
    if runs:
        raise InputError(f"{path} holds {len(runs)} runs and no detector; give one of them, such as {runs[0]}")
    raise InputError(f"{path} holds no detector: it has no {RECORD}; give {_KINDS}")


def _require_finished(run: Path) -> None:
    status = read_json(run / STATUS)
    state = status.get("state") if isinstance(status, dict) else None
    if state != "finished":
        raise InputError(
            f"{run} holds a run that is {state or 'in an unknown state'}, not finished, so its detector is not there "
            "yet; let the run end, or train it again"
        )


def _convert(run: Path) -> str:
    code = f"from metrad.runs.artifacts import convert; convert({str(run)!r}, 'detector')"
    return (
        f"{run} is a run from before version 0.2, whose detector has no {RECORD}; write it anew into a folder detector "
        f"and load that: python -c {argument(code)}"
    )
