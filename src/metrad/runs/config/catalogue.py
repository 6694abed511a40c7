"""The catalogue of the shipped YAML files: their folder and their choices."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from metrad.renamed import present


@cache
def folder() -> Path:
    """Return the folder of the shipped YAML files: in an installed package, or at the root of a checkout."""
    inside = Path(__file__).parents[2] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[4] / "conf"


def choices() -> dict[str, dict[str, str]]:
    """Return the choices of each group, each with the first comment of its file."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder().glob("*/*.yaml")):
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        texts = [line[2:] for line in comments if not line.startswith("# @")]
        found.setdefault(path.parent.name, {})[path.stem] = texts[0] if texts else ""
    return found


def choice_of(part: str, settings: Mapping[str, Any]) -> str:
    """Return the name of the shipped choice that the ``settings`` of a part are of; else the name of their class.

    A choice has the same class and, where several choices share it, the same values. A variant of another choice, which
    has it among its defaults, has the same values. No settings are the choice none.
    """
    target = present(str(settings.get("_target_", "none")))
    alike = {name: node for name, node in contents(part).items() if present(str(node.get("_target_"))) == target}
    same = {name: node for name, node in alike.items() if all(settings.get(key) == node[key] for key in node)}
    variants = _variants(part)
    found = [name for name in same if name in variants] or [name for name in alike if name not in variants]
    if len(found) > 1:
        found = [name for name in found if name in same]
    return found[0] if len(found) == 1 else target


def contents(group: str) -> dict[str, dict[str, Any]]:
    """Return the content of each shipped choice of a group, a variant with what it has of the other choice."""
    raw, variants = _raw(group), _variants(group)
    own = {name: {key: value for key, value in node.items() if key != "defaults"} for name, node in raw.items()}
    return {name: {**own.get(variants.get(name, ""), {}), **node} for name, node in own.items()}


def _variants(group: str) -> dict[str, str]:
    """Return for each choice that is made from another choice of its group the name of that one."""
    raw = _raw(group)
    bases = {name: [one for one in raw if one in node.get("defaults", ())] for name, node in raw.items()}
    return {name: found[0] for name, found in bases.items() if found}


@cache
def _raw(group: str) -> dict[str, dict[str, Any]]:
    """Return the content of each file of a group."""
    from omegaconf import OmegaConf

    loaded = {path.stem: OmegaConf.load(path) for path in sorted((folder() / group).glob("*.yaml"))}
    return {name: dict(OmegaConf.to_container(node)) for name, node in loaded.items()}  # type: ignore[arg-type]


def example(key: str) -> Any:
    """Return a value that a shipped choice gives to the setting ``key`` of a part, such as 10; None for none."""
    group, _, name = key.partition(".")
    values = [node[name] for node in contents(group).values() if name in node]
    return next((value for value in values if value is not None and "${" not in str(value)), None)
