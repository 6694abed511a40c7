"""Runs and comparisons that were never trained, for the tests of the report."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image

from metrad.metrics import summary
from metrad.runs import Run, read_json, write_json, write_rows

EVIL = "<script>alert(1)</script>"
STATISTICS = {"angle_median": 60, "largest_wrong_cosine": 0.2, "scale": 8.0, "accuracy": 0.5, "loss": 2.0}


@dataclass(frozen=True)
class Compared:
    """What ``write_report`` needs of a comparison."""

    runs: pd.DataFrame
    by: str = "head"
    metric: str = "auroc"
    conditions: list = field(default_factory=lambda: ["dataset"])
    summary: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)
    overall: pd.DataFrame | None = None
    holes: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def finished_run(folder, head="AdaCos", dataset="digits", seed=0, size=(90, 150)):
    """Write the directory of a finished run and return it."""
    run, random = Run(folder), np.random.default_rng([seed, len(head), len(dataset)])
    run.config.parent.mkdir(parents=True)
    settings = {"seed": seed, "head": {"_target_": f"metrad.heads.{head}"}, "dataset": {"name": dataset}}
    OmegaConf.save(OmegaConf.create(settings), run.config)
    anomalous = np.arange(40) >= 20
    scores = random.normal(anomalous * (2 + len(head) / 10), 1)
    roles = np.where(anomalous, "test_anomalous", "test_normal")
    write_rows(
        run.scores,
        [
            {"image": f"{i}{EVIL}", "class": EVIL, "role": role, "score": score, "p_value": 0.5, "nearest": "n"}
            for i, (role, score) in enumerate(zip(roles, scores, strict=True))
        ],
    )
    figures = summary(scores, anomalous)
    intervals = {name: [value - 0.1, value] for name, value in figures.items()}
    alarms = {"test_false_alarm_rate": 0.1, "test_false_alarm_interval": [0.0, 0.2]}
    found = {"test_detection_rate": 0.8, "test_detection_interval": [0.7, 0.9]}
    metrics = {
        **figures,
        "intervals": {"level": 0.95, "auroc_delong": intervals["auroc"], "bootstrap": intervals},
        "thresholds": [{"false_alarm_rate": 0.05, "threshold": 1.5, **alarms, **found}],
        "seconds": {"train": 2.0 + seed, "total": 3.0 + seed},
    }
    write_json(run.metrics, metrics)
    write_json(run.environment, {"device": "cpu", "packages": {"torch": "2.0"}})
    run.logs.mkdir()
    write_rows(run.logs / "metrics.csv", [{"epoch": epoch, **STATISTICS} for epoch in range(3)])
    for name in ("neighbours", "hardest"):
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(run.pictures[name])
    run.log.write_text("done")
    write_json(run.status, {"state": "finished"})
    return run


def compared(folder, heads=("AdaCos", "ArcFace"), datasets=("digits", "fmnist"), seeds=(0, 1, 2)):
    """Return a comparison of finished runs below ``folder``, and of one that failed."""
    rows = []
    for dataset in datasets:
        for head in heads:
            for seed in seeds:
                run = finished_run(folder / f"{head}-{dataset}-{seed}", head, dataset, seed)
                rows.append(_row(run, head, dataset, seed))
    failed = Run(folder / "failed")
    failed.path.mkdir()
    failed.log.write_text("failed")
    write_json(failed.status, {"state": "failed", "error": EVIL})
    own = {"head": EVIL, "dataset": "digits", "seed": 9}
    rows.append({"folder": str(failed.path), "run": "failed", "state": "failed", "error": EVIL, **own})
    runs = pd.DataFrame(rows)
    groups = runs[runs["auroc"].notna()].groupby(["dataset", "head"], sort=False)["auroc"]
    table = groups.agg(runs="count", mean="mean", median="median", std="std", low="min", high="max").reset_index()
    table.insert(3, "unfinished", 0)
    two = {"dataset": "digits", "head": heads[0], "against": heads[-1], "pairs": len(seeds), "difference": 0.01}
    two |= {"low": -0.01, "high": 0.02, "p": 0.25, "p_holm": 0.5, "effect": 0.4, "wins": 2, "ties": 0, "losses": 1}
    pairs = pd.DataFrame([two | {"detectable": float("inf")}])
    overall = pd.DataFrame({"head": list(heads), "mean_rank": np.arange(len(heads)) + 1.0})
    return Compared(runs, summary=table, pairs=pairs, overall=overall, holes=[f"no run {EVIL}"], notes=[f"note {EVIL}"])


def _row(run, head, dataset, seed):
    metrics = read_json(run.metrics)
    figures = {name: metrics[name] for name in ("auroc", "average_precision", "fpr_at_95_tpr", "partial_auroc")}
    place = {"folder": str(run.path), "run": run.path.name, "state": "finished", "error": ""}
    return {**place, "head": head, "dataset": dataset, "seed": seed, **figures, "seconds": metrics["seconds"]["total"]}
