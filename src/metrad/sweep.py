"""Sweeps: what happens around the runs of one."""

import contextlib
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

_unstarted: list[Path] = []


class RememberFolder(Callback):
    """Remembers the folder of a sweep until its first run starts.

    Hydra writes ``multirun.yaml`` there before it looks whether the runs' settings are any good.
    """

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Note the folder of the sweep."""
        _unstarted.append(Path(config.hydra.sweep.dir))

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Forget it: from now on it holds runs."""
        _unstarted.clear()


def forget_unstarted() -> None:
    """Remove what Hydra wrote for a sweep none of whose runs started."""
    for folder in _unstarted:
        (folder / "multirun.yaml").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: not ours
            folder.rmdir()
    _unstarted.clear()
