"""The schema of the configuration: type, default, range, description and history of each setting.

Hydra, the checks before a run, ``--help``, the identity of a run and comparisons read it. A new setting is a field here
and a line in ``conf/``. Tests fail if ``Key`` does not give the version that added it and its value in older runs.
"""

import math
from dataclasses import field
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from metrad.data.sizing import AUTO
from metrad.errors import InputError
from metrad.quoting import setting
from metrad.runs.config import ranges
from metrad.runs.config.catalogue import example
from metrad.runs.config.fields import HASHED, Key, Part, Rule, one_of, settings, shown, within
from metrad.runs.config.suggestions import suggestion
from metrad.training import finetuning as training

_MISSING: Any = "???"  # OmegaConf's mark of a value that the user must set
_closed = dataclass(config=ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False))
_open = dataclass(config=ConfigDict(extra="allow", use_attribute_docstrings=True))


def _are_classes(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str | int) and not isinstance(item, bool) for item in items)


def _can_be_held_out(value: Any) -> bool:
    return value is None or (_are_classes(value) and (value >= 1 if isinstance(value, int) else value != []))


def _is_depth(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 8 <= value <= 16


def _is_pattern(value: Any) -> bool:
    return isinstance(value, dict)  # ``Dataset`` checks what is in it


def _are_rates(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and len(value) <= _MOST_RATES
        and all(isinstance(rate, int | float) and 0 < rate < 1 for rate in value)
        and len(set(value)) == len(value)
    )


def _is_calibration_size(value: Any) -> bool:
    return value == AUTO if isinstance(value, str) else _is_size(value)


def _is_size(value: Any) -> bool:
    return value is None or (value >= 0 if isinstance(value, int) else 0 <= value <= 1)


_CLASSES = Rule("list class names or numbers", lambda value: value is None or _are_classes(value))
_HELD_OUT = Rule("be null, a count of at least 1, or a list of class names or numbers", _can_be_held_out)
_MOST_RATES, _MOST_CHOICES = 100, 1000
_RATES = Rule(
    f"be a list of different rates above 0 and below 1, such as [0.01,0.05] (at most {_MOST_RATES}), or null",
    _are_rates,
)
_CHOICES = Rule(
    f"be a list of at least one choice, such as [{{}}], and {_MOST_CHOICES} or fewer",
    lambda value: 1 <= len(value) <= _MOST_CHOICES,
)
DEFECTS = ("cutpaste", "scar", "blended_patch", "blended_texture")  # ``synthetic_defects`` imports what takes time
_DEFECTS = Rule(
    "list different kinds of synthetic defect: cutpaste, scar, blended_patch or blended_texture",
    lambda value: len(set(value)) == len(value) and set(value) <= set(DEFECTS),
)
_SIZE = Rule("be a count of at least 0, a share between 0 and 1, or null", _is_size)
_CALIBRATION_SIZE = Rule("be a count of at least 0, a share between 0 and 1, auto, or null", _is_calibration_size)
_BITS = Rule("be auto or a number of bits from 8 to 16", lambda value: value == "auto" or _is_depth(value))
_GROUP = Rule(
    "be auto, parent, a column, a pattern with named groups, {pattern: …, gap: …, size: …}, or null",
    lambda value: value is None or isinstance(value, str) or _is_pattern(value),
)
_SWITCH = one_of("auto", True, False)
_FLAG = one_of(True, False)  # OmegaConf would take every number for a bool
_ASIDE = Key(identity=False)
_CHOSEN = Key(selectable=True)


@_open
class Backbone:
    """The arguments of a backbone that metrad itself reads."""

    layers: Annotated[Any, Key(before=None)] = None


@_open
class Trainer:
    """The arguments of Lightning's trainer that metrad itself reads."""

    accelerator: Annotated[Any, _ASIDE] = None
    devices: Annotated[Any, _ASIDE] = None
    num_nodes: Annotated[Any, _ASIDE] = None
    strategy: Annotated[Any, _ASIDE] = None
    precision: Annotated[Any, Key(identity=False, own_values=True)] = None
    accumulate_grad_batches: Annotated[Any, ranges.TRAINER["accumulate_grad_batches"]] = None
    enable_progress_bar: Annotated[Any, _SWITCH, Key(identity=False, own_values=True)] = None
    log_every_n_steps: Annotated[Any, _ASIDE] = None


@_closed
class Paths:
    """Folders outside the run."""

    data: str = "${oc.env:METRAD_DATA,data}"
    """folder of the data; the environment variable METRAD_DATA sets it too"""


# The rule for each setting of a pattern with settings of its own.
_OF_PATTERN = {
    "pattern": Rule("be a regular expression with a named group", lambda value: isinstance(value, str)),
    "gap": within(1, whole=True),
    "size": within(0, 1, excluding=("high",), null=True),
}


def _require_pattern(group: dict[Any, Any]) -> None:
    """Check the settings of the mapping ``dataset.group``; ``groups.Pattern`` reads the expression itself."""
    for name in group:
        if name not in _OF_PATTERN:
            raise InputError(f"unknown configuration key dataset.group.{name}; {suggestion(str(name), _OF_PATTERN)}")
    for name, rule in _OF_PATTERN.items():
        if not rule.holds(group.get(name)) and (name in group or name == "pattern"):
            raise InputError(f"dataset.group.{name} must {rule.must}, got {shown(group.get(name))}")


@_closed
class Sizes:
    """The number of images of each role: a count, a share between 0 and 1, or null for all remaining images."""

    reference: Annotated[int | float | None, _SIZE] = None
    """number of reference images: a count, a share such as 0.1, or null for all remaining images"""
    normal: Annotated[int | float | None, _SIZE] = None
    """number of normal training images, in the same form"""
    calibration: Annotated[int | float | str | None, _CALIBRATION_SIZE] = 0.1
    """number of normal images that thresholds are computed from, in the same form; auto: from the number of groups"""
    test_normal: Annotated[int | float | None, _SIZE] = None
    """number of normal test images, in the same form"""
    test_anomalous: Annotated[int | float | None, _SIZE] = None
    """number of anomalous test images, in the same form"""


@_closed
class Dataset:
    """The source of the images, the roles of its classes, and the storage of decoded images."""

    source: Annotated[dict[str, Any], Part(ranges=ranges.SOURCE)] = _MISSING
    category: Annotated[str | None, Key(since="0.2", before=None)] = None
    """the category of dataset=mvtec or dataset=visa, such as screw; null for datasets without categories"""
    normal: Annotated[Any, _CLASSES] = _MISSING
    """normal classes, by name or number; null for all remaining classes"""
    anomalous: Annotated[Any, _CLASSES] = _MISSING
    """anomalous classes, in the same form; [] if there are no images of anomalies"""
    reference: Annotated[Any, _CLASSES] = None
    """reference classes, neither normal nor anomalous, which the head learns to classify; in the same form"""
    sizes: Sizes = field(default_factory=Sizes)
    test_share: Annotated[float | None, Field(gt=0, lt=1)] = 0.2
    """share of the normal images that become test images if the source has no test part; null: a fifth of the groups"""
    rotations: Annotated[Any, _FLAG] = False
    """whether the head also learns to classify rotations by 0, 90, 180 and 270 degrees"""
    group: Annotated[Any, _GROUP, Key(since="0.2", before=None)] = None
    """which images show one part and stay on one side of the split; auto: as names and likeness say; null: none"""
    on_corrupt: Annotated[str, one_of("error", "skip")] = "error"
    """what to do with an image that cannot be decoded: end with an error, or skip it"""
    range: Annotated[Any, _BITS, Key(since="0.2", before="auto")] = "auto"
    """bits of the range that images of more than 8 bits are scaled by; auto: from the largest training value"""
    max_megapixels: Annotated[float, Field(gt=0, lt=math.inf), Key(since="0.2", before=256.0)] = 256.0
    """largest image that is decoded, in million pixels; a larger one counts as corrupt"""
    memory_limit_gib: Annotated[float, Field(ge=0), _ASIDE] = 2.0
    """largest size of decoded images, in GiB, to keep in memory"""
    disk_limit_gib: Annotated[float, Field(ge=0), _ASIDE] = 64.0
    """largest size of decoded images, in GiB, to keep in a file; larger data are decoded each time"""
    workers: Annotated[int, Field(ge=0), _ASIDE] = 2
    """number of processes that decode images if these are decoded each time"""

    @model_validator(mode="after")
    def _category_is_read(self) -> Self:
        if self.category is not None and "category" not in self.source:
            raise InputError(
                f"dataset.category={self.category}: this dataset has no categories, as dataset=mvtec and dataset=visa "
                "have; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _group_is_readable(self) -> Self:
        if isinstance(self.group, dict):
            _require_pattern(self.group)
        return self

    @model_validator(mode="after")
    def _one_role_may_be_open(self) -> Self:
        roles = [role for role in ("normal", "anomalous", "reference") if getattr(self, role) is None]
        if len(roles) > 1:
            raise InputError(
                f"only one of dataset.{' and dataset.'.join(roles)} can be null (all remaining classes); "
                f"list the classes of {'the others' if len(roles) > 2 else 'the other'}, such as dataset.reference=[]"
            )
        return self


@_closed
class EvaluationSettings:
    """Thresholds and intervals that are computed beside the metrics."""

    false_alarm_rates: Annotated[Any, _RATES] = None
    """false-alarm rates of the thresholds; null: 0.01 and 0.05, each if there are enough calibration images"""
    confidence: Annotated[float | None, Field(gt=0, lt=1), Key(since="0.2", before=0.95)] = 0.95
    """probability with which confident thresholds keep their rate over calibration sets; null: no such thresholds"""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """confidence level of all intervals"""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """number of bootstrap resamples"""


@_closed
class FinetuningSettings:
    """Options that keep fine-tuning near the initial weights; all off by default."""

    layer_decay: Annotated[float, Field(ge=0, le=1), Key(before=1.0)] = training.Finetuning.layer_decay
    """learning rate of each block as a share of that of the next block; 0: only the last block learns"""
    batch_norm: Annotated[Any, _FLAG, Key(before=True)] = training.Finetuning.batch_norm
    """false: normalise by the pre-trained means and variances"""
    distillation: Annotated[float, Field(ge=0, lt=math.inf), Key(before=0.0)] = training.Finetuning.distillation
    """weight of a loss that keeps embeddings near the embeddings of the initial weights"""
    ema: Annotated[float | None, Field(gt=0, lt=1), Key(before=None)] = training.Finetuning.ema
    """decay of an exponential moving average of the weights, such as 0.99; null for none"""


@_closed
class SelectionSettings:
    """The choice of epochs, settings and scorer by stand-ins for anomalies: reference classes or synthetic defects."""

    candidates: Annotated[list[dict[str, Any]], _CHOICES] = field(default_factory=lambda: [{}])
    """settings to choose among, such as [{optimizer.lr: 1e-4}, {optimizer.lr: 3e-5}]"""
    classes: Annotated[Any, _HELD_OUT] = None
    """reference classes to hold out: names or numbers, a count of classes drawn by the seed, or null for each class"""
    normal_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of the normal images that the selection uses as test images, with reference classes"""
    defects: Annotated[list[str], _DEFECTS, Key(since="0.2", before=[])] = field(default_factory=list)
    """kinds of synthetic defect that stand in: cutpaste, scar, blended_patch, blended_texture; []: reference classes"""
    folds: Annotated[int, Field(ge=2, le=100), Key(since="0.2", before=5)] = 5
    """number of parts of the normal images, each tested on in turn, with synthetic defects"""
    minutes: Annotated[float | None, Field(gt=0, lt=math.inf), Key(since="0.2", before=None)] = None
    """no further candidate is begun that would probably take longer than this in all; null for no limit"""
    sure: Annotated[Any, _FLAG, Key(since="0.2", before=False)] = False
    """whether to train as configured unless stand-ins find another recipe better (paired t-test, 0.05)"""
    scorers: dict[str, Any] = field(default_factory=dict)
    """scorers to choose among beside scorer itself; add one by +scorer@selection.scorers.NAME=CHOICE"""
    apply: Annotated[Any, _FLAG] = True
    """false: log the choice, but train as configured"""

    @model_validator(mode="after")
    def _candidates_differ(self) -> Self:
        twice = [settings for i, settings in enumerate(self.candidates) if settings in self.candidates[:i]]
        if twice:
            raise InputError(f"selection.candidates lists {twice[0]} twice; remove the duplicate")
        return self


@_closed
class StudySettings:
    """Measurements for studies; no result of the run depends on them."""

    epochs: Annotated[Any, _FLAG] = False
    """whether to score the test images after every epoch, into study.csv; for studies, never for a choice"""


@_closed
class SweepSettings:
    """Settings of a whole sweep."""

    name: str | None = None
    """folder of the sweep below multirun (sweep=NAME is the same); null: the time when the sweep began"""
    fail_fast: Annotated[Any, _FLAG] = False
    """whether the first failed run ends the sweep"""


@_closed
class Config:
    """The whole configuration. The settings of a part are those of the class that the part names."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """seed of the split, the order of the images and the initial weights"""
    image_size: Annotated[int | None, Field(ge=1, le=4096), _CHOSEN] = 96
    """height and width of the images that the backbone gets, in pixels; null for the size of its weights"""
    batch_size: Annotated[int, Field(ge=2), _CHOSEN] = 128
    """number of images in a training step"""
    channels_last: Annotated[Any, _FLAG] = True
    """whether tensors have the channels-last memory format, in which convolutions are fastest"""
    whiten: Annotated[Any, _FLAG, Key(before=False, selectable=True)] = False
    """whether embeddings are whitened within the classes after training"""
    test_time_flip: Annotated[Any, _FLAG, Key(since="0.2", before=False, selectable=True)] = False
    """whether each embedding, after training, is the mean over the image and its mirror image"""
    audit: Annotated[Any, _FLAG, Key(since="0.2", identity=False)] = True
    """whether to test if good test images differ from the training images in something trivial, such as their light"""
    compile: Annotated[Any, _SWITCH, _ASIDE] = "auto"
    """whether to train with torch.compile; auto: if it saves more time than it takes"""
    ckpt_path: Annotated[str | None, _ASIDE] = None
    """checkpoint of an interrupted run to continue, such as RUN/checkpoints/last.ckpt"""
    allow_targets: Annotated[list[str], _ASIDE] = field(default_factory=list)
    """further packages that _target_ may name, for parts of your own"""
    paths: Annotated[Paths, _ASIDE] = field(default_factory=Paths)
    dataset: Dataset = field(default_factory=Dataset)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    finetuning: Annotated[FinetuningSettings, _CHOSEN] = field(default_factory=FinetuningSettings)
    selection: Annotated[SelectionSettings | None, Key(before=None)] = None
    """null: no selection; selection=pseudo_anomaly and selection=synthetic add the settings below"""
    study: Annotated[StudySettings, _ASIDE] = field(default_factory=StudySettings)
    sweep: Annotated[SweepSettings, _ASIDE] = field(default_factory=SweepSettings)
    head: Annotated[dict[str, Any], Part(given=("in_features", "num_classes"), ranges=ranges.HEAD), _CHOSEN] = _MISSING
    backbone: Annotated[dict[str, Any], Part(Backbone, ranges=ranges.BACKBONE), _CHOSEN] = _MISSING
    scorer: Annotated[dict[str, Any], Part(ranges=ranges.SCORER)] = _MISSING
    augmentation: Annotated[
        dict[str, Any], Part(may_be_empty=True, ranges=ranges.AUGMENTATION), Key(before={}, selectable=True)
    ] = field(default_factory=dict)
    optimizer: Annotated[dict[str, Any], Part(given=("params",), ranges=ranges.OPTIMIZER), _CHOSEN] = _MISSING
    scheduler: Annotated[dict[str, Any], Part(None, ("optimizer",), True, ranges.SCHEDULER), _CHOSEN] = _MISSING
    trainer: Annotated[
        dict[str, Any], Part(Trainer, ("callbacks", "default_root_dir", "logger"), ranges=ranges.TRAINER), _CHOSEN
    ] = _MISSING
    logger: Annotated[dict[str, Any], Part(None, ("save_dir",), True, ranges.LOGGER), _ASIDE] = _MISSING


# What every training reads of the trainer, with the values of conf/trainer/default.yaml. Without max_epochs Lightning
# would train 1000.
OF_TRAINER = {"max_epochs": 10, "precision": "auto", "accelerator": "auto", "devices": 1, "enable_progress_bar": "auto"}
SETTINGS = dict(settings(Config))
PARTS = {key: setting.part for key, setting in SETTINGS.items() if setting.part}
SELECTABLE = sorted(key for key, setting in SETTINGS.items() if setting.key.selectable)
WITHOUT_IDENTITY = tuple(key for key, setting in SETTINGS.items() if not setting.key.identity)
RANGES = {f"{key}.{name}": rule for key, part in PARTS.items() for name, rule in part.ranges.items()}
LATER = {key: setting.key.before for key, setting in SETTINGS.items() if setting.key.before is not HASHED}


def refusal(error: ValidationError, group: str = "") -> str:
    """Return the first error in a configuration, or in its ``group``, as one line: the key, its rule, and the value."""
    first = error.errors()[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, InputError):
        return str(own)
    key = ".".join(str(item) for item in (*([group] if group else []), *first["loc"]))
    must = SETTINGS[key].must if key in SETTINGS else ""
    if first["type"] == "finite_number":
        must = f"be finite: {must.removeprefix('be ')}"
    given = shown(first["input"])
    return (f"{key} must {must}, got {given}" if must else f"{key}={given}: {first['msg']}") + such_as(key)


def such_as(key: str) -> str:
    """Return the end of a line on a wrong value of ``key``: what to type; empty if no value suits everyone."""
    found = SETTINGS.get(key)
    content = found.default if found and not found.part and found.default is not None else example(key)
    suits = "${" not in str(content) and "{" not in str(content) and content != _MISSING
    return f"; write, for example, {setting(key, content)}" if content is not None and suits else ""
