"""The arguments of a training command, made ready for Hydra.

Hydra accepts options only before the settings, and reads letters outside ASCII, ``~`` and ``=`` in a value only in
quotes. Here options may stand anywhere, and such words get their quotes.
"""

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from metrad.errors import InputError
from metrad.quoting import argument, as_text, value

MOST_RUNS = 100_000  # of a sweep; Hydra composes all of them before the first begins

_FLAGS = ("multirun", "run", "resolve", "hydra-help", "version", "shell-completion")
_ALLOWED = {  # of the options that take one of a few words
    "cfg": ("job", "hydra", "all"),
    "info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
_MODES = ("multirun", "run", "cfg", "info", "shell-completion", "hydra-help", "version")  # one of which a command has
_VALUED = ("cfg", "package", "config-path", "config-name", "config-dir", "experimental-rerun")
_SHOWN = ["multirun", "cfg"]
_SHORT = {
    "multirun": "-m",
    "run": "-r",
    "shell-completion": "-sc",
    "cfg": "-c",
    "package": "-p",
    "config-path": "-cp",
    "config-name": "-cn",
    "config-dir": "-cd",
}
_TOKEN = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\$\{[^}]*\}|[\[\]{}(),]|[^\[\]{}(),'\"]+")
_NEEDED = ("backbone", "dataset", "head", "optimizer", "scorer", "trainer")
_DASHES = "\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{HYPHEN}"  # for which editors replace hyphens
_READABLE = re.compile(r"[A-Za-z0-9_/\-\\+.$%*@?|:\s\[\]{}(),'\"]*")


def for_hydra(argv: Sequence[str]) -> list[str]:
    """Return the arguments of the command line for Hydra: options first, ``sweep=NAME`` as ``sweep.name=NAME``.

    Raises:
        InputError: an option is unknown, a setting has no key, a group is given several choices, the name of a sweep is
            no folder name, or there are too many runs.
    """
    from metrad.runs.config.catalogue import choices
    from metrad.runs.naming import sweep_name

    options, settings = split(argv)
    for item in settings:
        group, _, value = item.lstrip("+").partition("=")
        name = group.partition("@")[0]
        if value.lstrip().startswith("[") and name in choices().keys() - {"experiment"}:
            raise InputError(f"{group} is given several choices and takes one; give one, as in {group}=NAME")
        if item.startswith("~"):
            _require_removable(item)
        if name == "experiment" and re.search(r"[\[{,]\s*[\[{]", value):
            raise InputError(f"{argument(item)} must name experiments, as in experiment=[demo,frozen]")
    settings = [_literal(re.sub(r"^sweep=", "sweep.name=", item)) for item in settings]
    for item in settings:
        if item.startswith("="):
            raise InputError(f"{argument(item)} names no setting; write KEY=VALUE")
        if item.lstrip("+").startswith("sweep.name="):
            sweep_name(item.partition("=")[2].strip("'\""), time="")
    settings = [readable(at_home(item)) for item in settings]
    for item in settings:
        if parsed(item) is None or item.count("${") > item.count("}"):
            raise InputError(f"{argument(item)} cannot be read as a setting: {_unreadable(item)}")
    require_few_runs(settings)
    return [*options, *settings]


def _require_removable(item: str) -> None:
    """Check that the setting or part that ``item`` removes is none that every run has.

    Raises:
        InputError: it is one; the line says how to set it instead.
    """
    from metrad.runs.config.catalogue import choices
    from metrad.runs.config.schema import PARTS, SETTINGS

    key = item[1:].partition("=")[0]
    found = SETTINGS.get(key)
    if key in _NEEDED:
        raise InputError(f"{argument(item)} removes a part that every run needs; choose another by {key}=NAME")
    if found is None or key in choices() or any(key.startswith(f"{part}.") for part in PARTS):
        return
    if found.group or found.part:
        raise InputError(f"{argument(item)} removes settings that every run has; set them, as in {key}.NAME=VALUE")
    example = "VALUE" if found.default == "???" else value(found.default)
    raise InputError(f"{argument(item)} removes a setting that every run has; set it instead, as in {key}={example}")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options, in Hydra's long form, and the settings of a command in which they stand in any order.

    Raises:
        InputError: an option is unknown, or lacks its value.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in _FLAGS:
        parser.add_argument(f"--{name}", *_short(name), action="store_true")
    for name in _VALUED:
        parser.add_argument(f"--{name}", *_short(name), choices=_ALLOWED.get(name))
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=_ALLOWED["info"])
    parser.add_argument("settings", nargs="*")
    found, unknown = parser.parse_known_intermixed_args(list(argv))
    if unknown:
        raise InputError(_unknown_option(unknown[0]))
    given = {name: getattr(found, name.replace("-", "_")) for name in (*_FLAGS, *_VALUED, "info")}
    _require_one_mode([name for name in _MODES if given[name]], resolve=given["resolve"])
    if given["config-dir"]:
        given["config-dir"] = str(Path(given["config-dir"]).expanduser())
    flags = [f"--{name}" for name in _FLAGS if given[name]]
    return [*flags, *(f"--{name}={given[name]}" for name in (*_VALUED, "info") if given[name])], found.settings


def _require_one_mode(modes: Sequence[str], *, resolve: bool) -> None:
    """Check that the options ask for one thing alone; ``resolve`` says whether --resolve is among them.

    Raises:
        InputError: they do not; the line says what to leave out.
    """
    if len(modes) > 1:
        one, other, *_ = modes
        hint = "; it shows the configuration of one run: give each setting one value" if modes == _SHOWN else ""
        raise InputError(f"--{one} and --{other} exclude each other; leave out --{one}{hint}")
    if resolve and modes != ["cfg"]:
        raise InputError("--resolve only changes what --cfg shows; write --cfg job --resolve, or leave it out")


def readable(item: str) -> str:
    """Return a setting ``key=value`` with quotes around the words that Hydra cannot read without; else unchanged."""
    key, equals, value = item.partition("=")
    if not equals or value[:1] in ("'", '"') or parsed(item) is not None:
        return item
    tokens = _TOKEN.findall(value)
    forms = ["".join(map(_word, tokens))] if "".join(tokens) == value else []
    if value[:1] not in ("[", "{"):
        forms.append(as_text(value))
    return next((quoted for form in forms if parsed(quoted := f"{key}={form}") is not None), item)


def at_home(item: str) -> str:
    """Return a setting ``key=~/folder`` with the user's home in place of ``~``, as the shell does for a whole word."""
    from metrad.runs.config.home import expanded

    key, equals, value = item.partition("=")
    return f"{key}={expanded(value)}" if equals else item


def parsed(item: str) -> Any:
    """Return a setting as Hydra reads it; None if Hydra cannot read it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(item)
    except (HydraException, ValueError):  # Python reads no number of more than 4300 digits
        return None


def _unreadable(item: str) -> str:
    """Return why Hydra cannot read ``item``, and what to write."""
    key, equals, value = item.partition("=")
    if item[:1] in _DASHES:
        return "options begin with plain hyphens, as in --multirun"
    if not equals:
        name, colon, content = key.partition(":")
        return f"write {name.strip()}={content.strip()}" if colon else "write KEY=VALUE, such as seed=3"
    if not re.fullmatch(r"(\+{1,2}|~)?[A-Za-z_][\w/@:-]*(\.[\w@:-]+)*", key, re.ASCII):
        return "a key is made of names with dots between, as in dataset.normal=[good]"
    if value.count("${") > value.count("}"):
        return "a ${ is not closed by }"
    return "a bracket or quote is not closed, or stands inside another; text with such signs needs quotes around it"


def require_few_runs(settings: Sequence[str]) -> None:
    """Check that the values of ``settings`` do not stand for more than ``MOST_RUNS`` runs.

    Raises:
        InputError: they do; the line names the setting with the most values.
    """
    counts = {item: count for item in settings if (count := _values(parsed(item))) > 1}
    total = math.prod(counts.values())
    if total > MOST_RUNS:
        most = max(counts, key=lambda item: counts[item])
        raise InputError(
            f"{argument(most)} makes a sweep of {total:,} runs, and one command makes at most {MOST_RUNS:,}; "
            "list fewer values"
        )


def _values(override: Any) -> int:
    """Return how many values an override of Hydra stands for; 1 if it does not say, as for ``glob(*)``."""
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

    sweep = override.value() if override is not None and override.is_sweep_override() else None
    if isinstance(sweep, ChoiceSweep):
        return len(sweep.list)
    if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None and sweep.step:
        steps = (sweep.stop - sweep.start) / sweep.step
        return 1 if math.isnan(steps) else math.ceil(min(max(steps, 0), 1e18))
    return 1


def _word(token: str) -> str:
    """Return a token of a list with quotes around the words in it that Hydra cannot read; a mapping keeps its keys."""
    if token[0] in "'\"$" or _READABLE.fullmatch(token):
        return token
    key, colon, value = token.partition(": ")
    if colon and re.fullmatch(r"\s*[A-Za-z_][\w.-]*\s*", key, re.ASCII):
        return f"{key}: {_word(value)}" if value else token
    space = token[: len(token) - len(token.lstrip())]
    return f"{space}{as_text(token.strip())}"


def _literal(item: str) -> str:
    """Quote the name of a sweep, so that Hydra reads a name such as 2026_11 or true as a string."""
    key, _, value = item.partition("=")
    named = key.lstrip("+") == "sweep.name" and re.fullmatch(r"[\w.+-]+", value) and value != "null"
    return f"{key}='{value}'" if named else item


def _short(name: str) -> Iterator[str]:
    if name in _SHORT:
        yield _SHORT[name]


def _unknown_option(word: str) -> str:
    from metrad.runs.config.catalogue import choices
    from metrad.runs.config.schema import PARTS, RANGES, SETTINGS
    from metrad.runs.config.suggestions import suggestion

    name, equals, value = word.lstrip("-").partition("=")
    if name in SETTINGS or name in choices() or name.partition(".")[0] in PARTS or name == "sweep":
        return f"{word} is no option: settings have no dashes; write {name}={value if equals else 'VALUE'}"
    meant = [key for key in (*SETTINGS, *RANGES) if key.endswith(f".{name}")]
    if meant:
        return f"{word} is no option: settings have no dashes; write {meant[0]}={value if equals else 'VALUE'}"
    options = [f"--{name}" for name in (*_FLAGS, *_VALUED, "info", "help")]
    hint = suggestion(word.partition("=")[0], options)
    return f"{word} is no option of a training command (settings have no dashes, as in seed=3); {hint}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; metrad train --help lists choices and settings")
