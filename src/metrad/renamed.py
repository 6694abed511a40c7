"""Former names of modules. YAML files, saved runs and imports from before version 0.2 still use them.

A run's identity is a hash over its target names. Targets are hashed by their former names, so that saved runs keep
their identity. Imports by former names work until version 0.3.
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
    """Return the former name of ``name``, or ``name`` itself if it was never renamed."""
    return _replaced(name, {new: old for old, new in MODULES.items()})


def _replaced(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


class FormerModules(MetaPathFinder, Loader):
    """Importer that finds modules by their former names and warns with the present name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a module spec if ``fullname`` is a former name, else None."""
        return ModuleSpec(fullname, self, is_package=True) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Make ``module`` take its attributes from the module of the present name."""
        name = present(module.__name__)
        warnings.warn(f"{module.__name__} is {name} now; version 0.3 removes the former name", FutureWarning, 2)
        module.__getattr__ = lambda attribute: getattr(importlib.import_module(name), attribute)  # type: ignore[method-assign]


def install() -> None:
    """Register ``FormerModules`` with Python's import system."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
