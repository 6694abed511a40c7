"""The workarounds for Hydra 1.3, where it lacks an argument, a public name or a typed error.

- ``sys.argv`` is replaced while Hydra runs. ``hydra.main`` reads its arguments only from there. The public functions
  that take arguments (``initialize_config_dir``, ``compose``) make no sweeps and have no flags such as ``--cfg``.
- ``HYDRA_FULL_ERROR`` is set while Hydra runs. Without it ``hydra.main`` prints an error in several lines and ends the
  process with code 1. It has no argument for that.
- ``hydra/launcher=basic`` and ``=joblib`` are stored in Hydra's ``ConfigStore`` while Hydra runs, and removed from its
  ``repo`` afterwards, since the store has no method for that. They cannot be YAML files, because Hydra would use the
  launchers of the same names in its store as their schemas.
- ``raised_by_hydra`` looks at the module that raised an error. For some bad input Hydra, OmegaConf and the parsers
  that they use raise errors of Python's own, such as ``ValueError`` and ``AssertionError``.

Nothing of ``hydra._internal`` is used.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from metrad.errors import raised_by
from metrad.runs.config.catalogue import folder

if TYPE_CHECKING:
    from hydra.types import TaskFunction
    from omegaconf import DictConfig

FULL_ERROR = "HYDRA_FULL_ERROR"
# Further names of metrad's launchers inside metrad: Hydra's default, and the name in documented commands.
OTHER_NAMES = {"basic": "metrad", "joblib": "metrad_parallel"}
_PACKAGES = ("antlr4", "hydra", "omegaconf", "yaml")


def run(arguments: Sequence[str], task: "TaskFunction") -> None:
    """Let Hydra read ``arguments`` and call ``task`` for the run, or for every run of the sweep.

    Raises:
        Exception: whatever Hydra or ``task`` raises.
        SystemExit: the arguments are wrong, or ask Hydra to print something, such as ``--cfg``.
    """
    import hydra

    decorate = hydra.main(version_base="1.3", config_path=str(folder()), config_name="config")
    with _arguments(arguments), _raising(), own_launchers():
        decorate(task)()


def compose(arguments: Sequence[str]) -> "tuple[DictConfig, DictConfig]":
    """Return the configuration that ``arguments`` stand for, and Hydra's own, without starting Hydra's command line.

    Hydra's global state stays as it is, so that a program may do this inside a job of Hydra's.

    Raises:
        Exception: whatever Hydra raises about the arguments.
    """
    from hydra import compose as compose_with_hydra
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    shared = GlobalHydra.instance()
    before, shared.hydra = shared.hydra, None
    try:
        with initialize_config_dir(str(folder()), version_base="1.3"):
            cfg = compose_with_hydra("config", list(arguments), return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = before
    hydra = OmegaConf.create({"hydra": cfg.hydra})
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, hydra


def full_error_wanted() -> bool:
    """Return whether the user asks for full tracebacks, by Hydra's own environment variable."""
    return os.environ.get(FULL_ERROR) == "1"


def raised_by_hydra(error: Exception) -> bool:
    """Return whether Hydra, OmegaConf or a parser that they use raised ``error``."""
    return type(error).__module__.split(".")[0] in ("hydra", "omegaconf") or raised_by(error).split(".")[0] in _PACKAGES


@contextlib.contextmanager
def own_launchers() -> Iterator[None]:
    """Let ``hydra/launcher=basic`` and ``=joblib`` mean metrad's launchers, until the context ends."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    Plugins.instance()  # finds the plugins of other packages first, which would replace these launchers
    store = ConfigStore.instance()
    launchers = store.repo.setdefault("hydra", {}).setdefault("launcher", {})
    before = dict(launchers)
    for name, own in OTHER_NAMES.items():
        node = OmegaConf.load(folder() / "hydra" / "launcher" / f"{own}.yaml")
        store.store(group="hydra/launcher", name=name, node=node, provider="metrad")
    try:
        yield
    finally:
        launchers.clear()
        launchers.update(before)


@contextlib.contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
