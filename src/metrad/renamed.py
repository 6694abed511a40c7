"""Names from before version 0.2, which users' YAML files, saved runs and imports still have.

Saved runs keep them for good: a run's identity is a hash over its targets, so targets are hashed by their former names.
Imports by the former names work until version 0.3.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Former module → present module.
MODULES = {
    "metrad.augmentation": "metrad.data.augmentation",
    "metrad.backbones": "metrad.models.backbones",
    "metrad.datasets": "metrad.data.sources",
    "metrad.heads": "metrad.models.heads",
}


def present(name: str) -> str:
    """Return the present name of the module, class or function ``name``, which may be a former name."""
    return _replaced(name, MODULES)


def former(name: str) -> str:
    """Return the name that ``name`` had before it was renamed; ``name`` itself if it never was."""
    return _replaced(name, {new: old for old, new in MODULES.items()})


def _replaced(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


class FormerModules(MetaPathFinder, Loader):
    """Imports a module by its former name, with a warning that gives the present one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import ``fullname`` if it is a former name."""
        return ModuleSpec(fullname, self, is_package=True) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Let ``module`` give what the module of the present name has."""
        name = present(module.__name__)
        warnings.warn(f"{module.__name__} is {name} now; the former name goes in version 0.3", FutureWarning, 2)
        module.__getattr__ = lambda attribute: getattr(importlib.import_module(name), attribute)  # type: ignore[method-assign]


def install() -> None:
    """Have Python find modules by their former names."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
