"""The facts at the head of a run's report: what was trained on which images, and how they were scored."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metrad.reports.cells import flat
from metrad.reports.comparison.input import FROZEN, choices_of
from metrad.runs.config.stored import followed
from metrad.runs.directory import Run

NAMED = 10  # largest number of classes of a role that are named
TRAINED, TESTED = ("reference", "normal", "calibration"), ("test_normal", "test_anomalous")


def head_of(cfg: DictConfig) -> str:
    """Return the class name of a run's head; ``frozen`` if the run did not train, so that no head was used."""
    if OmegaConf.select(cfg, "trainer.max_epochs") == 0:
        return FROZEN
    return str(OmegaConf.select(cfg, "head._target_") or "head").rpartition(".")[2]


def facts_of(run: Run, cfg: DictConfig, metrics: Mapping[str, Any]) -> list[str]:
    """Return lines on the dataset of ``run``, its classes, its numbers of images and groups, its backbone and scorer.

    Raises:
        InputError: a file of the run cannot be read.
    """
    choices = choices_of(run)
    return [
        *_dataset(run, cfg, choices),
        *_counts(metrics.get("sizes")),
        *_counts(metrics.get("groups"), "groups"),
        *_part("backbone", cfg, choices),
        *_part("scorer", cfg, choices),
    ]


def _dataset(run: Run, cfg: DictConfig, choices: Mapping[str, str]) -> Iterator[str]:
    classes = run.saved_split()["classes"] if run.has(run.split) else followed(cfg, "dataset")
    roles = {role: classes.get(role) for role in ("normal", "anomalous", "reference")}
    named = [f"{role} {_listed(names)}" for role, names in roles.items() if isinstance(names, list) and names]
    source = followed(cfg, "dataset.source")
    place = source.get("path") or source.get("root")
    said = [choices.get("dataset"), source.get("category"), f"({place})" if place else None]
    name = " ".join(["dataset", *(str(word) for word in said if word and "${" not in str(word))])
    yield f"{name}: {'; '.join(named)}" if named else name


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


def _counts(sizes: Any, counted: str = "images") -> Iterator[str]:
    """Yield the numbers of images of each role, or of their groups."""
    if not isinstance(sizes, dict):
        return
    trained, tested = (
        ", ".join(f"{sizes[role]:,} {role.removeprefix('test_')}" for role in roles if isinstance(sizes.get(role), int))
        for roles in (TRAINED, TESTED)
    )
    yield f"{counted}: {trained}; tested on {tested}"


def _part(group: str, cfg: DictConfig, choices: Mapping[str, str]) -> Iterator[str]:
    """Yield the choice from ``group`` with its settings."""
    settings = followed(cfg, group)
    target = str(settings.pop("_target_", "")).rpartition(".")[2]
    listed = ", ".join(f"{key} {value}" for key, value in flat(settings).items() if key and value not in ("null", "{}"))
    name = choices.get(group, "") or target
    if name:
        yield f"{group} {name}" + (f": {listed}" if listed else "")
