"""Run directories: those of trained runs are read, those of reports and comparisons are made up."""

import csv
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from metrad.evaluation.metrics import by_name, summary
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
    measured = summary(scores, anomalous)
    intervals = {name: [max(0.0, value - 0.1), value] for name, value in measured.items()}
    alarms = {"test_false_alarm_rate": 0.1, "test_false_alarm_interval": [0.0, 0.2]}
    found = {"test_detection_rate": 0.8, "test_detection_interval": [0.7, 0.9]}
    metrics = {
        **measured,
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


HEADS = {
    "adacos": {"_target_": "metrad.models.heads.AdaCos"},
    "arcface": {"_target_": "metrad.models.heads.ArcFace", "margin": 0.05},
}


class Sweep:
    """A folder of fake runs."""

    def __init__(self, path):
        self.path = path

    def add(self, overrides, auroc=None, *, state="finished", config=None, metrics=None, error=None):
        """Add a run as ``train.py -m`` leaves it: ``overrides`` on the command line, the rest by default."""
        settings = dict(item.split("=", 1) for item in overrides)
        head, dataset, seed = settings.get("head", "adacos"), settings.get("dataset", "digits"), settings["seed"]
        run = Run(self.path / "-".join(settings.values()).replace("/", "_"))
        run.overrides.parent.mkdir(parents=True)
        cfg = OmegaConf.create(
            {
                "seed": int(seed),
                "head": HEADS.get(head, {"_target_": head}),
                "dataset": {"source": {"_target_": dataset}, "normal": ["7"], "workers": 2},
                "trainer": {"max_epochs": 10, "devices": 1},
                "paths": {"data": "${oc.env:NOWHERE_SET}"},
                "scheduler": {},
            }
        )
        for key, value in {**settings, **(config or {})}.items():
            if "." in key:
                OmegaConf.update(cfg, key, OmegaConf.create(f"x: {value}").x if isinstance(value, str) else value)
        OmegaConf.save(cfg, run.config)
        OmegaConf.save(OmegaConf.create(overrides), run.overrides)
        choices = {"head": head, "dataset": dataset, "hydra/launcher": "basic"}
        OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, run.config.with_name("hydra.yaml"))
        write_json(run.status, {"state": state} | ({"error": error} if error else {}))
        if state == "finished":
            measured = {name: auroc if each.higher_is_better else 1 - auroc for name, each in by_name().items()}
            more = {"sizes": {"normal": 9}, "split": f"{dataset}{seed}", "seconds": {"total": 3.0}}
            write_json(run.metrics, {**measured, **more, **(metrics or {})})
        return run

    def fill(self, heads, datasets=("digits",), seeds=6):
        generator = np.random.default_rng(0)
        for i, head in enumerate(heads):
            for dataset in datasets:
                for seed in range(seeds):
                    auroc = round(0.8 + 0.02 * i + float(generator.uniform(0, 0.01)), 6)
                    self.add([f"head={head}", f"dataset={dataset}", f"seed={seed}"], auroc)
        return self


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def runs_of(folder: Path) -> dict[str, Run]:
    return {path.parent.name: Run(path.parent) for path in sorted(folder.glob("*/status.json"))}


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
