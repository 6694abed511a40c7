"""The annotations of the schema's fields, and the settings that are read from the fields."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

HASHED: Any = object()  # as Key.before: a run without the setting differs from every run with the setting


MOST_ITEMS = 500  # of a list of numbers, such as the channels of a network
_SHOWN = 200  # characters of a refused value that a message repeats


def shown(value: Any) -> str:
    """Return a refused value for a message, cut if it is long."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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


def within(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    excluding: tuple[str, ...] = (),
    whole: bool = False,
    null: bool = False,
) -> Rule:
    """Return the rule that a number is finite and lies between two ends.

    Args:
        low: the lower end.
        high: the upper end.
        excluding: the ends that are not allowed themselves: "low", "high" or both.
        whole: whether it must be a whole number.
        null: whether null is allowed too.
    """

    def holds(given: Any) -> bool:
        if given is None:
            return null
        if isinstance(given, bool) or not isinstance(given, int | float):
            return False
        inside = (low < given if "low" in excluding else low <= given) and (
            given < high if "high" in excluding else given <= high
        )
        return inside and abs(given) < math.inf and (not whole or isinstance(given, int))

    words = _between(low, high, excluding)
    joint = " of" * words.startswith("at ")
    return Rule(f"be {f'a whole number{joint} ' * whole}{words}{', or null' * null}", holds)


def _between(low: float, high: float, excluding: tuple[str, ...]) -> str:
    """Return the limits of a number in words, such as "above 0 and at most 1"; an infinite end is left out."""
    lower = [f"above {low}" if "low" in excluding else f"at least {low}"] * (low > -math.inf)
    upper = [f"below {high}" if "high" in excluding else f"at most {high}"] * (high < math.inf)
    return f"between {low} and {high}" if lower and upper and not excluding else " and ".join(lower + upper)


def each(rule: Rule, count: int | None = None) -> Rule:
    """Return the rule that each item of a list satisfies ``rule``, and that there are ``count`` items.

    Where ``count`` is None, there may be any number up to ``MOST_ITEMS``.
    """

    def holds(given: Any) -> bool:
        if not isinstance(given, list) or not all(map(rule.holds, given)):
            return False
        return len(given) <= MOST_ITEMS if count is None else len(given) == count

    kind = f"each {rule.must.removeprefix('be ')}"
    words = f"numbers, {MOST_ITEMS} or fewer, {kind}" if count is None else f"{count} numbers, {kind}"
    return Rule(f"be a list of {words}", holds)


@dataclasses.dataclass(frozen=True)
class Part:
    """Marks a setting that names a class by ``_target_``, beside arguments of that class.

    Attributes:
        known: a class of the schema with the arguments that metrad itself reads; None if it reads none.
        given: the arguments that metrad itself passes at run time.
        may_be_empty: whether the setting may be empty, so that nothing is built.
        ranges: the rules for the arguments of the shipped classes and of the libraries', by name.
    """

    known: type | None = None
    given: tuple[str, ...] = ()
    may_be_empty: bool = False
    ranges: Mapping[str, Rule] = dataclasses.field(default_factory=dict)

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


_ENDS = (("ge", "gt", -math.inf), ("le", "lt", math.inf))


def _must(field: Any) -> str:
    """Return the rule of a field in words; empty if it has none."""
    rules = [item.must for item in field.metadata if isinstance(item, Rule)]
    names = ("ge", "gt", "le", "lt")
    limits = {name: getattr(item, name) for item in field.metadata for name in names if hasattr(item, name)}
    if rules or not limits:
        return rules[0] if rules else ""
    low, high = (limits.get(closed, limits.get(opened, end)) for closed, opened, end in _ENDS)
    excluding = ("low",) * ("gt" in limits) + ("high",) * (limits.get("lt", math.inf) < math.inf)
    return f"be {_between(low, high, excluding)}{', or null' * (type(None) in get_args(field.annotation))}"
