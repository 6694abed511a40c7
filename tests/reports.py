"""Runs that were never trained, for the tests of the report."""

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from metrad.evaluation.metrics import summary
from metrad.files import write_json, write_rows
from metrad.reports.comparison.compare import compare
from metrad.runs.directory import Run

EVIL = "<script>alert(1)</script>"
STATISTICS = {"angle_median": 60, "largest_wrong_cosine": 0.2, "scale": 8.0, "accuracy": 0.5, "loss": 2.0}


def finished_run(folder, head="AdaCos", dataset="digits", seed=0, size=(90, 150)):
    """Write the directory of a finished run and return it."""
    run, random = Run(folder), np.random.default_rng([seed, len(head), len(dataset)])
    run.config.parent.mkdir(parents=True)
    settings = {"seed": seed, "head": {"_target_": f"metrad.models.heads.{head}"}, "dataset": {"normal": [EVIL]}}
    OmegaConf.save(OmegaConf.create(settings), run.config)
    OmegaConf.save(OmegaConf.create([f"head={head}", f"dataset={dataset}", f"seed={seed}"]), run.overrides)
    choices = {"hydra": {"runtime": {"choices": {"head": head, "dataset": dataset}}}}
    OmegaConf.save(OmegaConf.create(choices), run.config.with_name("hydra.yaml"))
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
    write_rows(run.epochs, [{"epoch": epoch, **STATISTICS} for epoch in (1, 2, 3)])
    for name in ("neighbours", "hardest"):
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(run.pictures[name])
    run.log.write_text("done")
    write_json(run.status, {"state": "finished"})
    return run


def sweep(folder, heads=("AdaCos", EVIL), datasets=("digits", "fmnist"), seeds=(0, 1, 2)):
    """Write the runs of a sweep, one of which failed, and return their comparison."""
    for dataset in datasets:
        for number, head in enumerate(heads):
            for seed in seeds:
                finished_run(folder / f"{number}-{dataset}-{seed}", head, dataset, seed)
    failed = finished_run(folder / "failed", heads[0], datasets[0], 9)
    write_json(failed.status, {"state": "failed", "error": EVIL})
    return compare(folder)
