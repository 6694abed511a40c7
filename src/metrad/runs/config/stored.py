"""The configuration in a run directory. It may come from elsewhere, so it is input and not code.

Its resolvers, such as ``${oc.env:NAME}``, are never called and stay text; ``paths.data`` alone may read an environment
variable, as it does by default. References to other settings, such as ``${trainer.max_epochs}``, are followed.
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metrad.detector import targets
from metrad.errors import InputError
from metrad.runs.config import checks
from metrad.runs.config.explain import explain
from metrad.runs.config.roles import ROLES, role_of
from metrad.runs.config.schema import Paths

log = logging.getLogger(__name__)

_DATA, _SOURCE = "paths.data", "dataset.source"
_USED = ("scorer", "dataset", "evaluation", "image_size", "whiten")  # by an evaluation
_REFERENCES = re.compile(r"(?:[^$]|\$(?!\{)|\$\{[\w.]+\})*")  # a text whose interpolations all refer to settings
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\w+(,[^${}\\]*)?\}")


def inert(cfg: DictConfig) -> DictConfig:
    """Return a copy of a run's configuration in which every resolver call is text, but that of ``paths.data``.

    Raises:
        InputError: the copy cannot be made.
    """
    try:
        return cast("DictConfig", OmegaConf.create(_inert(OmegaConf.to_container(cfg), "")))
    except OmegaConfBaseException as error:
        raise InputError(f"the configuration of the run cannot be read: {explain(error)}") from error


def _inert(node: Any, key: str, *, environment: bool = True) -> Any:
    """Return ``node`` with resolver calls as text; ``environment`` tells whether ``paths.data`` keeps its own."""
    inner = partial(_inert, environment=environment)
    if isinstance(node, dict):
        return {name: inner(value, f"{key}.{name}" if key else str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [inner(value, key) for value in node]
    if not isinstance(node, str) or _REFERENCES.fullmatch(node):
        return node
    return node if environment and key == _DATA and _ENVIRONMENT.fullmatch(node) else literal(node)


def literal(text: str) -> str:
    """Return the text that OmegaConf resolves to ``text``: every interpolation in it is escaped."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)


def followed(cfg: DictConfig, key: str) -> dict[str, Any]:
    """Return the settings at ``key`` of a run's configuration with references to other settings followed.

    No resolver is called, not even that of ``paths.data``; its calls stay text. So do all references in settings of
    which one leads nowhere. Without such settings the result is empty.
    """
    known = OmegaConf.create(_inert(OmegaConf.to_container(cfg), "", environment=False))
    found = OmegaConf.select(known, key)
    if not isinstance(found, DictConfig):
        return {}
    try:
        return cast("dict[str, Any]", OmegaConf.to_container(found, resolve=True))
    except OmegaConfBaseException:
        return cast("dict[str, Any]", OmegaConf.to_container(found))


def check(cfg: DictConfig) -> None:
    """Check the inert configuration of a run before anything is built from it; nothing is called.

    Every target must suit its role, and be of metrad, of a library, or of a package in ``allow_targets``. The settings
    of the other parts than scorer and source are not checked further, because they are not built.

    Raises:
        InputError: a target is not allowed, or a value that is used is wrong or is a resolver call.
    """
    try:
        resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from error
    _check_targets(resolved)
    known = _without_text(resolved, "")
    checks.check(OmegaConf.create({**known, "selection": None}), built=("scorer", "dataset.source"))


def confined(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return ``cfg`` without ``dataset.source.download``, unless the user names the folder that it writes to.

    That folder is the user's if it is the default ``paths.data``, or if ``overrides`` set it.
    """
    plain = cast("dict[str, Any]", OmegaConf.to_container(cfg))
    source, typed = plain["dataset"]["source"], {item.partition("=")[0] for item in overrides}
    own = plain.get("paths", {}).get("data", Paths.data) == Paths.data or _DATA in typed

    def theirs(key: str, root: Any) -> bool:
        return key in typed or (own and root == "${paths.data}")

    _without_downloads(source, _SOURCE, theirs)
    return OmegaConf.create(plain)


def _without_downloads(node: Any, key: str, theirs: Callable[[str, Any], bool]) -> None:
    """Set ``download`` to false in each part of ``node``, at the dotted ``key``, whose root is not the user's."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            _without_downloads(item, f"{key}[{i}]", theirs)
    if not isinstance(node, dict):
        return
    root = f"{key}.root"
    if node.get("download") and not theirs(root, node.get("root")):
        log.warning("nothing is downloaded to a folder that the run directory names; to download, set %s=FOLDER", root)
        node["download"] = False
    for name, item in node.items():
        _without_downloads(item, f"{key}.{name}", theirs)


def _check_targets(resolved: dict[str, Any]) -> None:
    allow = resolved["allow_targets"]
    for top, content in resolved.items():
        for key, node in targets.named(str(top), content):
            parts = [part for part in (*ROLES, "selection.scorers") if f"{key}.".startswith(f"{part}.")]
            if not parts:
                raise InputError(
                    f"{key}._target_={str(node['_target_'])[:100]} stands where nothing is built; remove it"
                )
            if key in ROLES or key.startswith("selection.scorers."):
                targets.check(key, node, role_of(key), allow)


def _without_text(node: Any, key: str) -> Any:
    """Return ``node`` without the settings that are resolver calls, none of which may be needed by an evaluation."""
    if isinstance(node, dict):
        inner = {name: _without_text(value, f"{key}.{name}" if key else str(name)) for name, value in node.items()}
        return {name: value for name, value in inner.items() if value is not ...}
    if "${" not in str(node):
        return node
    if key.startswith(_USED):
        raise InputError(
            f"{key} is {str(node)[:100]}, and metrad evaluates no such expression of a run directory; "
            f"write its value: {key}=VALUE"
        )
    return ...
