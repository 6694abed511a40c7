"""The classes and functions that a ``_target_`` may name, decided from the name before anything is imported or called.

A run directory and a saved detector come from elsewhere: they are input, not code. Each part has a ``Role``, which says
what its ``_target_`` may be. Only the modules of the role are imported, and packages that the user allows by name.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from metrad.errors import InputError
from metrad.renamed import present

TARGET, PARTIAL = "_target_", "_partial_"
_IGNORED = "_convert_"  # has no effect, since settings are plain containers


@dataclass(frozen=True)
class Role:
    """What the ``_target_`` of a part may be.

    Attributes:
        words: what it may be, for messages.
        modules: modules that the class may be in, or below; no other module is imported.
        bases: classes, as ``module.Class``, one of which it must be a subclass of.
        functions: module whose ``__all__`` lists functions that may be called too; None for no functions.
        exactly: whether only the class ``bases`` itself is meant, and no subclass.
        partial: whether ``_partial_`` may be set; metrad passes further arguments later.
        but: names of classes that are refused because they run code from files.
        nested: argument that maps names to further parts of this role, which are passed unbuilt; None for no such one.
    """

    words: str
    modules: tuple[str, ...]
    bases: tuple[str, ...]
    functions: str | None = None
    exactly: bool = False
    partial: bool = False
    but: tuple[str, ...] = ()
    nested: str | None = None

    def suits(self, found: Any) -> bool:
        """Return whether ``found`` is a class of this role."""
        if not isinstance(found, type):
            return False
        bases = tuple(_imported(name) for name in self.bases)
        return found in bases if self.exactly else issubclass(found, bases)


BACKBONE = Role(
    "a function of metrad.models.backbones", ("metrad.models.backbones",), (), functions="metrad.models.backbones"
)
HEAD = Role("a metrad.models.heads.Head", ("metrad.models.heads",), ("metrad.models.heads.Head",))
SCORER = Role("a metrad.scorers.Scorer", ("metrad.scorers",), ("metrad.scorers.Scorer",))


def located(key: str, target: Any, role: Role | None, allow: Sequence[str] = ()) -> Callable[..., Any]:
    """Return the class or function that ``target`` names.

    Args:
        key: dotted key of the part, for messages.
        target: value of ``_target_``; a former name is understood.
        role: what it may be; None for a part inside another part, which must be in an allowed package.
        allow: packages, such as ``mine``, that the user allows by name. They are imported.

    Raises:
        InputError: the target is not allowed, does not exist or cannot be imported.
    """
    name = present(target) if isinstance(target, str) else ""
    below = tuple(f"{package.rstrip('.')}." for package in allow if package.strip("."))
    found: Callable[..., Any] | None = _own(name, role) if role else None
    if found is None and below and name.startswith(below):
        found = _of_the_user(key, name, role, below)
    if found is None:
        raise InputError(_refusal(key, target, role))
    return found


def check(key: str, node: Any, role: Role | None, allow: Sequence[str] = ()) -> None:
    """Check every ``_target_`` in the settings ``node`` of a part; nothing is called.

    Raises:
        InputError: a target is not allowed, or a key such as ``_args_`` is set.
    """
    for name, found in named(key, node):
        own = role_inside(key, name, role)
        located(name, found[TARGET], own, allow)
        if own is not None and own.partial and found.get(PARTIAL, True) is not True:
            raise InputError(
                f"{name}.{PARTIAL} must be true, as metrad builds the part when it has the rest; leave it out"
            )
        allowed = {TARGET, _IGNORED} | ({PARTIAL} if own is None or own.partial else set())
        for private in found:
            if re.fullmatch(r"_\w+_", str(private)) and private not in allowed:
                raise InputError(f"{name}.{private} cannot be set: metrad passes settings by name; leave it out")


def role_inside(key: str, name: str, role: Role | None) -> Role | None:
    """Return the role of the part at the dotted key ``name``, which is the part at ``key`` or inside it.

    The part at ``key`` has the role ``role``. Only parts in its argument ``nested`` have a role too.
    """
    inner = "" if role is None or role.nested is None else rf"(\.{role.nested}\.[^.]+)*"
    return role if re.fullmatch(re.escape(key) + inner, name) else None


def build(key: str, node: Mapping[str, Any], role: Role, allow: Sequence[str] = (), **known: Any) -> Any:
    """Return the part that the settings ``node`` describe, after ``check``; ``known`` are further arguments."""
    check(key, node, role, allow)
    return _built(key, node, role, allow)(**known)


def bound(key: str, node: Mapping[str, Any], role: Role, allow: Sequence[str] = ()) -> "partial[Any]":
    """Return the class or function of a part with its settings bound, after ``check``; the part is not built."""
    check(key, node, role, allow)
    return _built(key, node, role, allow)


def _built(key: str, node: Mapping[str, Any], role: Role | None, allow: Sequence[str]) -> "partial[Any]":
    nested = None if role is None else role.nested
    given = {
        name: _nested(f"{key}.{name}", value, allow, role if name == nested else None)
        for name, value in node.items()
        if not _is_private(name)
    }
    return partial(located(key, node[TARGET], role, allow), **given)


def _nested(key: str, value: Any, allow: Sequence[str], role: Role | None = None) -> Any:
    """Return ``value`` with each mapping in it that has a ``_target_`` replaced by the part it describes.

    If there is a ``role``, ``value`` maps names to parts of this role, and these are bound and not built.
    """
    if role is not None and isinstance(value, Mapping) and TARGET not in value:
        return {
            name: _built(f"{key}.{name}", item, role, allow)
            if isinstance(item, Mapping) and TARGET in item
            else _nested(f"{key}.{name}", item, allow)
            for name, item in value.items()
        }
    if isinstance(value, Mapping) and TARGET in value:
        made = _built(key, value, None, allow)
        return made if value.get(PARTIAL) else made()
    if isinstance(value, Mapping):
        return {name: _nested(f"{key}.{name}", item, allow) for name, item in value.items()}
    if isinstance(value, list):
        return [_nested(f"{key}[{i}]", item, allow) for i, item in enumerate(value)]
    return value


def named(key: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each mapping in ``node`` that has a ``_target_``, with its dotted key; ``key`` is the key of ``node``."""
    if isinstance(node, Mapping):
        if TARGET in node:
            yield key, dict(node)
        for name, value in node.items():
            yield from named(f"{key}.{name}", value)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from named(f"{key}[{i}]", value)


def _is_private(name: Any) -> bool:
    return re.fullmatch(r"_\w+_", str(name)) is not None


def _own(name: str, role: Role) -> Any:
    """Return the class or function that ``name`` names in the modules of ``role``; None if it is none of that role."""
    root = next((module for module in role.modules if name.startswith(f"{module}.")), None)
    if root is None:
        return None
    try:
        importlib.import_module(root)  # a constant of this file or of runs.config.roles, never a name from elsewhere
    except ImportError:
        return None
    module, _, attribute = name.rpartition(".")
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    if role.functions == module and attribute in _listed(module):
        return found
    return found if role.suits(found) and attribute not in role.but else None


def _of_the_user(key: str, name: str, role: Role | None, below: tuple[str, ...]) -> Any:
    """Return the class or function ``name`` of a package that the user allows, which is imported."""
    try:
        found = pkgutil.resolve_name(name)
    except ImportError as error:
        raise InputError(f"{key}.{TARGET}={name} cannot be imported ({str(error).splitlines()[0]})") from error
    except (AttributeError, ValueError) as error:
        raise InputError(f"{key}.{TARGET}={name} does not exist") from error
    home = f"{getattr(found, '__module__', '')}."
    if not (isinstance(found, type) or inspect.isfunction(found)) or not home.startswith(below):
        raise InputError(f"{key}.{TARGET}={name} is not a class or function of that package")
    if role is None or role.suits(found) or (role.functions and not isinstance(found, type)):
        return found
    raise InputError(f"{key}.{TARGET}={name} is not {role.words}")


def _refusal(key: str, target: Any, role: Role | None) -> str:
    shown, package = str(target)[:100], str(target).partition(".")[0][:50]
    what = f"{key}.{TARGET}={shown}"
    if role and any(str(target).startswith(f"{module}.") for module in role.modules):
        what += " does not exist or"
    allowed = f"name {role.words}" if role else "a part inside a part cannot be named here"
    dotted = package.isidentifier() and "." in str(target)
    own = dotted and package not in ("metrad", *sys.stdlib_module_names)
    advice = f"'allow_targets=[{package}]'" if own else "its package in allow_targets"
    return f"{what} is not allowed; {allowed}, or for code of your own add {advice}"


@cache
def _imported(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


def _listed(module: str) -> list[str]:
    names: list[str] = sys.modules[module].__all__
    return names
