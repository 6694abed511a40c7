"""Inputs made from the schema: for each key a wrong type, shape, value and spelling, null, and the ends of its range.

What is drawn depends on the seed alone. Whether a value is right follows from the type of the key and from the words
of its rule, which ``--help`` prints, and not from the code that checks it.
"""

import inspect
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import NoneType
from typing import Any, get_args

from omegaconf import OmegaConf

from metrad.runs.config import catalogue
from metrad.runs.config.roles import ROLES
from metrad.runs.config.schema import PARTS, RANGES, SETTINGS, Config
from tests.helpers.commands import DIGITS, SMALL
from tests.inputs.input import REFUSED, WORKS, Input
from tests.inputs.values import ARGUMENTS_RIGHT, CONTEXTS, RIGHT, WRONG

MISSPELT, TYPE, SHAPE, RANGE, SPECIAL, NULL, VALID = (
    *("misspelt", "wrong type", "wrong shape", "out of range", "nan, infinite or huge", "null"),
    "right value at an end of the range",
)
Kinds = Mapping[str, Sequence[str]]
_LOGGERS = {"flush_logs_every_n_steps": "csv"}
_TEXTS = ("banana", "1px", "two")
_SHAPES = ("[1,2]", "{a: 1}")
_SPECIAL = ("nan", "inf", "-inf")
_HUGE = "1" + 30 * "0"


def generated(seed: int) -> list[Input]:
    """Return the inputs that ``seed`` draws: for each key of the schema a value of each kind, for arguments of one."""
    draw = random.Random(seed)
    found = [one for key in own_keys() for one in _of_own(key, draw)]
    found += [one for key in PARTS for one in _of_part(key, draw)]
    return found + [one for key in arguments() for one in _of_argument(key, draw)]


def own_keys() -> list[str]:
    """Return the keys of the schema that have a value of their own, without parts and their arguments."""
    return [key for key, setting in SETTINGS.items() if not setting.group and key not in (*PARTS, *arguments())]


def arguments() -> list[str]:
    """Return the keys of those arguments of parts that the schema knows."""
    known = [key for key in SETTINGS if key.rpartition(".")[0] in PARTS]
    return list(dict.fromkeys([*known, *RANGES]))


def _of_own(key: str, draw: random.Random) -> Iterator[Input]:
    context, name = CONTEXTS.get(key.partition(".")[0], ()), key.rpartition(".")[2]
    wrong = WRONG.get(key) or _wrong_by_type(_annotation(key), SETTINGS[key].must)
    for kind, values in wrong.items():
        value = draw.choice(values)
        yield Input(_command(*context, f"{key}={value}"), REFUSED, f"{key}: {kind}", words=(name,), kind=kind)
    yield _misspelt(key, wrong[TYPE][0], context, draw)
    value = draw.choice(RIGHT.get(key) or _right_by_type(_annotation(key), SETTINGS[key].must))
    yield Input(("train", *context[:1], *DIGITS, *context[1:], f"{key}={value}"), WORKS, f"{key}: {VALID}", kind=VALID)


def _command(*settings: str) -> tuple[str, ...]:
    flags = [item for item in settings if item.startswith("-") and "=" not in item]
    return ("train", *flags, "experiment=demo", *(item for item in settings if item not in flags))


def _misspelt(key: str, value: str, context: Sequence[str], draw: random.Random) -> Input:
    group, dot, name = key.rpartition(".")
    places = [i for i in range(len(name) - 1) if name[i] != name[i + 1]]
    at = draw.choice(places)
    wrong = f"{name[:at]}{name[at + 1]}{name[at]}{name[at + 2 :]}"
    args = _command(*context, f"{group}{dot}{wrong}={value}")
    return Input(args, REFUSED, f"{key}: {MISSPELT}", words=(wrong, name), kind=MISSPELT)


def _annotation(key: str) -> Any:
    """Return the type of a key in the schema."""
    section: Any = Config
    for name in key.split("."):
        annotation = section.__pydantic_fields__[name].annotation
        below = [kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "__pydantic_fields__")]
        section = below[0] if below else section
    return annotation


def _wrong_by_type(annotation: Any, must: str) -> dict[str, Sequence[str]]:
    """Return wrong values of a key of the type ``annotation`` whose rule says that it must ``must``."""
    kinds = {annotation, *get_args(annotation)}
    null: dict[str, Sequence[str]] = {} if NoneType in kinds or "null" in must else {NULL: ("null",)}
    if int in kinds or float in kinds:
        return {**_wrong_numbers(must, whole=float not in kinds), **null}
    if _words(must):
        texts = [text for text in ("banana", "2", "0.5", "true") if text not in _words(must)]
        return {TYPE: texts, SHAPE: ("[true]", "{a: true}"), **null}
    raise NotImplementedError(f"give values that must {must} in tests/inputs/values.py")


def _words(must: str) -> list[str]:
    """Return the words that a rule such as "be auto, true or false" allows; none for other rules."""
    found = re.fullmatch(r"be (\w+(?:, \w+)*) or (\w+)", must)
    return [*found[1].split(", "), found[2]] if found else []


def _wrong_numbers(must: str, *, whole: bool) -> dict[str, Sequence[str]]:
    low, high = _limits(must)
    beyond = [_moved(end, by, whole) for end, by in ((low, -1), (high, 1)) if end is not None]
    ends = [end for end, word in ((low, "above"), (high, "below")) if end is not None and word in must]
    special = (*_SPECIAL, *([_HUGE] if high is not None else []))
    texts = (*_TEXTS, "true", *(["1.5"] if whole else []))
    return {TYPE: texts, SHAPE: _SHAPES, RANGE: [*beyond, *ends], SPECIAL: special}


def _right_by_type(annotation: Any, must: str) -> list[str]:
    """Return right values of a key at the ends of its range."""
    if _words(must):
        return _words(must)
    kinds = {annotation, *get_args(annotation)}
    low, high = _limits(must)
    whole = float not in kinds
    inside = ((low, "above", 0.001), (high, "below", -0.001))
    return [_moved(end, by, whole) if word in must else end for end, word, by in inside if end is not None]


def _limits(must: str) -> tuple[str | None, str | None]:
    """Return the ends of a range as its rule in words gives them; None where there is none."""
    number = r"(-?[\d.]+)"
    both = re.search(f"between {number} and {number}", must)
    if both:
        return both[1], both[2]
    low, high = re.search(f"(?:above|at least) {number}", must), re.search(f"(?:below|at most) {number}", must)
    return low[1] if low else None, high[1] if high else None


def _moved(end: str, by: float, whole: bool) -> str:
    return str(int(end) + int(by)) if whole else str(round(float(end) + by, 3))


def _of_part(key: str, draw: random.Random) -> Iterator[Input]:
    """Yield inputs of a part as a whole: a wrong choice, null, a value in its place, and a class of another kind."""
    choices = sorted(catalogue.choices().get(key, ()))
    wrong = {
        TYPE: ("7", "true"),
        SHAPE: ("[a,b]",),
        NULL: ("null",),
        MISSPELT: [f"{choice}x" for choice in choices] or ["banana"],
    }
    for kind, values in wrong.items():
        args = _command(f"{key}={draw.choice(values)}")
        yield Input(args, REFUSED, f"{key}: {kind}", words=(key.partition(".")[0],), kind=kind)
    target = draw.choice(("os.system", "builtins.print", "metrad.nosuch.Thing", "7", "null"))
    args = _command(f"++{key}._target_={target}")
    yield Input(args, REFUSED, f"{key}: another class", words=(f"{key}._target_",), kind=TYPE)


def _of_argument(key: str, draw: random.Random) -> Iterator[Input]:
    """Yield an input with a wrong value of an argument of a part, and one with a right value if there is a table's."""
    part, _, name = key.rpartition(".")
    must = RANGES[key].must if key in RANGES else SETTINGS[key].must
    wrong = WRONG.get(key) or _wrong_argument(must)
    kind = draw.choice(sorted(wrong))
    ground, files = _ground(part, name)
    setting = f"++{key}={draw.choice(wrong[kind])}"
    yield Input(_command(*ground, setting), REFUSED, f"{key}: {kind}", files, (name,), kind)
    if key in ARGUMENTS_RIGHT:
        args = ("train", *(SMALL if files else DIGITS), *ground, f"++{key}={draw.choice(ARGUMENTS_RIGHT[key])}")
        yield Input(args, WORKS, f"{key}: {VALID}", files, kind=VALID)


def _wrong_argument(must: str) -> dict[str, Sequence[str]]:
    wrong = _wrong_numbers(must, whole="whole number" in must)
    if "list" in must:
        inner = {kind: [f"[{value}]" for value in values] for kind, values in wrong.items()}
        return {**inner, TYPE: _TEXTS, SHAPE: ("{a: 1}", "[[1]]")}
    return wrong


@cache
def _ground(part: str, name: str) -> tuple[tuple[str, ...], str]:
    """Return settings in which ``part`` has the argument ``name``, and the folder that they need.

    It is a shipped choice if one has it, else a class of the part's libraries.
    """
    if part == "dataset.source":
        return CONTEXTS["parts"], "parts"
    for choice in catalogue.choices().get(part, ()):
        content = OmegaConf.load(catalogue.folder() / part / f"{choice}.yaml")
        if name in content and OmegaConf.to_container(content, resolve=False).get("name") != "???":
            weights = ("backbone.weights=null",) if content.get("weights") == "imagenet" else ()
            return (f"{part}={choice}", *weights), ""
    if part in ("trainer", "backbone"):
        return (), ""
    return (_of_class(part, name) if part != "logger" else (f"logger={_LOGGERS.get(name, 'tensorboard')}",)), ""


def _of_class(part: str, name: str) -> tuple[str, ...]:
    """Return settings that put a class of a library with the argument ``name`` in place of the part's own."""
    base = {"optimizer": "adam", "scheduler": "step"}[part]
    given = PARTS[part].given
    module = import_module(ROLES[part].modules[0])
    for title, found in sorted(vars(module).items()):
        if not inspect.isclass(found) or name not in (parameters := inspect.signature(found).parameters):
            continue
        needed = [p.name for p in parameters.values() if p.default is p.empty and p.name not in given]
        if all(f"{part}.{one}" in RANGES for one in needed):
            kept = OmegaConf.load(catalogue.folder() / part / f"{base}.yaml")
            removed = [f"~{part}.{old}" for old in kept if old[0] != "_" and old not in parameters]
            lists = [one for one in needed if "list" in RANGES[f"{part}.{one}"].must]
            values = [f"++{part}.{one}={'[1]' if one in lists else 1}" for one in needed if one != name]
            return (f"{part}={base}", f"{part}._target_={module.__name__}.{title}", *removed, *values)
    raise LookupError(f"no class of {module.__name__} takes {name}")
