"""The parts of a run, built from their settings: ``_target_`` names are checked by role and called."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from metrad.detector import targets
from metrad.errors import InputError, first_line, raised_by
from metrad.renamed import present
from metrad.runs.config.roles import role_of

EXTRAS = {
    "mlflow": "mlflow",
    "pytorch_metric_learning": "pml",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "wandb": "wandb",
}
T = TypeVar("T")


def plain(node: DictConfig) -> dict[str, Any]:
    """Return ``node`` as a plain dictionary with its interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def instantiate(cfg: DictConfig, key: str, /, **known: Any) -> Any:
    """Build the part of the configuration at ``key``; ``known`` are further arguments.

    Raises:
        InputError: the target has another role, or the class rejects its settings or needs a package that is not
            installed.
    """
    node = plain(OmegaConf.select(cfg, key))
    return _in_one_line(key, lambda: targets.build(key, node, role_of(key), cfg.allow_targets, **known))


def factory(cfg: DictConfig, key: str) -> "partial[Any]":
    """Return the class at ``key`` with its settings bound, whether or not its YAML has ``_partial_``.

    Raises:
        InputError: as for ``instantiate``.
    """
    node = plain(OmegaConf.select(cfg, key))
    return _in_one_line(key, lambda: targets.bound(key, node, role_of(key), cfg.allow_targets))


def _in_one_line(key: str, make: Callable[[], T]) -> T:
    """Return what ``make`` returns; every error becomes an ``InputError`` of one line that names ``key``."""
    try:
        return make()
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{key}: {missing_package(error)}") from error
    except Exception as error:  # classes reject their settings with unrelated types
        where = raised_by(error)
        if where.startswith("metrad.") and where != targets.__name__:  # a fault of metrad's own, not of the settings
            raise
        raise InputError(f"{key}: {first_line(error)}") from error


def renamed_targets(cfg: DictConfig) -> list[str]:
    """Return a line for each target in ``cfg`` with a former name; the line gives the present name."""
    parts = cast("dict[str, Any]", OmegaConf.to_container(cfg))
    nodes = [each for part, content in parts.items() for each in targets.named(part, content)]
    found = ((key, node["_target_"]) for key, node in nodes)
    return [
        f"{key}._target_: {name} is {present(name)} now; the former name works until version 0.3"
        for key, name in dict.fromkeys(each for each in found if isinstance(each[1], str))
        if present(name) != name
    ]


def missing_package(error: ImportError) -> str:
    """Return a line on a package that could not be imported, with the extra of metrad that installs it, if any."""
    name = (getattr(error, "name", None) or str(error)).split(".")[0]
    for package, extra in EXTRAS.items():
        if package in name or package in str(error).lower():
            return f"{package} is not installed; pip install 'metrad[{extra}]'"
    return str(error).splitlines()[0]
