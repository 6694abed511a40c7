"""The contents of a run's JSON files: their types and ranges, as far as something reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from metrad.data.splits import ROLES
from metrad.errors import InputError
from metrad.evaluation.metrics import ROUNDING, by_name, is_value

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]
Share = Annotated[float, Field(ge=0, le=1)]
Between = Annotated[float, Field(gt=0, lt=1)]  # a level or rate that says something
Metric = Annotated[float, Field(ge=0, le=1 + ROUNDING)]
Count = Annotated[int, Field(ge=0, le=10**12)]
MOST_SECONDS = 1e12
BY_KIND_SINCE = "0.2"  # first version whose thresholds have the detection of each of several kinds of anomalies
UNMEASURED = "no anomalous test images, so no AUROC"  # stands as the reason in tables of runs
_AGAIN = "copy or create it again"


class _Content(BaseModel):
    """Entries that are read. Those that earlier versions lack may be missing, and others are left alone."""

    model_config = ConfigDict(strict=True, extra="allow")


def _rising(ends: list[float]) -> list[float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the lower end {ends[0]} of an interval is above its upper end {ends[1]}")
    return ends


_Shares = Annotated[list[Metric], Field(min_length=2, max_length=2), AfterValidator(_rising)]


class _Detected(_Content):
    images: Annotated[int, Field(ge=1, le=10**12)]
    rate: Share
    interval: _Shares


class _Threshold(_Content):
    false_alarm_rate: Between
    threshold: Finite
    test_false_alarm_rate: Share
    test_false_alarm_interval: _Shares
    test_detection_rate: Share | None
    test_detection_interval: _Shares | None
    by_kind: dict[str, _Detected] = {}
    worst_kind: str | None = None

    @model_validator(mode="after")
    def _names_its_worst_kind(self) -> Self:
        if self.by_kind and (self.worst_kind not in self.by_kind or self.test_detection_rate is None):
            raise ValueError(f"worst_kind must be one of by_kind in a run with anomalous images, got {self.worst_kind}")
        return self


class _ConfidentThreshold(_Threshold):
    confidence: Between


class _Intervals(_Content):
    level: Between
    auroc_delong: _Shares | None
    bootstrap: dict[str, _Shares] = {}


class _OfClass(_Content):
    images: Annotated[int, Field(ge=1, le=10**12)]


class _BeyondTrivial(_Content):
    property: str
    auroc: Metric
    difference: Annotated[float, Field(ge=-1 - ROUNDING, le=1 + ROUNDING)] = 0.0
    interval: Annotated[list[Finite], Field(min_length=2, max_length=2), AfterValidator(_rising)] = [0.0, 0.0]


class _Confound(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    name: str
    auroc: Metric
    p_value: Share
    along: list[str]


class _Exchangeability(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    p_value: Share
    higher: Share


class _Audit(_Content):
    confound: _Confound | None = None
    exchangeability: _Exchangeability | None = None


class _Metrics(_Content):
    audit: _Audit | None = None
    trivial: dict[str, Metric] = {}
    beyond_trivial: _BeyondTrivial | None = None
    per_class: dict[str, _OfClass] = {}
    intervals: _Intervals | None = None
    thresholds: list[_Threshold] = []
    confident_thresholds: list[_ConfidentThreshold] = []
    sizes: dict[str, Count] = {}
    groups: dict[str, Count] = {}
    copies_left_out: Count = 0
    corrupt_left_out: Count = 0
    split: str | None = None


class _Edge(_Content):
    false_alarm_rate: Between
    confidence: Between | None = None
    threshold: Finite
    unchanged: Share


class _Step(_Content):
    strength: Finite
    false_alarm_rates: list[Share]
    intervals: list[_Shares]


class _Change(_Content):
    change: str
    unit: str
    doubled_at: list[Finite | None]
    steps: Annotated[list[_Step], Field(min_length=1)]


class _Envelope(_Content):
    images: Annotated[int, Field(ge=1, le=10**12)]
    groups: Count | None = None
    level: Between
    thresholds: Annotated[list[_Edge], Field(min_length=1)]
    changes: Annotated[list[_Change], Field(min_length=1)]


class _Status(_Content):
    state: str | None = None
    error: str = ""
    identity: str | None = None
    epoch: Count = 0
    epochs: Count | None = None
    training: Count = 0
    trainings: Count = 1


class _Split(_Content):
    hash: str
    classes: dict[str, list[str]]
    head_classes: list[str]
    copies_left_out: Count
    corrupt_left_out: list[str]
    images: dict[str, list[str]]
    left_out_for_groups: Count = 0
    groups: dict[str, list[Count]] = {}


def metrics(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of the ``metrics.json`` at ``path`` if it holds metrics.

    They are null if the run has no anomalous test images, and only then.

    Raises:
        InputError: it holds no metric, or an entry has a wrong type or range.
    """
    found = _checked(_Metrics, content, path, "no metrics of a run")
    _require_values(found, path)
    for name, each in found.get("per_class", {}).items():
        _require_metrics(each, path, f"per_class.{name}.")
    seconds = found.get("seconds", {})
    if not isinstance(seconds, dict) or not all(map(_is_duration, seconds.values())):
        raise InputError(f"{path}: seconds.total must be a number, got {seconds!r}"[:400])
    if found.keys().isdisjoint(by_name()):
        raise InputError(f"{path} holds no metrics of a run; {_AGAIN}")
    return found


def complete(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of a ``metrics.json`` that has what a report shows; every version of metrad wrote that.

    Raises:
        InputError: as for ``metrics``, or an entry is missing.
    """
    found = metrics(content, path)
    for name in ("auroc", "intervals", "thresholds", "seconds"):
        if found.get(name) is None and not (name == "auroc" and name in found):
            raise InputError(f"{path} lacks {name}; {_AGAIN}")
    if is_unmeasured(found):
        return found
    low, high = found["intervals"]["auroc_delong"]
    if not low - ROUNDING <= found["auroc"] <= high + ROUNDING:
        raise InputError(f"{path}: auroc {found['auroc']} lies outside its interval from {low} to {high}; {_AGAIN}")
    return found


def _require_values(found: dict[str, Any], path: Path) -> None:
    """Raise ``InputError`` unless all that takes anomalous images is there, or all null in a run without any."""
    entries = [(name, found[name]) for name in by_name() if name in found]
    measured = not is_unmeasured(found)
    if measured:
        _require_metrics(found, path)
    if found.get("intervals"):
        entries.append(("intervals.auroc_delong", found["intervals"]["auroc_delong"]))
    for kind in ("thresholds", "confident_thresholds"):
        names = ("test_detection_rate", "test_detection_interval")
        entries += [(f"{kind}.{name}", entry[name]) for entry in found.get(kind, []) for name in names]
    for name, value in entries:
        if (value is None) == measured:
            must = "must not be null" if measured else "must be null, since the run has no anomalous test images"
            raise InputError(f"{path}: {name} {must}, got {value!r}"[:400])


def _require_metrics(found: Mapping[str, Any], path: Path, where: str = "") -> None:
    for name in by_name():
        value = found.get(name, 0.0)
        if not is_value(value):
            raise InputError(f"{path}: {where}{name} must be a number from 0 to 1, got {value!r}"[:400])


def is_unmeasured(found: Mapping[str, Any]) -> bool:
    """Return whether the content of a ``metrics.json`` is of a run without anomalous test images."""
    return bool(found.get("sizes", {}).get("test_anomalous") == 0)


def lacks_kinds(found: Mapping[str, Any]) -> bool:
    """Return whether a ``metrics.json`` of several kinds of anomalies has thresholds without the detection of each."""
    return bool(found.get("per_class")) and any("by_kind" not in entry for entry in found.get("thresholds", []))


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_SECONDS


def envelope(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of the ``envelope.json`` at ``path``.

    Raises:
        InputError: an entry is missing, has a wrong type or range, or lacks a value for a threshold.
    """
    found = _checked(_Envelope, content, path, "no envelope of a run")
    count = len(found["thresholds"])
    for change in found["changes"]:
        columns = [change["doubled_at"]]
        columns += [step[name] for step in change["steps"] for name in ("false_alarm_rates", "intervals")]
        if any(len(column) != count for column in columns):
            raise InputError(f"{path}: the change {change['change']!r} must have {count} values, one a threshold"[:400])
    return found


def status(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of the ``status.json`` at ``path``.

    Raises:
        InputError: an entry has a wrong type.
    """
    return _checked(_Status, content, path, "no state of a run")


def split(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of the ``split.json`` at ``path`` if it describes a split.

    Raises:
        InputError: an entry is missing or has a wrong type.
    """
    found = _checked(_Split, content, path, "no split of a run")
    for entry, wanted in (("classes", ("reference", "normal", "anomalous")), ("images", ROLES)):
        if found[entry].keys() != set(wanted):
            raise InputError(f"{path} holds no split of a run ({entry} must have {', '.join(wanted)})")
    return found


def _checked(model: type[_Content], content: Any, path: Path, fault: str) -> dict[str, Any]:
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path} holds {fault} ({where + ': ' if where else ''}{first['msg']}); {_AGAIN}") from error
    found: dict[str, Any] = content
    return found
