"""The parts of a run, built from their settings: ``_target_`` names are checked, imported and called."""

import pkgutil
from collections.abc import Iterator
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from metrad.errors import InputError
from metrad.renamed import present

ALLOWED_TARGETS = (
    *("metrad.data.augmentation.", "metrad.data.sources.", "metrad.models.backbones.", "metrad.models.heads."),
    "metrad.scorers.",
    *("torch.optim.", "torch.nn.", "torchvision.", "timm.", "pytorch_lightning.", "sklearn."),
)
EXTRAS = {
    "mlflow": "mlflow",
    "pytorch_metric_learning": "pml",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "wandb": "wandb",
}


def plain(node: DictConfig) -> dict[str, Any]:
    """Return ``node`` as a plain dictionary with its interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def instantiate(cfg: DictConfig, key: str, /, *args: Any, **kwargs: Any) -> Any:
    """Build the part of the configuration at ``key``; further arguments go to the class of the part.

    Raises:
        InputError: the class refuses its settings, or needs a package that is not installed.
    """
    import hydra.utils
    from hydra.errors import InstantiationException

    node = OmegaConf.to_container(OmegaConf.select(cfg, key), resolve=True)
    for name, found in targets(key, node):
        found["_target_"] = present(found["_target_"])
        locate(name, found["_target_"], cfg.allow_targets)
    try:
        return hydra.utils.instantiate(node, *args, _convert_="all", **kwargs)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError):
            raise cause from error
        if isinstance(cause, ImportError):
            raise InputError(f"{key}: {missing_package(cause)}") from error
        raise InputError(f"{key}: {str(cause).splitlines()[0]}") from error


def factory(cfg: DictConfig, key: str) -> Any:
    """Return the part at ``key`` as a partial function, whether or not its YAML has ``_partial_``."""
    return instantiate(cfg, key, _partial_=True)


def targets(key: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each mapping in ``node`` that has a ``_target_``, with its dotted key; ``key`` is the key of ``node``."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from targets(f"{key}.{name}", value)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from targets(f"{key}[{i}]", value)


def renamed_targets(cfg: DictConfig) -> list[str]:
    """Return a line for each target in ``cfg`` with a former name; the line gives the present name."""
    plain = OmegaConf.to_container(cfg)
    found = ((key, node["_target_"]) for part in cfg for key, node in targets(str(part), plain[part]))  # type: ignore[index]
    return [
        f"{key}._target_: {name} is {present(name)} now; the former name works until version 0.3"
        for key, name in dict.fromkeys(each for each in found if isinstance(each[1], str))
        if present(name) != name
    ]


def locate(key: str, target: Any, extra: list[str]) -> Any:
    """Return the class or function that ``target`` names, if it is defined in an allowed package.

    A run directory from elsewhere is input, not code. The module that defines the object is checked too, since a name
    such as ``torch.nn.x.os`` can lead to ``os``.

    Raises:
        InputError: the target is not allowed, cannot be imported, or is no class or function.
    """
    allowed = (*ALLOWED_TARGETS, *(f"{prefix.rstrip('.')}." for prefix in extra))
    target = present(target) if isinstance(target, str) else target
    if not isinstance(target, str) or not target.startswith(allowed):
        names = ", ".join(prefix.rstrip(".") for prefix in allowed)
        raise InputError(
            f"{key}._target_={target} is not allowed; name a class in {names}, or add its package to allow_targets"
        )
    try:
        found = pkgutil.resolve_name(target)
    except ImportError as error:
        raise InputError(f"{key}._target_={target} cannot be imported: {missing_package(error)}") from error
    except (AttributeError, ValueError) as error:
        raise InputError(f"{key}._target_={target} does not exist") from error
    home = f"{getattr(found, '__module__', '')}."
    if not callable(found) or not home.startswith(allowed):
        raise InputError(f"{key}._target_={target} is not a class or function of that package")
    return found


def missing_package(error: ImportError) -> str:
    """Return a line on a package that could not be imported, with the extra of metrad that installs it, if any."""
    name = (getattr(error, "name", None) or str(error)).split(".")[0]
    for package, extra in EXTRAS.items():
        if package in name or package in str(error).lower():
            return f"{package} is not installed; pip install 'metrad[{extra}]'"
    return str(error).splitlines()[0]
