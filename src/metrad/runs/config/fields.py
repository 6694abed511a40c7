"""The annotations of the schema's fields, and the settings that are read from the fields."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

HASHED: Any = object()  # as Key.before: a run without the setting differs from every run with the setting


@dataclasses.dataclass(frozen=True)
class Key:
    """The history of a setting, and its role in identity and selection.

    Attributes:
        since: version that added the setting; 0.1 for all settings of the runs in ``docs/results/article``.
        before: value that the setting implicitly has in runs older than it. A run with this value has the identity of
            a run without the setting.
        identity: whether the metrics of a run depend on the setting by more than rounding.
        selectable: whether ``selection.candidates`` may contain the setting, or settings below it.
        own_values: whether metrad accepts values, such as auto, that the class built with the setting does not.
    """

    since: str = "0.1"
    before: Any = HASHED
    identity: bool = True
    selectable: bool = False
    own_values: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule that the type and limits of a setting do not express.

    Attributes:
        must: the rule in words that follow "must", such as "be auto, true or false".
        holds: returns whether a value satisfies the rule.
    """

    must: str
    holds: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic check the rule after the type."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(self.must)
        return value


def one_of(*values: str | bool) -> Rule:
    """Return the rule that a value is one of ``values`` and of the same type."""
    *firsts, last = (str(value).lower() if isinstance(value, bool) else value for value in values)
    text = f"be {', '.join(firsts)} or {last}"
    return Rule(text, lambda given: any(given == value and type(given) is type(value) for value in values))


@dataclasses.dataclass(frozen=True)
class Part:
    """Marks a setting that names a class by ``_target_``, beside arguments of that class.

    Attributes:
        known: a class of the schema with the arguments that metrad itself reads; None if it reads none.
        given: the arguments that metrad itself passes at run time.
        may_be_empty: whether the setting may be empty, so that nothing is built.
    """

    known: type | None = None
    given: tuple[str, ...] = ()
    may_be_empty: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic check the arguments that metrad reads."""
        return handler(source) if self.known is None else handler.generate_schema(self.known)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The entry of the schema for one setting, or for a group of settings.

    Attributes:
        default: the default value; ``???`` if there is none.
        description: one line that describes the setting.
        must: the rule for its value, such as "be at least 0"; empty if every value of its type is allowed.
        key: the history of the setting, and its role in identity and selection.
        part: the mark of a setting that names a class; None for other settings.
        group: whether there are settings below it.
    """

    default: Any
    description: str
    must: str
    key: Key
    part: Part | None
    group: bool


def settings(section: Any, parent: str = "") -> Iterator[tuple[str, Setting]]:
    """Yield the dotted key, which begins with ``parent``, and the entry of each setting of a class of the schema."""
    for name, field in section.__pydantic_fields__.items():
        key = next((item for item in field.metadata if isinstance(item, Key)), Key())
        part = next((item for item in field.metadata if isinstance(item, Part)), None)
        kinds = (part.known,) if part else (field.annotation, *get_args(field.annotation))
        below = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        default = field.get_default(call_default_factory=True)
        yield parent + name, Setting(default, field.description or "", _must(field), key, part, below is not None)
        if below:
            yield from settings(below, f"{parent}{name}.")


def _must(field: Any) -> str:
    """Return the rule of a field in words; empty if it has none."""
    rules = [item.must for item in field.metadata if isinstance(item, Rule)]
    names = ("ge", "gt", "le", "lt")
    limits = {name: getattr(item, name) for item in field.metadata for name in names if hasattr(item, name)}
    if rules or not limits:
        return rules[0] if rules else ""
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt", math.inf))
    text = f"be at least {low}" if high == math.inf else f"be between {low} and {high}"
    return text + (", or null" if type(None) in get_args(field.annotation) else "")
