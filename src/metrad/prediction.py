"""Jobs on a finished run: everything starts from its directory and its saved configuration."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metrad import config
from metrad.assembly import build_data, build_embedder, build_scorer, log_images
from metrad.catalogue import choices, folder, suggestion
from metrad.errors import InputError
from metrad.evaluation import evaluate
from metrad.names import folder_name
from metrad.reporting import load_weights, save_evaluation
from metrad.runs import Run, replacing

log = logging.getLogger(__name__)

CHANGEABLE = (
    *("scorer", "paths", "dataset.source.root", "dataset.workers", "dataset.memory_limit_gib", "allow_targets"),
)


def evaluate_run(path: str | Path, overrides: list[str], name: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Score a finished run again, on the images of its own split, and write the results beside the old ones.

    Args:
        path: the run's directory.
        overrides: ``key=value`` with keys below ``CHANGEABLE``, or ``scorer=NAME`` for another scorer.
        name: of the folder below ``evaluations``; None for one made of the overrides.

    Returns:
        The folder written and what its ``metrics.json`` holds.

    Raises:
        InputError: no finished run, an override that cannot be made, or data that has changed.
    """
    run = Run.finished(path)
    saved = run.load_config()
    if "backbone" not in saved:
        raise InputError(f"{run.config} holds no configuration of a run")
    # The run's own weights are loaded below; what may be imported is not for a directory from elsewhere to say.
    saved.merge_with({"ckpt_path": None, "allow_targets": []})
    if "weights" in saved.backbone:
        saved.backbone.weights = None
    cfg = override(saved, overrides)
    config.check(cfg)
    target = _free_folder(run, overrides, name)
    scorer = build_scorer(cfg)
    embedder = build_embedder(cfg)
    load_weights(run, embedder)
    data = build_data(cfg, embedder.size)
    data.load()
    data.restore_split(run.saved_split())
    log_images(data)
    scorer.check_size(len(data.split.indices["normal"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = evaluate(embedder, scorer, data, device=device)
    with replacing(target) as partial:
        partial.mkdir(parents=True)
        OmegaConf.save(cfg, partial / "config.yaml")
        metrics = save_evaluation(Run(partial), result, data, training={}, seconds=result.seconds, images_per_second={})
    return target, metrics


def override(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Return ``cfg`` with ``overrides`` made; a mistyped key is an error, never a new key.

    Raises:
        InputError: a key is unknown or cannot change after training.
    """
    OmegaConf.set_struct(cfg, True)
    for item in overrides:
        key, equals, value = item.partition("=")
        if key == "paths":
            raise InputError("paths is a group of settings; write paths.data=FOLDER")
        if not equals:
            raise InputError(f"{item} is no override; write key=value")
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE):
            raise InputError(f"{key} cannot change after training; {suggestion(key, list(CHANGEABLE))}")
        if key == "scorer":
            scorers = choices()["scorer"]
            if value not in scorers:
                raise InputError(f"scorer={value} is no choice; {suggestion(value, scorers)}")
            cfg.scorer = OmegaConf.load(folder() / "scorer" / f"{value}.yaml")
            OmegaConf.set_struct(cfg, True)
            continue
        try:
            cfg.merge_with_dotlist([item])
        except YAMLError as error:
            raise InputError(f"{item} cannot be read; a list is written {key}=[a,b]") from error
        except OmegaConfBaseException as error:
            known = [str(name) for name in OmegaConf.select(cfg, key.rpartition(".")[0])]
            raise InputError(f"unknown configuration key {key}; {suggestion(key.rpartition('.')[2], known)}") from error
    return cfg


def _free_folder(run: Run, overrides: list[str], name: str | None) -> Path:
    """Return a folder for new results; never one that is there already."""
    if name is not None:
        target = run.evaluations / name
        if name in ("", ".", "..") or target.parent != run.evaluations or Path(name).is_absolute():
            raise InputError(f"--name must be a plain folder name, got {name!r}")
        if target.exists():
            raise InputError(f"{target} is there already; choose another --name")
        return target
    stem = folder_name(overrides) or "repeated"
    numbered = (run.evaluations / (f"{stem}-{i}" if i > 1 else stem) for i in range(1, 10**6))
    return next(path for path in numbered if not path.exists())
