"""The schema of the configuration: its keys, their types, and what they are where no YAML says."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from metrad.training.finetuning import Finetuning


@dataclass
class Sizes:
    """Images a role: a count, a fraction in 0 to 1, or null for all that are left."""

    reference: int | float | None = None
    normal: int | float | None = None
    calibration: int | float | None = 0.1
    test_normal: int | float | None = None
    test_anomalous: int | float | None = None


@dataclass
class Dataset:
    """A source, its roles, and how its images are kept."""

    source: dict[str, Any] = MISSING
    normal: Any = MISSING
    anomalous: Any = MISSING
    reference: Any = None
    sizes: Sizes = field(default_factory=Sizes)
    test_share: float = 0.2
    rotations: bool = False
    on_corrupt: str = "error"
    memory_limit_gib: float = 2.0
    disk_limit_gib: float = 64.0
    workers: int = 2


@dataclass
class Evaluation:
    """What is measured beside the figures."""

    false_alarm_rates: Any = None
    level: float = 0.95
    resamples: int = 2000


@dataclass
class Study:
    """What is measured beside a run for studies; nothing of the run depends on it."""

    epochs: bool = False


@dataclass
class Selection:
    """How epochs, settings and scorer are chosen on reference classes that stand in for anomalous ones."""

    candidates: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    classes: Any = None
    normal_share: float = 0.2
    scorers: dict[str, Any] = field(default_factory=dict)
    apply: bool = True


@dataclass
class Sweep:
    """What holds for all runs of a sweep."""

    name: str | None = None
    fail_fast: bool = False


@dataclass
class Paths:
    """Folders outside the run."""

    data: str = MISSING


@dataclass
class Config:
    """The whole configuration; the parts are open, since their settings are those of the class they name."""

    seed: int = 0
    image_size: int | None = 96
    batch_size: int = 128
    channels_last: bool = True
    whiten: bool = False
    test_time_flip: bool = False
    compile: Any = "auto"
    ckpt_path: str | None = None
    allow_targets: list[str] = field(default_factory=list)
    paths: Paths = field(default_factory=Paths)
    dataset: Dataset = field(default_factory=Dataset)
    evaluation: Evaluation = field(default_factory=Evaluation)
    finetuning: Finetuning = field(default_factory=Finetuning)
    selection: Selection | None = None
    study: Study = field(default_factory=Study)
    sweep: Sweep = field(default_factory=Sweep)
    head: dict[str, Any] = MISSING
    backbone: dict[str, Any] = MISSING
    scorer: dict[str, Any] = MISSING
    augmentation: dict[str, Any] = field(default_factory=dict)  # configurations of before there were any lack it
    optimizer: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
